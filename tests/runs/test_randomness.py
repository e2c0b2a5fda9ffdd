"""Every global generator is seeded, captured and given back."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from archgrad.errors import OptionError
from archgrad.runs import capture_random_state, restore_random_state, seed_everything, seeded


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_the_same_seed_gives_the_same_draws() -> None:
    seed_everything(5)
    first = draw()
    seed_everything(6)
    assert draw() != first
    seed_everything(5)
    assert draw() == first


def test_a_captured_state_gives_the_same_draws() -> None:
    state = capture_random_state()
    first = draw()
    restore_random_state(state)
    assert draw() == first


def test_a_seeded_block_gives_the_callers_states_back_also_after_an_error() -> None:
    seed_everything(1)
    expected = draw()
    seed_everything(1)
    inside = []

    @seeded(9)
    def fail() -> None:
        inside.append(draw())
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert draw() == expected
    seed_everything(9)
    assert [draw()] == inside


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, True, "1"])
def test_a_seed_outside_the_range_is_named(seed: object) -> None:
    with pytest.raises(OptionError, match=f"got seed={seed!r}"):
        seed_everything(seed)  # type: ignore[arg-type]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_states_come_back() -> None:
    torch.rand((), device="cuda")
    state = capture_random_state()
    first = torch.rand(3, device="cuda")
    restore_random_state(state)
    assert torch.equal(torch.rand(3, device="cuda"), first)
