"""A study of a regression: its retrainings are judged by the task's metric, in its unit and direction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag
from archgrad.cli.inherit import inherit
from archgrad.options import names_of
from archgrad.report.read import Table
from archgrad.runs.config import read_config, write_config
from archgrad.study import Entry, Judge, Study
from archgrad.study.jobs import candidates_of, jobs_of, retraining_folder
from archgrad.study.judging import Result, judged
from archgrad.study.kept import from_csv as rows_kept
from archgrad.study.kept import kept_of
from archgrad.study.kept import to_csv as kept_csv
from archgrad.study.results_page import section
from archgrad.study.runner import Outcome
from archgrad.study.study_report import write_study_report
from archgrad.study.study_tables import from_csv, to_csv, to_markdown
from archgrad.study.summary import mean_ranks, rows_of
from archgrad.tasks import TaskOptions

SHORT = {"epochs": 1, "batch_size": 16, "device": "cpu"}
PLAN = Study(
    methods=(Entry(name="darts", options={"method": "darts"}),),
    spaces=(Entry(name="net", options={"space": "net.py:Net"}),),
    data=(Entry(name="table", options={"data": "table.npz"}),),
    judges=(Judge(name="short", retrain=SHORT),),
    seeds=(0,),
    search={"metrics": "mae,r2", "loss": "l1"},
    random=2,
    random_search=SHORT,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = ag.LayerChoice({"linear": nn.Linear(3, 1), "other": nn.Linear(3, 1)}, label="layer")

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a study whose two random architectures have been retrained."""
    path = tmp_path_factory.mktemp("study")
    x = torch.randn(48, 3, generator=torch.Generator().manual_seed(0))
    data = ag.data.Data.from_datasets(*(ag.data.TensorSamples(part, 50 * part.sum(1)) for part in (x[:32], x[32:])))
    for job, name in zip(
        (job for job in jobs_of(PLAN, path) if "random" in job.typed), ("linear", "other"), strict=True
    ):
        architecture = ag.Architecture({"layer": name})
        torch.manual_seed(0)
        told = {key: value for key, value in job.options.items() if key not in ("space", "data")}
        ag.retrain(
            ag.derive(Net(), architecture), data, architecture=architecture, run_dir=job.folder, quiet=True, **told
        )  # fmt: skip
    return path


def measured(scores: Mapping[str, tuple[float, ...]], **changed: object) -> list[Result]:
    one = Result(
        space="net", data="table", judge="short mae", metric="mae", unit="", best_is="lowest", method="", seed=0,
        score=0.0, search_seconds=60.0, selection_seconds=None, train_seconds=None, parameters=None,
        multiply_adds=None, choices="{}",
    )  # fmt: skip
    return [
        replace(one, method=method, seed=seed, score=score, **changed)
        for method, own in scores.items()
        for seed, score in enumerate(own)
    ]


SCORES = measured({"poor": (140.0, 160.0), "good": (0.5, 1.5), "random": (150.0, 250.0)})


def test_what_is_learnt_goes_to_every_run_of_a_study(tmp_path: Path) -> None:
    for job in jobs_of(PLAN, tmp_path):
        assert (job.options["metrics"], job.options["loss"]) == ("mae,r2", "l1"), job.name


def test_retrainings_are_judged_by_the_metric_that_best_goes_by(folder: Path) -> None:
    results, points, _ = judged(PLAN, candidates_of(PLAN, folder), folder, {})
    assert points == []
    assert {(one.judge, one.metric, one.unit, one.best_is, one.method) for one in results} == {
        ("short mae", "mae", "", "lowest", "random")
    }
    for one, candidate in zip(results, candidates_of(PLAN, folder)[-2:], strict=True):
        rows = (retraining_folder(folder, PLAN.judges[0], candidate) / "metrics.csv").read_text().splitlines()
        row = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
        assert one.score == pytest.approx(float(row["test_mae"]), rel=1e-5)
        assert one.score > 10  # of targets with a deviation of 87: no percentage


def test_the_lowest_error_is_best_in_rows_ranks_and_tables() -> None:
    rows = {row.method: row for row in rows_of(SCORES)}
    assert (rows["good"].best, rows["good"].worst) == (0.5, 1.5)
    assert (rows["good"].gain, rows["poor"].gain) == (199.0, 50.0)  # how much lower the mean is than 200
    # No percentage, so nothing ends at 0 or 100: the half-width of two scores is 12.706 * sd / sqrt(2).
    assert rows["good"].low == pytest.approx(1 - 6.353, abs=1e-3)
    assert rows["poor"].high == pytest.approx(150 + 127.06, abs=1e-2)
    assert rows["random"].text(rows["random"].gain, sign="+") == "+0"
    ranks = mean_ranks(SCORES)
    assert ranks is not None
    assert ranks.methods == ("good", "poor")
    table = to_markdown(list(rows.values()))
    assert "judged by short mae, lower is better" in table
    assert "| mean mae |" in table
    assert "%" not in table.replace("95 % interval", "")
    order = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")][2:]
    assert order == ["| good", "| poor", "| random"]


