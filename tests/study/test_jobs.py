"""The commands that a study is made of."""

from __future__ import annotations

from pathlib import Path

from archgrad.study import Entry, Judge, Study
from archgrad.study.jobs import jobs_of


def test_code_of_ones_own_is_typed_and_its_options_are_handed_on(tmp_path: Path) -> None:
    study = Study(
        methods=(Entry(name="darts", options={"method": "darts"}),),
        spaces=(Entry(name="mine", options={"space": "net.py:Net", "channels": 4, "space_options": {"depth": 2}}),),
        data=(Entry(name="own", options={"data": "net.py:data", "data_options": {"count": 8}, "train_samples": 6}),),
        judges=(Judge(name="short", retrain={"epochs": 1}),),
        seeds=(3,),
        random=2,
        random_search={"epochs": 1},
    )
    jobs = {job.name: job for job in jobs_of(study, tmp_path)}
    assert len(jobs) == 2 + 4
    for job in jobs.values():
        arguments = job.arguments()
        assert arguments[-4:] == ["--data", "net.py:data", "--space", "net.py:Net"]
        assert arguments[arguments.index("--resume") + 1] == "auto"
        assert job.options["data_options"] == {"count": 8}
        assert job.options["space_options"] == {"depth": 2}
    search, random = jobs["searches/mine/own/darts/seed-3"], jobs["searches/mine/own/random-search/seed-3"]
    assert random.typed == ("--cost-of", str(search.folder))
    assert random.after == search.name
    assert (random.options["channels"], random.options["train_samples"]) == (4, 6)
    retraining = jobs["retrainings/short/mine/own/darts/seed-3"]
    assert "channels" not in retraining.options  # those of a search are too few for what is judged
    assert "train_samples" not in retraining.options
    assert retraining.typed == ("--arch", str(search.folder))
