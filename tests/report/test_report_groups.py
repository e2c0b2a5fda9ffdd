"""What is compared is never averaged: retrainings are pooled by where their architectures come from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run_factory
import torch
import yaml

import archgrad as ag
from archgrad.architecture import Architecture
from archgrad.report import write_report
from archgrad.report.charts import format_value, nice_ticks
from archgrad.report.compare import comparison_pictures, group_runs
from archgrad.report.read import read_run
from archgrad.report.sections import run_tiles


def retraining(path: Path, seed: int, *, drawn: int, provenance: dict[str, Any], arch: str | None = None) -> Path:
    """A retraining with `seed` of an architecture that follows from `drawn`."""
    path.mkdir(parents=True)
    config = {"command": "retrain", "data": "digits", "epochs": 2, "seed": seed}
    (path / "config.yaml").write_text(yaml.safe_dump(config | ({"arch": arch} if arch else {})), encoding="utf-8")
    rng = np.random.default_rng(drawn)
    rows = {
        f"{cell}/{s}->{n}": run_factory.softmax(rng.normal(size=8))
        for cell in ("normal", "reduce")
        for s, n in run_factory.PAIRS
    }
    choices = {cell: run_factory.derive(cell, rows) for cell in ("normal", "reduce")}
    Architecture(choices, space="darts-cifar", provenance=provenance).save(path / "architecture.json")
    metrics = [{"epoch": epoch, "test_accuracy": 0.5 + 0.01 * drawn, "test_loss": 1.0} for epoch in range(2)]
    run_factory.write_csv(path / "metrics.csv", metrics)
    return path


def searched(step: str, seed: int, **more: Any) -> dict[str, Any]:
    return {"epoch": 5, "seed": seed, "search": {"step": {"name": step}, "epochs": 6}, **more}


def groups(paths: list[Path]) -> dict[str, tuple[int, ...]]:
    return {group.name: group.indices for group in group_runs([read_run(path) for path in paths])}


def test_searched_by_each_step_and_random_ones_stand_apart(tmp_path: Path) -> None:
    paths = []
    for seed in range(3):
        for step in ("FirstOrder", "Unrolled"):
            own = searched(step, seed)
            paths.append(retraining(tmp_path / f"{step}{seed}", seed, drawn=len(paths), provenance=own))
        own = {"drawn_at_random": True, "seed": seed}
        paths.append(retraining(tmp_path / f"random{seed}", seed, drawn=len(paths), provenance=own))
    found = groups(paths)
    assert sorted(found.values()) == [(0, 3, 6), (1, 4, 7), (2, 5, 8)]
    names = {indices: name for name, indices in found.items()}
    assert names[2, 5, 8] == "architecture=random"
    assert "search.step.name=FirstOrder" in names[0, 3, 6]
    assert "architecture=searched" in names[0, 3, 6]
    text = write_report(paths, out=tmp_path / "all.html").read_text(encoding="utf-8")
    # first order drew 0, 3, 6: 53 %; unrolled 54 %, random 55 %; never the 54 % of all nine
    assert "53.0 ± 3.0 %" in text
    assert "55.0 ± 3.0 %" in text
    assert "mean of 9" not in text


def test_architectures_that_were_retrained_several_times_are_what_is_compared(tmp_path: Path) -> None:
    paths = [
        retraining(tmp_path / f"{search}{seed}", seed, drawn=search, provenance=searched("FirstOrder", search))
        for search in range(2)
        for seed in range(3)
    ]
    found = groups(paths)
    assert sorted(found.values()) == [(0, 1, 2), (3, 4, 5)]
    assert any(name.startswith("architecture.seed=0") for name in found)


def test_searches_that_agree_are_still_repetitions_of_each_other(tmp_path: Path) -> None:
    # Seeds 0 and 1 found the same architecture, each retrained once: nothing was retrained several times.
    paths = [
        retraining(tmp_path / f"{step}{seed}", seed, drawn=max(seed, 1), provenance=searched(step, seed))
        for step in ("FirstOrder", "Unrolled")
        for seed in range(3)
    ]
    drawn_at_random = {"drawn_at_random": True, "seed": 0}
    paths.append(retraining(tmp_path / "random", 0, drawn=7, provenance=drawn_at_random))
    assert groups(paths) == {
        "architecture=searched, search.step.name=FirstOrder": (0, 1, 2),
        "architecture=searched, search.step.name=Unrolled": (3, 4, 5),
        "architecture=random": (6,),
    }


def test_groups_that_differ_in_what_one_has_alone_have_names_of_their_own(tmp_path: Path) -> None:
    plain, perturbed = (
        {"epoch": 5, "seed": 0, "search": {"perturbation": part}} for part in (None, {"name": "uniform"})
    )
    paths = [retraining(tmp_path / str(k), 0, drawn=k, provenance=own) for k, own in enumerate((plain, perturbed))]
    assert groups(paths) == {"retraining": (0,), "search.perturbation.name=uniform": (1,)}


def test_architectures_of_unknown_origin_are_told_by_what_they_are(tmp_path: Path) -> None:
    drawn = (0, 1, 0, 1)
    paths = [retraining(tmp_path / str(k), k, drawn=d, provenance={}) for k, d in enumerate(drawn)]
    assert sorted(groups(paths).values()) == [(0, 2), (1, 3)]


def test_the_search_of_an_older_architecture_is_looked_up_where_it_lies(tmp_path: Path) -> None:
    paths = []
    for seed in range(2):
        for batch in (64, 96):
            search = run_factory.write_search(tmp_path / f"search{batch}-{seed}", epochs=1, planned=1, seed=seed)
            config = yaml.safe_load((search / "config.yaml").read_text(encoding="utf-8")) | {"batch_size": batch}
            (search / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
            arch = str(search / "checkpoints" / "epoch_0.json")
            old = {"epoch": 0, "seed": seed}
            path = tmp_path / f"retrain{batch}-{seed}"
            paths.append(retraining(path, seed, drawn=len(paths), provenance=old, arch=arch))
    assert groups(paths) == {"search.batch_size=64": (0, 2), "search.batch_size=96": (1, 3)}


@pytest.mark.parametrize(
    ("step", "name"), [(ag.bilevel.FirstOrder(), "first-order"), (ag.bilevel.Unrolled(), "unrolled")]
)
def test_a_search_says_in_its_architecture_what_it_was(step: Any, name: str) -> None:
    pair = torch.randn(64, 1, 8, 8), torch.arange(64) % 3
    options: dict[str, Any] = {"step": step, "epochs": 1, "batch_size": 16, "quiet": True}
    one, other = (ag.search(ag.spaces.tiny(4, 3), pair, seed=seed, **options).architecture for seed in (0, 1))
    search = one.provenance["search"]
    assert search == other.provenance["search"]
    assert search["method"]["step"]["name"] == name
    assert search["batch_size"] == 16
    assert "seed" not in search


def figures(page: Path) -> list[str]:
    return re.findall(r'<figure data-picture="([^"]+)"', page.read_text(encoding="utf-8"))


def test_searches_and_retrainings_share_no_axis_and_a_shared_cell_is_drawn_once_each(tmp_path: Path) -> None:
    search = run_factory.write_search(tmp_path / "search", epochs=3, planned=3)
    others = [run_factory.write_retrain(tmp_path / f"retrain{k}", epochs=3, seed=k) for k in range(2)]
    Architecture.load(search / "checkpoints" / "epoch_2.json").save(others[0] / "architecture.json")
    page = write_report([search, *others], out=tmp_path / "page.html")
    shown = figures(page)
    assert "comparison-train-loss-retrain" in shown
    assert not any(name.startswith("comparison-") and not name.endswith("-retrain") for name in shown)
    # two architectures side by side; the search's own section, and that of the retraining of another architecture
    assert shown.count("cell-normal") == 4
    text = page.read_text(encoding="utf-8")
    assert 'The one that is drawn in <a href="#run-1">search</a>.' in text
    assert '<p class="head">search, retrain0</p>' in text


def test_runs_of_a_task_are_compared_by_its_metrics(tmp_path: Path) -> None:
    paths = []
    for seed in (0, 1):
        path = tmp_path / str(seed)
        path.mkdir()
        (path / "config.yaml").write_text("command: search\nepochs: 2\n", encoding="utf-8")
        head = "epoch,train_loss,valid_loss,train_mae,valid_mae,valid_top5_accuracy,layer_cosine"
        rows = [f"{epoch},1,1,2.5,{4 + seed + epoch},0.5,0.1" for epoch in (0, 1)]
        (path / "metrics.csv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
        paths.append(path)
    runs = [read_run(path) for path in paths]
    pictures = {one.title: one for one in comparison_pictures(runs, ["a", "b"], group_runs(runs))}
    assert list(pictures) == [
        "Train loss", "Validation loss", "Train mae", "Validation mae", "Validation top5 accuracy",
    ]  # fmt: skip
    assert "mean of 2: 5.5" in pictures["Validation mae"].wide.name  # of 5 and 6, after the last epoch


def test_a_run_without_paths_to_drop_has_no_curve_of_them(tmp_path: Path) -> None:
    run = run_factory.write_retrain(tmp_path / "run", epochs=3)
    content = (run / "metrics.csv").read_text(encoding="utf-8").splitlines()
    rows = [line.split(",") for line in content]
    rows = [rows[0], *([*row[:2], "0.0", *row[3:]] for row in rows[1:])]
    assert rows[0][2] == "drop_path"
    (run / "metrics.csv").write_text("".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
    shown = figures(write_report([run]))
    assert "drop-path" not in shown
    assert "learning-rate" in shown


def test_the_head_of_a_run_says_what_it_is_made_of(tmp_path: Path) -> None:
    pair = torch.randn(64, 1, 8, 8), torch.arange(64) % 3
    ag.search(ag.spaces.tiny(4, 3), pair, epochs=1, batch_size=16, run_dir=tmp_path / "run", quiet=True)
    tiles = dict(run_tiles(read_run(tmp_path / "run")))
    weights = sum(weight.numel() for weight in ag.Supernet(ag.spaces.tiny(4, 3)).weights.values())
    assert (tiles["space"], tiles["step"], tiles["relaxation"]) == ("tiny", "first-order", "soft-gumbel")
    assert tiles["weights"] == str(weights) or tiles["weights"].endswith("k")
    assert tiles["data"]


@pytest.mark.parametrize(("values", "fewest"), [((0.99998, 0.99999), 2), ((0.9999999, 0.99999991), 1), ((1.0, 1.0), 1)])
def test_the_ticks_of_a_flat_axis_differ(values: tuple[float, float], fewest: int) -> None:
    ticks = nice_ticks(*values)
    texts = [format_value(tick, ticks=ticks) for tick in ticks]
    assert len(set(texts)) == len(texts) > fewest