def test_scores_of_different_metrics_do_not_mix() -> None:
    other = measured({"good": (0.9, 0.8)}, judge="short r2", metric="r2", best_is="highest")
    rows = rows_of([*SCORES, *other])
    assert [(row.judge, row.method) for row in rows if row.method == "good"] == [
        ("short mae", "good"), ("short r2", "good"),
    ]  # fmt: skip
    assert rows[-1].best == 0.9
    assert math.isnan(rows[-1].gain)


def test_files_and_pages_keep_unit_and_direction(folder: Path, tmp_path: Path) -> None:
    assert from_csv(to_csv(SCORES)) == SCORES
    candidates = candidates_of(PLAN, folder)
    results, points, _ = judged(PLAN, candidates, folder, {})
    outcomes = {"one": Outcome(done=True, seconds=1.0)}
    page = write_study_report(PLAN, results, points, outcomes, tmp_path).read_text(encoding="utf-8")
    assert "mae, lower is better" in page
    assert "accuracy in %" not in page
    kept = kept_of(PLAN, candidates, results, points, outcomes, folder)
    assert all("torch" in row.versions for row in kept)  # of the retraining, whose judge has the metric's name too
    again = rows_kept(kept_csv(kept))
    assert [asdict(row.result.place) for row in again] == [asdict(one.place) for one in results]
    assert "judged by short mae, lower is better" in section("mine", again, images="images").text


def test_a_random_search_learns_what_it_is_told(tmp_path: Path) -> None:
    x = torch.randn(48, 3, generator=torch.Generator().manual_seed(0))
    y = x.sum(1) + 100 * (torch.arange(48) >= 24)
    seen: list[Tensor] = []

    def squares(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.extend([targets] if torch.is_grad_enabled() else [])
        return ((outputs.flatten() - targets) ** 2).mean()

    def searched(name: str, **options: Any) -> tuple[dict[str, Any], Table]:
        found = ag.random_search(
            Net, (x, y), run_dir=tmp_path / name, candidates=2, epochs=1, batch_size=16, seed=1, quiet=True,
            device="cpu", **options,
        )  # fmt: skip
        return read_config(tmp_path / name / "config.yaml"), found.history

    history = searched("drawn", loss=squares, sampling=[1.0] * 24 + [0.0] * 24)[1]
    assert float(torch.cat(seen).max()) < 50  # no sample of the second half
    assert history.columns["best_valid_loss"][-1] == min(history.columns["valid_loss"])  # of a loss the lowest
    kept, history = searched("named", loss="l1", metrics="mae")
    assert (kept["loss"], kept["metrics"]) == ("l1", "mae")
    assert history.columns["best_valid_mae"][-1] == min(history.columns["valid_mae"])


def test_metrics_by_name_count_beside_a_loss_of_ones_own() -> None:
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    found = ag.search(
        Net, (x, x.sum(1)), epochs=1, batch_size=16, quiet=True, device="cpu", metrics="mae", loss=F.l1_loss
    )
    assert found.history[-1]["valid_mae"] == pytest.approx(found.history[-1]["valid_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("stored", "taken"),
    [
        ({"metrics": ["mae", "r2"]}, {"metrics": "mae,r2"}),
        ({"metrics": ["my_own"]}, {}),
        ({"class_weights": [1.0, 2.5]}, {"class_weights": "1.0,2.5"}),
        ({"sampling": "12 numbers, hash 0"}, {}),
        ({"sampling": "balanced", "loss": "huber"}, {"sampling": "balanced", "loss": "huber"}),
    ],
)
def test_a_retraining_takes_over_what_a_search_in_python_kept(
    tmp_path: Path, stored: dict[str, Any], taken: dict[str, Any]
) -> None:
    write_config(tmp_path / "config.yaml", {"command": "search", "data": "d.npz", **stored})
    values: dict[str, Any] = {"arch": str(tmp_path), "resume": None, "config": None, "data": None, "space": None}
    inherit(values, ["--data", "d.npz"])
    assert {name: value for name, value in values.items() if name in names_of(TaskOptions)} == taken
