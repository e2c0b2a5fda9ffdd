"""Data that breaks while a run goes on ends it with a message; mended, it goes on to the same result."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import archgrad as ag
from archgrad.data import load
from archgrad.errors import DataError

from .problems import position
from .runs import loss_that, outcome

IMAGES = 12


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of images in a folder, read from their files in each batch."""
    folder = tmp_path_factory.mktemp("pristine") / "images"
    pixels = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for number in range(IMAGES):
                image = Image.fromarray(pixels.integers(0, 255, (8, 8), dtype=np.uint8))
                image.save(folder / split / name / f"{number:02}.png")
    return folder


@pytest.fixture
def images(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "images"))


def search(images: Path, run: Path, **options: Any) -> Any:
    torch.manual_seed(0)
    data = load(f"folder:{images}", root=images.parent / "cache", memory_limit=0)
    given = {"epochs": 4, "batch_size": 6, "device": "cpu", "quiet": True}
    return ag.search(ag.spaces.tiny(channels=2, num_classes=2), data, run_dir=run, **{**given, **options})


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:60])


def hostile(file: Path) -> None:
    file.write_bytes(b"not an image at all")


@pytest.mark.parametrize(("damage", "workers"), [(Path.unlink, 0), (truncated, 0), (hostile, 0), (Path.unlink, 1)])
def test_an_image_that_is_lost_or_corrupt_is_named_and_once_mended_the_search_goes_on(
    damage: Callable[[Path], None], workers: int, images: Path, tmp_path: Path
) -> None:
    search(images, tmp_path / "whole")
    files = sorted((images / "train" / "a").iterdir())
    kept = {file: file.read_bytes() for file in files}

    def damage_all() -> None:
        for file in files:
            damage(file)

    with pytest.raises(DataError, match=r"train/a/\d\d\.png") as caught:
        search(images, tmp_path / "run", loss=loss_that(damage_all, step=1), checkpoint_steps=1, workers=workers)
    assert "Traceback" not in str(caught.value)
    assert position(tmp_path / "run") >= (0, 1)
    for file, content in kept.items():
        file.write_bytes(content)
    search(images, tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_other_data_than_the_runs_is_refused(images: Path, tmp_path: Path) -> None:
    search(images, tmp_path / "run", epochs=1)
    for number in range(IMAGES - 6):
        (images / "train" / "a" / f"{number:02}.png").unlink()
    with pytest.raises(ag.errors.RunError, match="The run had 24 training samples, but the data now has 18"):
        search(images, tmp_path / "run", resume=True, epochs=1)
