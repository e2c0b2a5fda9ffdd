"""The search with recorded passes; a tape stands in for CUDA graphs where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import archgrad as ag
from archgrad.bilevel import graph_cache
from archgrad.errors import OptionError
from archgrad.search import stage_builder
from tape import TapeRecorder
from toys import TabularSpace, same_state

DATA = (torch.randn(44, 4, generator=torch.Generator().manual_seed(0)), torch.arange(44) % 3)


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        wide = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.2))
        self.choice = ag.LayerChoice([wide, nn.Conv2d(3, 4, 3)], label="c")
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.choice(x).mean((2, 3)))


def test_without_cuda_it_is_an_error_and_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cuda_graphs needs a CUDA device, but the supernet is on 'cpu'"):
        ag.search(TabularSpace(), DATA, device="cpu", cuda_graphs=True, run_dir=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("step", [ag.bilevel.FirstOrder(), ag.bilevel.Unrolled()], ids=["first-order", "unrolled"])
def test_a_search_with_recorded_passes_gives_what_one_without_gives(step, monkeypatch, capsys, tmp_path) -> None:
    recorder = TapeRecorder()
    monkeypatch.setattr(graph_cache, "CudaRecorder", lambda device: recorder)
    monkeypatch.setattr(graph_cache, "check_recordable", lambda *_: None)
    monkeypatch.setattr(stage_builder, "check_recordable", lambda *_: None)
    data = (torch.randn(44, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(44) % 2)
    found = []
    for recording in (False, True):
        torch.manual_seed(0)
        space = Images()
        options = {"epochs": 3, "batch_size": 8, "device": "cpu", "fast": False, "cuda_graphs": recording}
        found.append(ag.search(space, data, step=step, run_dir=tmp_path / str(recording), **options))
    plain, recorded = found
    assert same_state(recorded.supernet, plain.supernet.state_dict())
    assert recorded.history == plain.history
    kinds = 2 if isinstance(step, ag.bilevel.FirstOrder) else 4
    assert recorder.recorded == 2 * kinds  # the last batch of an epoch is smaller
    assert capsys.readouterr().err.count("Warming up: the pass for") == 2 * kinds


def test_recorded_passes_follow_the_stages_and_their_rates_of_dropout(monkeypatch) -> None:
    recorder = TapeRecorder()
    monkeypatch.setattr(graph_cache, "CudaRecorder", lambda device: recorder)
    monkeypatch.setattr(graph_cache, "check_recordable", lambda *_: None)
    monkeypatch.setattr(stage_builder, "check_recordable", lambda *_: None)
    method = ag.Method(
        stages=(
            ag.Stage(epochs=2, space={"width": 4}, skip_dropout=0.3),
            ag.Stage(epochs=3, keep=2, space={"width": 6}, skip_dropout=0.6),
        )
    )
    options = {"method": method, "batch_size": 8, "device": "cpu", "fast": False, "quiet": True}
    plain, recorded = (ag.search(TabularSpace, DATA, cuda_graphs=recording, **options) for recording in (False, True))
    assert same_state(recorded.supernet, plain.supernet.state_dict())
    assert recorded.history == plain.history
    assert recorder.recorded == 2 * 2 * 2  # by stage, owner and size of batch


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_search_on_cuda_is_recorded_and_goes_on_from_its_checkpoint(precision, tmp_path: Path, capsys) -> None:
    data = (torch.randn(64, 3, 8, 8), torch.arange(64) % 10)
    options = {"batch_size": 8, "device": "cuda", "precision": precision, "run_dir": tmp_path / "run"}
    ag.search(ag.spaces.darts_cifar(4, 3), data, epochs=2, cuda_graphs=True, **options)
    said = capsys.readouterr().err
    assert "Recorded the pass for alphas" in said
    assert "Cannot record" not in said
    result = ag.search(ag.spaces.darts_cifar(4, 3), data, epochs=2, resume=True, **options)
    assert len(result.history) == 2
