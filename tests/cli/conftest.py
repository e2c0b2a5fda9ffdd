"""A terminal of its own for every test: a working folder, a data cache, and what was printed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from archgrad.cli import main

from .typed import QUICK, Outcome, Type


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def archgrad(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """Run `archgrad ...` in a new working folder, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARCHGRAD_DATA", str(cache))

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        return Outcome(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a search, to be looked at only."""
    run = tmp_path_factory.mktemp("searched") / "run"
    assert main(["search", *QUICK, "--out", os.fspath(run)]) == 0
    return run


@pytest.fixture(scope="session")
def retrained(searched: Path) -> Path:
    """The run folder of a retraining of that search's architecture, to be looked at only."""
    run = searched.with_name("retrained")
    assert main(["retrain", "--arch", os.fspath(searched), *QUICK[2:], "--out", os.fspath(run)]) == 0
    return run
