"""Seeds that follow from what they are for, and random states that are put back."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_of(*keys: int | str) -> int:
    """Derive a seed from what it is for, so that no random state has to be kept.

    Args:
        keys: What the seed is for, for example `(seed, "order", epoch)`.

    Returns:
        An integer in [0, 2^63), the same on every machine and in every process.
    """
    text = "/".join(str(key) for key in keys)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator_of(*keys: int | str) -> torch.Generator:
    """Make a CPU generator seeded by `seed_of(*keys)`."""
    return torch.Generator().manual_seed(seed_of(*keys))


def seed_global_generators(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global CPU generators; CUDA's are left alone.

    Args:
        seed: In [0, 2^63).
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed CUDA too


@contextmanager
def kept_randomness() -> Iterator[None]:
    """Put the global CPU generators (Python, NumPy, torch) back as they were on leaving."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
