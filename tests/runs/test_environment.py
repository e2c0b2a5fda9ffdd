"""Devices and memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import archgrad as ag
from archgrad.engine import opening
from archgrad.errors import OptionError
from archgrad.runs import peak_memory_mb, pick_device


def test_auto_takes_what_there_is() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "toaster"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(OptionError, match=f"device='{name}'"):
        pick_device(name)


def test_peak_memory_is_at_least_what_was_taken() -> None:
    before = peak_memory_mb(torch.device("cpu"))
    block = torch.ones(2**28, dtype=torch.uint8)
    after = peak_memory_mb(torch.device("cpu"))
    assert before is not None
    assert after is not None
    assert before <= after
    assert after > 256
    assert block.all()


@pytest.mark.parametrize(("platform", "said"), [("linux", True), ("darwin", False)])
def test_a_run_without_compiled_kernels_says_so_where_they_could_be(
    platform: str, said: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(opening, "why_missing", lambda: "were not built")
    monkeypatch.setattr(opening.sys, "platform", platform)
    net = nn.Sequential(ag.LayerChoice([nn.Linear(2, 2), nn.Identity()], label="first"))
    ag.search(net, (torch.randn(8, 2), torch.arange(8) % 2), epochs=1, batch_size=4, device="cpu")
    told = capsys.readouterr()
    assert ("The compiled kernels were not built, so that cells take longer" in told.out + told.err) == said
