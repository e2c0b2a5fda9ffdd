"""What a module keeps in its buffers is a run's state, whether or not it is in the state dict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.buffers import all_buffers, copied_buffers, set_buffers
from archgrad.runs import load_state, save_state

from .problems import PROBLEMS, Drifting, results, run_retrain, run_search, some_digits


class Stopped(BaseException):
    """Ends a run as nothing in it expects."""


def stop_after(steps: int, patch: pytest.MonkeyPatch) -> None:
    """Let the run end after so many training steps of a `Drifting` network, right before the next."""
    real, calls = Drifting.forward, 0

    def forward(self: Any, x: Tensor) -> Tensor:
        nonlocal calls
        calls += self.training
        if calls > steps:
            raise Stopped
        return real(self, x)

    patch.setattr(Drifting, "forward", forward)


@pytest.mark.parametrize("name", PROBLEMS)
def test_buffers_outside_the_state_dict_go_on_where_they_were(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = PROBLEMS[name]
    with monkeypatch.context() as patch:
        # A first-order step of a search passes through the network twice, one of `Unrolled` five times.
        stop_after({"search": 16, "retrain": 2, "trainer": 5, "selection": 16}[name], patch)
        with pytest.raises(Stopped):
            problem.run(tmp_path / "run", resume=False, checkpoint_steps=1)
    stored = load_state(tmp_path / "run" / "checkpoints" / "last.ckpt")["ranks"][0]["buffers"]
    assert any(name.endswith("drift") and float(value) > 0 for name, value in stored.items())
    problem.run(tmp_path / "run", resume=True)
    problem.run(tmp_path / "whole", resume=False)
    assert results(problem, tmp_path / "run") == results(problem, tmp_path / "whole")


def without_buffers(checkpoint: Path) -> None:
    """Make a checkpoint what earlier versions wrote."""
    state = load_state(checkpoint)
    for part in state["ranks"]:
        del part["buffers"]
    save_state(checkpoint, state)


@pytest.mark.parametrize(
    ("run", "named", "passes"), [(run_search, "network.drift", 16), (PROBLEMS["retrain"].run, "drift", 4)]
)
def test_a_checkpoint_of_an_earlier_version_is_gone_on_with_and_says_what_it_lacks(
    run: Callable[..., Any], named: str, passes: int, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(passes, patch)
        with pytest.raises(Stopped):
            run(tmp_path / "run", resume=False, checkpoint_steps=1)
    without_buffers(tmp_path / "run" / "checkpoints" / "last.ckpt")
    with pytest.warns(UserWarning, match=rf"earlier archgrad, which did not keep the buffers.*'{named}'"):
        run(tmp_path / "run", resume=True)


def test_a_checkpoint_of_an_earlier_version_without_such_buffers_is_read_in_silence(tmp_path: Path) -> None:
    run_retrain(tmp_path, resume=False, epochs=2)
    without_buffers(tmp_path / "checkpoints" / "last.ckpt")
    run_retrain(tmp_path, resume=True, epochs=2)  # a warning would be an error here


class Graph(nn.Module):
    """A network with a buffer that no checkpoint can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.register_buffer("edges", torch.eye(10).to_sparse(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse.mm(self.edges, self.layer(x.flatten(1)).T).T


def test_a_buffer_that_no_checkpoint_holds_is_named_and_the_run_is_saved(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="dense tensors only, so it is without the buffer 'edges'"):
        ag.retrain(Graph(), some_digits(), epochs=1, run_dir=tmp_path, quiet=True, device="cpu", fast=False)
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.again = self.norm
        self.register_buffer("unset", None)
        self.register_buffer("set", torch.zeros(2), persistent=False)
        self.method = len


def test_buffers_come_back_in_place_where_they_fit_and_as_new_ones_where_not() -> None:
    module = Parts()
    before = copied_buffers(module)
    assert set(before) == {
        *(f"{norm}.{name}" for norm in ("norm", "again") for name, _ in nn.BatchNorm1d(2).named_buffers()),
        "unset", "set",
    }  # fmt: skip
    mean = module.norm.running_mean
    module.norm.running_mean.add_(1)
    module.unset, module.set = torch.ones(3), torch.ones(5)
    set_buffers(module, before, device=torch.device("cpu"))
    assert module.norm.running_mean is mean
    assert module.norm.running_mean.tolist() == [0, 0]
    assert module.unset is None
    assert module.set.tolist() == [0, 0]
    set_buffers(module, {"late": torch.ones(1), "method": torch.ones(1), "gone.x": torch.ones(1)}, device=mean.device)
    assert module.method is len
    assert "late" in all_buffers(module)
    assert "late" not in module.state_dict()
    with pytest.raises(ValueError, match="'late' is no tensor"):
        set_buffers(module, {"late": "text"}, device=mean.device)  # type: ignore[dict-item]
