"""What the runs are compared with."""

from __future__ import annotations

import pytest

from .runs import outcome, search


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    search(folder)
    return outcome(folder)
