"""Run folders and their reports, written once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import run_factory

from archgrad.report import write_report


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders by name, reports included; tests must not change them."""
    base = tmp_path_factory.mktemp("runs")
    return {
        "search": run_factory.write_search(base / "search"),
        "general": run_factory.write_general(base / "general"),
        "retrain": run_factory.write_retrain(base / "retrain"),
        "broken": run_factory.write_broken_off(base / "broken"),
        "seed1": run_factory.write_search(base / "seed1", epochs=12, planned=12, seed=1),
        "seed2": run_factory.write_search(base / "seed2", epochs=12, planned=12, seed=2),
    }


@pytest.fixture(scope="session")
def reports(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """HTML files by name of their run, and "comparison" of three runs."""
    files = {name: write_report([runs[name]]) for name in ("search", "general", "retrain", "broken")}
    together = [runs[name] for name in ("seed1", "seed2", "retrain")]
    files["comparison"] = write_report(together, out=tmp_path_factory.mktemp("out") / "comparison.html")
    return files
