"""Devices and memory."""

from __future__ import annotations

import pytest
import torch

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
