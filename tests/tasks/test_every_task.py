"""Each task goes the whole way: searched, derived, retrained, reported, exported, predicted, broken off and resumed."""

from __future__ import annotations

import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import archgrad as ag
from archgrad.export import describe_run, export_onnx, load_retrained, predict_samples
from archgrad.retrain import RetrainResult
from archgrad.retrain.learner import Learner
from archgrad.runs import Interrupted, read_metrics
from archgrad.search import SearchResult, search_run

from .task_problems import PROBLEMS, Problem


class Done(NamedTuple):
    name: str
    problem: Problem
    data: ag.Data
    searched: SearchResult
    trained: RetrainResult
    folder: Path


def search(problem: Problem, folder: Path, **options: Any) -> SearchResult:
    torch.manual_seed(0)
    return ag.search(
        problem.space(), problem.data(), epochs=2, batch_size=16, learning_rate=0.05,
        quiet=True, device="cpu", run_dir=folder, **problem.options, **options,
    )  # fmt: skip


def retrain(problem: Problem, network: nn.Module, folder: Path, **options: Any) -> RetrainResult:
    return ag.retrain(
        network, problem.data(), epochs=4, batch_size=16, learning_rate=0.05, cutout=0, quiet=True, device="cpu",
        run_dir=folder, **problem.options, **options,
    )  # fmt: skip


def derived(problem: Problem, searched: SearchResult) -> nn.Module:
    torch.manual_seed(1)
    return ag.derive(problem.space(), searched)


@pytest.fixture(scope="module", params=PROBLEMS)
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Done:
    problem, folder = PROBLEMS[request.param], tmp_path_factory.mktemp(request.param)
    searched = search(problem, folder / "search")
    trained = retrain(problem, derived(problem, searched), folder / "retrain")
    return Done(request.param, problem, problem.data(), searched, trained, folder)


def test_the_task_is_inferred_and_its_metrics_stand_in_both_runs(done: Done) -> None:
    task = done.trained.task
    assert task is not None
    assert task.name == done.problem.task
    rows = read_metrics(done.folder / "retrain" / "metrics.csv")
    for name in task.metrics:
        assert all(isinstance(row[f"{part}_{name}"], float) for row in rows for part in ("train", "test"))
        assert all(isinstance(done.searched.history[-1][f"{half}_{name}"], float) for half in ("train", "valid"))
    values = [row[f"test_{task.best}"] for row in rows]
    assert values[done.trained.best_epoch or 0] == max(values) == done.trained.best_value  # all are best where highest
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_metrics_and_loss_of_the_test_set_are_those_of_its_outputs(done: Done) -> None:
    task, (inputs, targets) = done.trained.task, (done.data.test.inputs, done.data.test.targets)  # type: ignore[union-attr]
    assert task is not None
    outputs = done.trained.network(inputs).detach()
    by_hand = {
        "regression": lambda: 1 - ((outputs[:, 0] - targets) ** 2).sum() / ((targets - targets.mean()) ** 2).sum(),
        "multilabel": lambda: torch.stack([f1(outputs[:, k] >= 0, targets[:, k] > 0) for k in range(3)]).mean(),
        "windows": lambda: (outputs.argmax(1) == targets).float().mean(),
        "segmentation": lambda: torch.stack([iou(outputs.argmax(1) == k, targets == k) for k in range(3)]).mean(),
        "sequence": lambda: (outputs.argmax(1) == targets)[targets >= 0].float().mean(),
    }
    assert done.trained.test_metrics[task.best] == pytest.approx(float(by_hand[done.name]()), abs=1e-5)
    assert done.trained.test_loss == pytest.approx(float(task.loss(outputs, targets)), rel=1e-5)


def f1(taken: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    return 2 * (taken & true).sum() / (taken.sum() + true.sum())


def iou(taken: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    return (taken & true).sum() / (taken | true).sum()


def test_what_is_exported_predicts_what_the_run_folder_does(done: Done) -> None:
    run, space = done.folder / "retrain", derived(done.problem, done.searched)
    description, file = describe_run(run), done.folder / "model.onnx"
    network = load_retrained(run, space=space)
    options = {name: getattr(description, name) for name in ("classes", "input_shape", "input_dtype", "task")}
    mean_std = {"mean": description.mean, "std": description.std}
    written = export_onnx(network, file, **options, **mean_std)
    assert written.max_difference < 1e-4
    by_run, by_file = (predict_samples(model, done.data, space=own) for model, own in ((run, space), (file, None)))
    assert len(by_run) == len(by_file) == 24
    for one, other in zip(by_run, by_file, strict=True):
        assert one.classes == other.classes
        assert one.values == pytest.approx(other.values, abs=1e-5)
        assert (one.positions is None) == (done.problem.task not in ("segmentation", "sequence"))
        if one.positions is not None and other.positions is not None:
            assert torch.equal(one.positions, other.positions)


def test_the_report_shows_what_the_network_has_learnt(done: Done) -> None:
    page = ag.write_report([done.folder / "search", done.folder / "retrain"], out=done.folder / "report.html")
    text = page.read_text(encoding="utf-8")
    expected = {
        "regression": ("Residuals of value", "R²"),
        "windows": ("Confusion matrix", "balanced accuracy"),
        "multilabel": ("Scores of each label", "recall"),
        "segmentation": ("Masks", "overlap (IoU)"),
        "sequence": ("Confusion matrix", "positions right"),
    }
    curve = next(name for name in done.trained.test_metrics if name != "accuracy")  # whose chart all runs have
    for part in (*expected[done.name], f"metric-{curve.replace('_', '-')}"):
        assert part in text
    assert "cannot be read" not in text


def test_a_search_and_a_retraining_that_are_broken_off_go_on_to_the_same_bits(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off_at(monkeypatch, search_run, "search_step", 3)
    with pytest.raises(Interrupted):
        search(done.problem, tmp_path / "search")
    searched = search(done.problem, tmp_path / "search", resume=True)
    assert searched.history == done.searched.history
    broken_off_at(monkeypatch, Learner, "train_step", 7)
    for resume in (False, True):
        with pytest.raises(Interrupted) if not resume else nullcontext():
            retrain(done.problem, derived(done.problem, searched), tmp_path / "retrain", resume=resume)
    for name in ("metrics.csv", "weights/last.safetensors", "predictions.safetensors"):
        assert (tmp_path / "retrain" / name).read_bytes() == (done.folder / "retrain" / name).read_bytes()


def broken_off_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int) -> None:
    real, taken = getattr(owner, name), 0

    def step(*arguments: Any, **named: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, step)


def test_a_function_of_ones_own_gets_the_same_in_search_and_retraining() -> None:
    """Of a regression values of shape (B,), though the network returns (B, 1): compared in all pairs they would lie."""
    problem, shapes = PROBLEMS["regression"], set()

    def off(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        shapes.add((outputs.dim(), targets.dim(), outputs.shape == targets.shape))
        return (outputs - targets).abs().mean()

    given: dict[str, Any] = {"epochs": 1, "batch_size": 16, "quiet": True, "device": "cpu", "metrics": off}
    found = ag.search(problem.space(), problem.data(), **given)
    trained = ag.retrain(ag.derive(problem.space(), found), problem.data(), **given)
    assert shapes == {(1, 1, True)}
    assert {"train_off", "valid_off"} <= found.history[0].keys()
    assert "test_off" in trained.history[0]
