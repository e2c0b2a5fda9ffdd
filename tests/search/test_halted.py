"""An interruption where the process lives on keeps what there is: history, supernet and network, after a whole step."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archgrad as ag
from apart import run_apart

STEPS = 4  # an epoch


def space() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(ag.LayerChoice({"linear": nn.Linear(4, 2), "deep": nn.Sequential(nn.Linear(4, 2))}, label="a"))


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long()


def interrupting(*, call: int) -> Callable[..., torch.Tensor]:
    calls = 0

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += torch.is_grad_enabled()  # not the look before the first step
        if calls == call:
            signal.raise_signal(signal.SIGINT)
        return F.cross_entropy(outputs, targets)

    return loss


def searched(loss: Any = F.cross_entropy, **options: Any) -> ag.SearchResult:
    return ag.search(space(), pair(), epochs=3, batch_size=4, quiet=True, device="cpu", loss=loss, **options)


def test_a_search_without_a_folder_finishes_its_step_and_gives_its_result() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        searched(interrupting(call=2 * STEPS + 2))  # the alphas' or weights' pass of an early step of epoch 2
    assert isinstance(caught.value, ag.Halted)
    result = caught.value.result
    whole = searched()
    assert result.history == whole.history[: len(result.history)]
    assert len(result.history) == 1
    assert set(result.architecture.choices) == {"a"}
    assert all(torch.isfinite(alpha).all() for alpha in result.supernet.alphas.values())
    assert "1 epoch" in repr(result)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_retraining_without_a_folder_keeps_its_network() -> None:
    network = nn.Sequential(nn.Linear(4, 2))
    beats = 0

    def beat(module: nn.Module, args: Any) -> None:
        nonlocal beats
        beats += 1
        if beats == 15:
            signal.raise_signal(signal.SIGINT)

    network.register_forward_pre_hook(beat)
    with pytest.raises(ag.Halted) as caught:
        ag.retrain(network, pair(), epochs=30, batch_size=4, quiet=True, device="cpu", drop_path=0.0)
    assert caught.value.result.network is network
    assert 1 <= len(caught.value.result.history) < 30


def test_an_interrupted_run_with_a_folder_has_its_result_as_well(tmp_path: Path) -> None:
    with pytest.raises(ag.Interrupted) as caught:
        searched(interrupting(call=2 * STEPS + 2), run_dir=tmp_path / "run")
    assert len(caught.value.result.history) == 1


NOTEBOOK = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
sys.path.insert(0, {folder!r})
shell.run_cell("from test_halted import *")
shell.run_cell("result = searched(interrupting(call=10), run_dir={run!r})")
shell.run_cell("import sys; print('kept', len(sys.last_value.result.history))")
shell.run_cell("print('epochs', len(searched(run_dir={run!r}, resume=True).history))")
"""


def test_ipython_keeps_the_result_and_gives_no_advice_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("IPython")
    code = NOTEBOOK.format(folder=str(Path(__file__).parent), run=str(tmp_path / "run"))
    done = run_apart(["-c", code])
    said = done.stdout + done.stderr
    assert "kept 1" in said, said
    assert "epochs 3" in said, said
    assert "To exit" not in said
