"""A checksum tells of accidents, not of forgery: what a checkpoint holds is checked before a run goes on from it."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import archgrad as ag
from archgrad.errors import ExportError, OptionError, RunError, SpaceError
from archgrad.export import describe_run
from archgrad.report import write_report
from archgrad.report.read import read_run
from archgrad.runs import load_state, save_state

from .problems import run_retrain, run_search, some_digits

Change = Callable[[dict[str, Any]], object]


def random_of(state: dict[str, Any], **changes: Any) -> None:
    state["ranks"][0]["random"].update(changes)


def first_momentum(state: dict[str, Any]) -> dict[Any, Any]:
    return (state.get("weights_optimizer") or state["learner"]["optimizer"])["state"][0]


def alphas_of(state: dict[str, Any]) -> list[str]:
    return [name.removeprefix("alphas.") for name in state["supernet"] if name.startswith("alphas.")]


def settled_choice(state: dict[str, Any], measured: float) -> dict[str, Any]:
    without = {"elsewhere": measured}
    return {"choice": alphas_of(state)[0], "tuned_epochs": 0, "loss_without": without, "kept": "elsewhere"}


COMMON: dict[str, Change] = {
    "python's state over 32 bits": lambda s: random_of(s, python=(3, (2**70,) * 625, None)),
    "python's state of words": lambda s: random_of(s, python=(3, ("x",) * 625, None)),
    "no state of python": lambda s: random_of(s, python=None),
    "numpy's state of another kind": lambda s: random_of(s, numpy=("MT19937", [10**30] * 624, 1, 0, 0.0)),
    "numpy's position over 64 bits": lambda s: random_of(s, numpy=("MT19937", np.zeros(624, np.uint32), 10**30, 0, 0)),
    "torch's state too short": lambda s: random_of(s, torch=torch.zeros(3, dtype=torch.uint8)),
    "torch's state no tensor": lambda s: random_of(s, torch="x"),
    "no random states": lambda s: s["ranks"][0].pop("random"),
    "an epoch over 64 bits": lambda s: s.update(epoch=10**400),
    "an epoch below zero": lambda s: s.update(epoch=-1),
    "an epoch of a word": lambda s: s.update(epoch="1"),
    "a step with a fraction": lambda s: s.update(step=0.5),
    "a clock of words": lambda s: s["clock"].update(total="late"),
    "a clock over 64 bits": lambda s: s["clock"].update(total=10**400),
    "a clock without end": lambda s: s["clock"].update(epoch=math.inf),
    "a clock of other names": lambda s: s["clock"].update({"__class__": 1}),
    "ranks of another kind": lambda s: s.update(ranks=7),
    "momentum of another shape": lambda s: first_momentum(s).update(momentum_buffer=torch.zeros(3, 4, 5, 6, 7)),
    "momentum of a word": lambda s: first_momentum(s).update(momentum_buffer="x"),
}
OF_SEARCH: dict[str, Change] = {
    "a generator of another kind": lambda s: s.update(generator="x"),
    "a generator too short": lambda s: s.update(generator=torch.zeros(3, dtype=torch.uint8)),
    "weights by number": lambda s: s.update(supernet={1: torch.zeros(1)}),
    "a learning rate of a word": lambda s: s["weights_optimizer"]["param_groups"][0].update(lr="fast"),
    "a learning rate that is not finite": lambda s: s["alphas_optimizer"]["param_groups"][0].update(lr=math.nan),
    "a history of words": lambda s: s.update(history=["x"]),
    "a history over 64 bits": lambda s: s.update(history=[{"epoch": 10**400}]),
    "rows that were pruned by word": lambda s: s.update(kept="x"),
    "rows that the space has not": lambda s: s.update(switched_off={"elsewhere": [0]}),
    "candidates that a row has not": lambda s: s.update(kept={next(iter(alphas_of(s))): [10**400]}),
    "measurements of words": lambda s: s.update(settled=["x"]),
    "measurements that are not finite": lambda s: s.update(settled=[settled_choice(s, math.nan)]),
    "measurements of no candidate": lambda s: s.update(settled=[settled_choice(s, 0.5)]),
    "samples of another kind": lambda s: s.update(samples=[1]),
    "sums of words": lambda s: s["ranks"][0]["meter"].update(sums={"train_loss": "x"}, samples={"train_loss": 1}),
    "sums without samples": lambda s: s["ranks"][0]["meter"].update(sums={"train_loss": 1.0}, samples={}),
}
OF_RETRAIN: dict[str, Change] = {
    "totals of words": lambda s: s["ranks"][0]["totals"].update(loss="x"),
    "a best value of a word": lambda s: s.update(best_value="x"),
    "skipped steps of a word": lambda s: s["learner"].update(skipped_steps="x"),
    "batches of another kind": lambda s: s.update(batches_per_epoch=[1]),
    "no learner": lambda s: s.update(learner=None),
}
CASES = {
    **{f"search: {name}": change for name, change in {**COMMON, **OF_SEARCH}.items()},
    **{f"retrain: {name}": change for name, change in {**COMMON, **OF_RETRAIN}.items()},
}


@pytest.mark.parametrize("case", CASES)
def test_no_forged_state_is_gone_on_from(case: str, runs: Path, tmp_path: Path) -> None:
    command = case.partition(":")[0]
    folder = Path(shutil.copytree(runs / command, tmp_path / "run"))
    state = load_state(folder / "checkpoints" / "last.ckpt")
    CASES[case](state)
    save_state(folder / "checkpoints" / "last.ckpt", state)
    with pytest.raises(RunError, match=r"checkpoint|The run had"):
        (run_search if command == "search" else run_retrain)(folder, resume=True, epochs=1)


NUMBERS = ["1e999", "-1e999", "NaN", "9" * 400, str(2**70), str(-(2**70)), '"x"', "[]", "{}", "[" * 900 + "]" * 900]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_that_overflow_are_read_as_missing_or_refused(number: str, runs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs / "retrain", tmp_path / "run"))
    good = {"classes": '["a", "b"]', "input_shape": "[1, 8, 8]", "mean": "[0]", "std": "[1]"}
    names = ("test_accuracy", "best_epoch", "epochs", "seconds", "parameters", "multiply_adds")

    def write(fields: dict[str, str]) -> None:
        (folder / "summary.json").write_text("{" + ", ".join(f'"{key}": {fields[key]}' for key in fields) + "}")

    for name in good:
        write({**good, name: number})
        try:
            describe_run(folder)
        except (RunError, ExportError) as error:
            assert "summary.json" in str(error)  # noqa: PT017 (some are refused, some are not looked at)
    write({**good, **dict.fromkeys(names, number)})
    (folder / "environment.json").write_text(f'{{"hardware": {{"memory_mb": {number}}}, "seed": {number}}}')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report([folder], out=tmp_path / "out.html")
    assert isinstance(read_run(folder).summary, dict)
    run_retrain(folder, resume=True, epochs=1)  # environment.json is only a record


class Weightless(nn.Module):
    """Choices without a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.choice = ag.LayerChoice({"pool": nn.AvgPool2d(3, 1, 1), "skip": nn.Identity()}, label="choice")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.choice(x).flatten(1)[:, :10]


def test_a_space_without_weights_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"Weightless has no parameter that requires a gradient\. Put a layer"):
        ag.search(Weightless(), some_digits(), epochs=1, batch_size=16, run_dir=tmp_path / "run", quiet=True)
    network = ag.derive(Weightless(), ag.Architecture({"choice": "pool"}))
    with pytest.raises(OptionError, match="no parameters that require a gradient"):
        ag.retrain(network, some_digits(), epochs=1, batch_size=16, run_dir=tmp_path / "run", quiet=True)
    assert list(tmp_path.iterdir()) == []
