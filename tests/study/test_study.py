"""Whole studies, as a person runs them."""

from __future__ import annotations

import csv
import itertools
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from apart import Apart, run_apart
from archgrad.errors import OptionError, RunError
from archgrad.nasbench import OPERATIONS
from archgrad.study import load_study, study
from archgrad.study.kept import from_csv as rows_kept
from archgrad.study.study_tables import from_csv

ALL_CONV = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
RETRAINED = """
methods: [darts]
spaces: [tiny]
data: [{data: digits, train_samples: 128}]
seeds: [5]
search: {epochs: 2, batch_size: 32, device: cpu}
judges: [{name: short, retrain: {epochs: 1, batch_size: 64, device: cpu}}]
random: 2
random_search: {epochs: 1, device: cpu}
"""


def write_table(file: Path) -> None:
    """A table in which each 3x3 convolution is worth ten percent."""
    with open(file, "w", encoding="utf-8", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(["index", "arch", "accuracy", "other"])
        for index, (a, b, c, d, e, f) in enumerate(itertools.product(OPERATIONS, repeat=6)):
            arch = f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"
            writer.writerow([index, arch, 10 * [a, b, c, d, e, f].count("nor_conv_3x3"), 1.0])


@pytest.mark.slow
def test_a_study_is_killed_resumed_and_judged_by_retraining(tmp_path: Path) -> None:
    file, out = tmp_path / "plan.yaml", tmp_path / "out"
    file.write_text(RETRAINED, encoding="utf-8")
    keep = tmp_path / "kept.csv"
    command = ["-m", "archgrad", "study", str(file), "--out", str(out), "--threads", "1", "--keep", str(keep)]
    first = Apart(command)
    while not list(out.glob("searches/*/*/darts/seed-5/metrics.csv")):
        assert first.poll() is None
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    assert first.wait(120) == 128 + signal.SIGTERM
    begun = {path.parent for path in out.rglob("config.yaml")}
    assert 1 <= len(begun) < 6
    assert {row.method for row in rows_kept(keep.read_text(encoding="utf-8"))} <= {"darts"}

    again = run_apart([*command, "--jobs", "2"])
    assert again.returncode == 0, again.stdout + again.stderr
    results = from_csv((out / "results.csv").read_text(encoding="utf-8"))
    counts = {name: sum(one.method == name for one in results) for name in {one.method for one in results}}
    assert counts == {"darts": 1, "random-search": 1, "random": 2}
    assert all(0 <= one.score <= 100 and one.parameters for one in results)
    assert "most-parameters" in (out / "summary.md").read_text(encoding="utf-8")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Every seed: tiny, digits, short" in page
    whole = study(load_study(file), out, quiet=True)  # nothing is left to do
    assert whole.failed == {}
    assert [one.score for one in whole.results] == pytest.approx([one.score for one in results], rel=1e-5)


@pytest.mark.slow
def test_a_table_judges_every_epoch_and_a_failing_run_is_told(tmp_path: Path) -> None:
    write_table(tmp_path / "table.csv")
    file, out = tmp_path / "plan.yaml", tmp_path / "out"
    file.write_text(
        f"""
methods: [darts, {{name: broken, method: darts, alphas_learning_rate: -1.0}}]
spaces: [{{space: nasbench201, channels: 4, cells: 1}}]
data: [{{data: digits, train_samples: 128}}]
seeds: [0]
search: {{epochs: 2, batch_size: 32, device: cpu}}
judges: [{{table: {tmp_path / "table.csv"}, columns: accuracy}}]
random: 30
architectures: {{all-conv: "{ALL_CONV}"}}
""",
        encoding="utf-8",
    )
    whole = study(file, out, jobs=2, threads=1, quiet=True, keep=tmp_path / "kept.csv")
    assert list(whole.failed) == ["searches/nasbench201/digits/broken/seed-0"]
    assert "alphas_learning_rate" in next(iter(whole.failed.values())) or "learning_rate" in str(whole.failed)
    rows = {row.method: row for row in whole.rows}
    assert set(rows) == {"darts", "all-conv", "random"}
    assert (rows["all-conv"].mean, rows["all-conv"].n) == (60.0, 1)
    assert rows["random"].n == 30
    assert 0 <= rows["random"].worst < rows["random"].mean < rows["random"].best <= 60
    with open(out / "courses.csv", encoding="utf-8") as text:
        courses = list(csv.DictReader(text))
    assert [int(point["epoch"]) for point in courses] == [0, 1]
    assert float(courses[0]["seconds"]) < float(courses[1]["seconds"])
    assert float(courses[1]["score"]) == rows["darts"].mean
    assert "broken" in whole.report.read_text(encoding="utf-8")
    kept = rows_kept((tmp_path / "kept.csv").read_text(encoding="utf-8"))
    assert [row.method for row in kept if row.method != "random"] == [
        "darts", "all-conv", "searches/nasbench201/digits/broken/seed-0",
    ]  # fmt: skip
    assert "learning_rate" in kept[-1].failed
    assert kept[0].course[1] == kept[0].score == rows["darts"].mean
    assert [60 * minutes for minutes in kept[0].course_minutes] == pytest.approx(
        [float(point["seconds"]) for point in courses], rel=1e-4
    )
    assert "torch" in kept[0].versions
    assert "cores" in kept[0].hardware

    # Elsewhere it goes on from what is kept, and has nothing to run.
    plan = replace(load_study(file), methods=load_study(file).methods[:1])
    on = {"jobs": 1, "threads": 1, "quiet": True, "continue_from": tmp_path / "kept.csv"}
    study(plan, tmp_path / "elsewhere", keep=tmp_path / "again.csv", **on)
    assert not (tmp_path / "elsewhere" / "searches").exists()
    assert rows_kept((tmp_path / "again.csv").read_text(encoding="utf-8")) == kept[:-1]
    with pytest.raises(OptionError, match="darts/seed-0 comes from other settings"):
        study(replace(plan, search={**plan.search, "epochs": 3}), tmp_path / "other", **on)


def test_a_plan_that_is_neither_a_study_nor_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="plan must be a Study or the path of a YAML file, but got dict"):
        study({"methods": ["darts"]}, tmp_path)  # type: ignore[arg-type]


def test_a_folder_of_another_study_or_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(RETRAINED, encoding="utf-8")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="no study"):
        study(file, tmp_path / "out", quiet=True)
    (tmp_path / "out" / "letter.txt").unlink()
    (tmp_path / "out" / "study.yaml").write_text("command: study\nrandom: 3\n", encoding="utf-8")
    with pytest.raises(RunError, match="another study"):
        study(file, tmp_path / "out", quiet=True)
