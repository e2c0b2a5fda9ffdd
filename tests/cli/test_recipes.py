"""`archgrad retrain --recipe`: a folder of photographs to a network for 224 x 224 images, and what is typed wins."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import archgrad as ag
from archgrad.retrain import RECIPES

from .typed import Type, content

SMALL = ("--space", "darts-imagenet", "--channels", 2, "--cells", 3, "--image-size", 32, "--batch-size", 4)
SHORT = ("--arch", "DARTS_V2", *SMALL, "--data", "folder:photos", "--quiet")


@pytest.fixture
def photos(archgrad: Type) -> Path:
    """Write photographs of several sizes in class folders; the working folder is that of `archgrad`."""
    random = np.random.default_rng(0)
    for part, number in (("train", 6), ("val", 2), ("test", 3)):
        for label in range(7):
            folder = Path("photos", part, f"class{label}")
            folder.mkdir(parents=True)
            for image in range(number):
                height, width = ((40, 56), (56, 40), (36, 36))[image % 3]
                pixels = random.integers(0, 120, (height, width, 3)) + 20 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{image}.jpg")
    return Path("photos")


def config_of(run: str) -> dict[str, Any]:
    return yaml.safe_load(Path(run, "config.yaml").read_text())


def rows(run: str) -> list[dict[str, str]]:
    with Path(run, "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_folder_is_trained_on_by_a_recipe_and_what_is_typed_wins(archgrad: Type, photos: Path) -> None:
    outcome = archgrad("retrain", *SHORT, "--recipe", "imagenet-1024", "--epochs", 3, "--out", "r")
    assert outcome.status == 0, outcome.err
    config, summary = config_of("r"), json.loads(Path("r/summary.json").read_text())
    typed = {"epochs": 3, "batch_size": 4}
    assert {name: config[name] for name in RECIPES["imagenet-1024"]} == {**RECIPES["imagenet-1024"], **typed}
    assert (config["augmentation"], config["image_size"], config["recipe"]) == ("imagenet", 32, "imagenet-1024")
    assert (summary["image_shape"], summary["read_size"]) == ([3, 32, 32], [37, 37])
    # A line from 0.5 to 0 times 1/5, 2/5, 3/5
    found = rows("r")
    assert [float(row["learning_rate"]) for row in found] == pytest.approx([0.1, 2 / 15, 0.1])
    assert 0 <= float(found[-1]["test_accuracy"]) <= float(found[-1]["test_top5_accuracy"]) <= 1
    assert summary["test_top5_accuracy"] == pytest.approx(float(found[-1]["test_top5_accuracy"]))
    image = str(next(photos.glob("test/class1/*.jpg")))
    assert archgrad("predict", "r", image).status == 0
    # The run's own config says all that the recipe said.
    again = archgrad("retrain", "--config", "r/config.yaml", "--out", "again", "--quiet")
    assert again.status == 0, again.err
    assert content(Path("again"))["metrics.csv"] == content(Path("r"))["metrics.csv"]


def test_a_recipes_run_goes_on_to_the_bit(archgrad: Type, photos: Path) -> None:
    assert archgrad("retrain", *SHORT, "--recipe", "imagenet", "--epochs", 2, "--out", "whole").status == 0
    assert config_of("whole")["schedule"] == "exponential"
    stopped = archgrad(
        "retrain", *SHORT, "--recipe", "imagenet", "--epochs", 2, "--checkpoint-steps", 1, "--out", "r",
        "--max-minutes", 1e-9,
    )  # fmt: skip
    assert stopped.status == 124
    assert archgrad("retrain", "--resume", "r", "--quiet").status == 0
    for file in ("metrics.csv", "weights/last.safetensors"):
        assert content(Path("r"))[file] == content(Path("whole"))[file], file
    other = archgrad("retrain", "--resume", "r", "--recipe", "imagenet-1024", "--batch-size", 4)
    assert other.status == 2
    assert "learning_rate: the run has 0.1, asked for 0.5" in other.err


def test_the_batch_of_a_recipe_is_shared_among_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    from archgrad.cli import retrain_command

    assert retrain_command.make_parser().recipes["imagenet-1024"]["batch_size"] == 1024
    for name, value in {"RANK": 0, "WORLD_SIZE": 8, "LOCAL_RANK": 0, "MASTER_ADDR": "host", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    assert retrain_command.make_parser().recipes["imagenet-1024"]["batch_size"] == 128


def test_a_recipe_in_a_file_is_below_what_the_file_says(archgrad: Type, photos: Path) -> None:
    Path("mine.yaml").write_text("recipe: imagenet\nlearning_rate: 0.01\nweight_decay: 0.0\n")
    run = ("retrain", *SHORT, "--config", "mine.yaml", "--epochs", 1, "--train-samples", 14, "--weight-decay", 0.1)
    outcome = archgrad(*run, "--out", "r")
    assert outcome.status == 0, outcome.err
    config = config_of("r")
    assert (config["schedule"], config["learning_rate"], config["weight_decay"]) == ("exponential", 0.01, 0.1)


def test_a_recipe_is_for_photographs_in_folders(archgrad: Type) -> None:
    outcome = archgrad("retrain", "--arch", "DARTS_V2", "--recipe", "imagenet", "--data", "digits")
    assert outcome.status == 2
    assert "--recipe imagenet is for photographs in --data folder:PATH, but got --data digits" in outcome.err


def test_a_search_takes_random_parts_and_its_retraining_takes_them_over(archgrad: Type, photos: Path) -> None:
    searched = archgrad(
        "search", "--space", "tiny", "--channels", 2, "--epochs", 1, "--batch-size", 4, "--data", "folder:photos",
        "--image-size", 12, "--augmentation", "imagenet", "--out", "s", "--quiet",
    )  # fmt: skip
    assert searched.status == 0, searched.err
    quick = ("--channels", 2, "--epochs", 1, "--batch-size", 4, "--quiet")
    for name, typed, expected in (
        ("r", (), ("imagenet", 12)),
        ("n", ("--augmentation", "none"), ("none", 12)),
        ("i", ("--recipe", "imagenet", "--train-samples", 14), ("imagenet", 224)),
    ):
        outcome = archgrad("retrain", "--arch", "s", *quick, *typed, "--cutout", 0, "--drop-path", 0, "--out", name)
        assert outcome.status == 0, outcome.err
        assert (config_of(name)["augmentation"], config_of(name)["image_size"]) == expected
    assert ag.Architecture.load("r/architecture.json").space == "tiny"
