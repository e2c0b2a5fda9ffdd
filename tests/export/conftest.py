"""Runs that several tests look at."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from archgrad.export import Exported, describe_run, export_onnx, load_retrained
from archgrad.retrain import RetrainResult

from .runs import tiny_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RetrainResult:
    """A finished run; not to be changed."""
    return tiny_run(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="session")
def exported(finished: RetrainResult, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The finished run as ONNX; not to be changed."""
    assert finished.run_dir is not None
    described = describe_run(finished.run_dir)
    return export_onnx(
        load_retrained(finished.run_dir),
        tmp_path_factory.mktemp("onnx") / "net.onnx",
        input_shape=described.input_shape,
        classes=described.classes,
        mean=described.mean,
        std=described.std,
    )


@pytest.fixture
def run_dir(finished: RetrainResult, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed at will."""
    assert finished.run_dir is not None
    return Path(shutil.copytree(finished.run_dir, tmp_path / "run"))
