"""What the runs are compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from .problems import run_retrain, run_search
from .runs import outcome, search


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    search(folder)
    return outcome(folder)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search and a retraining of one epoch, not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    run_search(folder / "search", resume=False, epochs=1)
    run_retrain(folder / "retrain", resume=False, epochs=1)
    return folder
