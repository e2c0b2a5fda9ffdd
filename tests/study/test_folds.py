"""Cross-validation: folds of any data, of a table with groups, and a study over them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from archgrad.cli.data import open_data
from archgrad.cli.inherit import inherit
from archgrad.data import Data, TensorSamples, load
from archgrad.data.samples import sample_weights_of, targets_of
from archgrad.data.split import fold_numbers
from archgrad.errors import DataError, OptionError
from archgrad.study import Entry, Judge, Study, load_study
from archgrad.study.jobs import candidates_of, jobs_of
from archgrad.study.settings_hash import settings_hash
from archgrad.study.study_report import write_study_report


@given(st.lists(st.integers(0, 3), min_size=5, max_size=40), st.integers(2, 5), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_folds_are_equal_in_size_and_in_each_class(targets: list[int], folds: int, seed: int) -> None:
    classes = torch.tensor(targets)
    parts = fold_numbers(classes, folds, seed=seed)
    for kept in (torch.ones(len(targets), dtype=torch.bool), *(classes == each for each in range(4))):
        counts = parts[kept].bincount(minlength=folds)
        assert int(counts.max() - counts.min()) <= 1
    assert torch.equal(parts, fold_numbers(classes, folds, seed=seed))


@given(st.lists(st.integers(0, 30), min_size=5, max_size=60).filter(lambda groups: len(set(groups)) > 4))
@settings(max_examples=40, deadline=None)
def test_no_group_is_in_two_folds_and_none_is_empty(groups: list[int]) -> None:
    parts = fold_numbers(torch.arange(len(groups)) % 2, 5, groups=torch.tensor(groups))
    assert set(parts.tolist()) == set(range(5))
    for group in set(groups):
        assert len(parts[torch.tensor(groups) == group].unique()) == 1


def test_each_sample_is_tested_once_and_trained_on_otherwise() -> None:
    x, y = torch.arange(23).float()[:, None], torch.arange(23) % 2
    groups = [number // 3 for number in range(23)]
    data = Data.from_datasets(TensorSamples(x, y, torch.arange(23) + 1), TensorSamples(x + 100, y), groups=groups)
    seen: list[float] = []
    for number in range(1, 5):
        fold = data.fold(number, 4)
        assert isinstance(fold.train, TensorSamples)
        assert isinstance(fold.test, TensorSamples)
        tested = fold.test.inputs[:, 0]
        assert sorted([*tested.tolist(), *fold.train.inputs[:, 0].tolist()]) == list(range(23))
        assert torch.equal(sample_weights_of(fold.test), tested + 1)  # type: ignore[arg-type]
        assert torch.equal(targets_of(fold.test), tested.long() % 2)
        assert fold.groups is not None
        assert not set(fold.groups.tolist()) & set((tested.long() // 3).tolist())
        seen += tested.tolist()
    assert sorted(seen) == list(range(23))
    for wrong in ((0, 4), (5, 4), (1, 1)):
        with pytest.raises(OptionError, match="fold"):
            data.fold(*wrong)
    with pytest.raises(DataError, match="24 folds need as many samples"):
        Data.from_datasets(TensorSamples(x, y)).fold(1, 24)
    with pytest.raises(DataError, match="split by time have no folds"):
        Data.from_datasets(TensorSamples(x, y), times=list(range(23))).fold(1, 2)


def table(folder: Path) -> Path:
    rows = [f"{row % 7},{'ab'[row % 2]}{row // 24},{'ab'[row % 2]},p{row // 4}" for row in range(48)]
    (folder / "table.csv").write_text("\n".join(["size,colour,kind,patient", *rows]))
    return folder / "table.csv"


def test_a_table_knows_the_rows_of_its_training_folds_alone(tmp_path: Path) -> None:
    name = str(table(tmp_path))
    folds = [load(name, target="kind", group="patient", fold=(number, 3)) for number in (1, 2, 3)]
    assert [len(fold.test or ()) for fold in folds] == [16, 16, 16]
    for fold in folds:
        assert fold.train.inputs[:, 0].mean().abs() < 1e-6  # type: ignore[attr-defined]
    values = {"data": name, "target": "kind", "group": "patient", "fold": "2/3", "train_samples": None}
    assert torch.equal(open_data(values).train.inputs, folds[1].train.inputs)  # type: ignore[attr-defined]
    with pytest.raises(OptionError, match="--fold takes the number of a part and of all parts, such as 2/5"):
        open_data({**values, "fold": "2"})
    with pytest.raises(OptionError, match="Give time or fold"):
        load(name, target="kind", time="size", fold=(1, 2))
    with pytest.raises(DataError, match=r"give load\(..., fold=\(number, folds\)\)"):
        load(name, target="kind").fold(1, 2)
    assert len(load("digits", fold=(3, 3)).test or ()) == 1437 // 3


def test_each_seed_of_a_study_searches_and_retrains_on_its_fold(tmp_path: Path) -> None:
    plan = {
        "methods": ["darts"],
        "spaces": [{"name": "mlp", "space": "mlp"}],
        "data": [{"name": "rows", "data": "table.csv", "target": "kind", "group": "patient"}],
        "folds": 2,
        "judges": [{"retrain": {"epochs": 1}}],
        "random": 2,
        "random_search": {"epochs": 1},
    }
    (tmp_path / "folds.yaml").write_text(yaml.safe_dump(plan))
    study = load_study(tmp_path / "folds.yaml")
    assert study.seeds == (0, 1)
    jobs = jobs_of(study, tmp_path)
    assert {job.command for job in jobs} == {"search", "random-search", "retrain"}
    for job in jobs:
        assert job.options["fold"] == f"{job.options['seed'] + 1}/2"
    report = write_study_report(study, [], [], {}, tmp_path)
    assert "deviations are over folds" in report.read_text()


def test_seeds_take_each_fold_as_often() -> None:
    entry = (Entry(name="one", options={}),)
    given = {"methods": entry, "spaces": entry, "data": entry, "judges": (Judge(name="short", retrain={}),)}
    study = Study(**given, folds=3, seeds=(0, 1, 2, 3, 4, 5))  # type: ignore[arg-type]
    assert [study.fold_of(seed)["fold"] for seed in study.seeds] == ["1/3", "2/3", "3/3"] * 2
    with pytest.raises(OptionError, match="seeds must take each of the 3 folds as often"):
        Study(**given, folds=3, seeds=(0, 1, 3))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="A table's scores are of no fold"):
        Study(**{**given, "judges": (Judge(name="looked-up", table="t.csv"),)}, folds=2, seeds=(0, 1))  # type: ignore[arg-type]


def test_a_retraining_takes_the_fold_of_its_search_also_with_data_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("def pair(): ...")
    own = f"{tmp_path / 'data.py'}:pair"
    for data in (own, "digits"):
        run = {"command": "search", "data": data, "space": "mlp", "fold": "2/4"}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(run))
        values = {"arch": str(tmp_path), "resume": None, "config": None, "data": data, "space": "mlp", "fold": None}
        typed = ["--data", data] if data == own else []
        assert "--fold 2/4" in (inherit(values, typed) or "")
        assert values["fold"] == "2/4"
        values["fold"] = "1/4"
        assert "--fold" not in (inherit(values, [*typed, "--fold", "1/4"]) or "")
        assert values["fold"] == "1/4"


def test_scores_over_folds_do_not_go_together_with_others() -> None:
    entry = (Entry(name="one", options={}),)
    given = {"methods": entry, "spaces": entry, "data": entry, "judges": (Judge(name="short", retrain={}),)}
    studies = [Study(**given, folds=folds, seeds=tuple(range(6))) for folds in (None, 2, 3)]  # type: ignore[arg-type]
    candidate = candidates_of(studies[0], Path("out"))[0]
    assert len({settings_hash(study, candidate) for study in studies}) == 3
