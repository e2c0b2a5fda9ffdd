"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Small tensors gain nothing from threads, and tests run in several processes at once, which share the cores.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start

# A shell that starts the tests in the background lets them, and what they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long one example takes says nothing on a machine that runs other things beside.
settings.register_profile("archgrad", deadline=None)
settings.load_profile("archgrad")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The reference data beside the checkout; tests that need it fail in CI where it is missing.

    With ARCHGRAD_SHARED empty they are skipped there, too: the data is not public.
    """
    given = os.environ.get("ARCHGRAD_SHARED")
    if given == "":
        pytest.skip("ARCHGRAD_SHARED says that there is no reference data")
    path = Path(given or Path(__file__).parents[2] / "shared")
    if not path.is_dir():
        message = f"no reference data at {path}; set ARCHGRAD_SHARED to where it lies"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path
