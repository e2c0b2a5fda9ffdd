"""Every global random state, taken and given back, so that a resumed run draws what the uninterrupted one would."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from archgrad.checks import is_whole
from archgrad.errors import OptionError
from archgrad.json_text import shown

__all__ = ["capture_random_state", "check_seed", "restore_random_state", "seed_everything", "seeded"]

_SEEDS = 2**32


def check_seed(seed: int) -> None:
    """Raise `OptionError` unless `seed` is an integer from 0 to 2**32 - 1, which is what NumPy takes."""
    if not is_whole(seed, least=0) or seed >= _SEEDS:
        raise OptionError(f"seed must be an integer from 0 to {_SEEDS - 1}, but got seed={shown(seed)}.")


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy, torch and (when it is or will be used) CUDA.

    Args:
        seed: From 0 to 2**32 - 1.

    Raises:
        OptionError: The seed is outside that range.
    """
    check_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def capture_random_state() -> dict[str, Any]:
    """Return the states of the global generators, in a form that `save_state` stores."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Set the global generators to what `capture_random_state` returned.

    A state taken on more CUDA devices than there are now sets those that there are.
    """
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for index, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(cuda_state, index)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block from freshly seeded generators, and afterwards give the caller's random states back.

    Args:
        seed: From 0 to 2**32 - 1.

    Raises:
        OptionError: The seed is outside that range.
    """
    check_seed(seed)
    before = capture_random_state()
    seed_everything(seed)
    try:
        yield
    finally:
        restore_random_state(before)
