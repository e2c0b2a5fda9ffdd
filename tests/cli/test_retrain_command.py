"""`archgrad retrain`: which architectures it takes, what it writes, and how it goes on."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import yaml

import archgrad as ag
from archgrad.cli.spaces import space_builder

from .typed import QUICK, Type, class_folders, content

QUICK_RETRAIN = QUICK[2:]


def config_of(run: Path) -> dict[str, Any]:
    return yaml.safe_load((run / "config.yaml").read_text())


def test_a_searched_architecture_is_trained_and_told_of(searched: Path, archgrad: Type) -> None:
    file = searched / "checkpoints" / "epoch_0.json"
    outcome = archgrad("retrain", "--arch", file, *QUICK_RETRAIN, "--out", "r")
    assert outcome.status == 0
    summary = json.loads(Path("r/summary.json").read_text())
    assert f"Test accuracy:  {100 * summary['test_accuracy']:.2f} %" in outcome.out
    assert f"{summary['parameters']:,} parameters" in outcome.out
    assert "archgrad report r\n" in outcome.out
    assert Path("r/weights/last.safetensors").is_file()
    assert ag.Architecture.load("r/architecture.json") == ag.Architecture.load(file)
    config = config_of(Path("r"))
    assert (config["command"], config["space"], config["arch"]) == ("retrain", "tiny", str(file))


def test_a_config_trains_the_same_network_again(retrained: Path, archgrad: Type) -> None:
    assert archgrad("retrain", "--config", retrained / "config.yaml", "--out", "again", "--quiet").status == 0
    again = content(Path("again"))
    for file in ("config.yaml", "metrics.csv", "architecture.json", "weights/last.safetensors"):
        assert again[file] == content(retrained)[file], file


def test_a_run_goes_on_without_the_file_that_it_came_from(searched: Path, archgrad: Type) -> None:
    shutil.copy(searched / "checkpoints" / "epoch_0.json", "a.json")
    first = archgrad("retrain", "--arch", "a.json", *QUICK_RETRAIN, "--out", "r")
    before = content(Path("r"))
    Path("a.json").unlink()
    again = archgrad("retrain", "--resume", "r", "--quiet")
    assert (again.status, again.out) == (0, first.out)
    assert content(Path("r"))["metrics.csv"] == before["metrics.csv"]
    refused = archgrad("retrain", "--resume", "r", "--weight-decay", 0.1)
    assert refused.status == 2
    assert "weight_decay: the run has 0.0003, asked for 0.1" in refused.err
    assert archgrad("search", "--resume", "r").status == 2  # a retraining is no search


def test_a_random_architecture_follows_from_the_seed(archgrad: Type) -> None:
    drawn = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2), ("d", 3), ("e", 4)):
        assert archgrad("retrain", "--arch", "random", *QUICK, "--seed", seed, "--out", name).status == 0
        drawn.append(ag.Architecture.load(Path(name) / "architecture.json"))
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    assert drawn[0].space == "tiny"


def test_published_names_and_foreign_forms_are_architectures(archgrad: Type) -> None:
    Path("genotype.txt").write_text(ag.architectures.DARTS_V2.to_genotype())
    quick = ("--channels", 2, "--cells", 3, *QUICK[4:], "--auxiliary-weight", 0)
    assert archgrad("retrain", "--arch", "DARTS_V2", *quick, "--out", "a").status == 0
    assert archgrad("retrain", "--arch", "genotype.txt", *quick, "--out", "b").status == 0
    assert content(Path("a"))["metrics.csv"] == content(Path("b"))["metrics.csv"]


def test_the_auxiliary_head_is_there_when_it_has_weight(archgrad: Type) -> None:
    quick = ("--arch", "DARTS_V1", "--channels", 2, "--cells", 3, *QUICK[4:])
    for name, weight in (("with", 0.4), ("without", 0)):
        assert archgrad("retrain", *quick, "--auxiliary-weight", weight, "--out", name).status == 0
    size = {name: len(content(Path(name))["weights/last.safetensors"]) for name in ("with", "without")}
    assert size["with"] > size["without"]


def test_without_sizes_the_papers_are_taken(archgrad: Type) -> None:
    data = ag.data.load("digits")
    build, sizes = space_builder("darts-cifar", data, stage="retrain")
    assert sizes == {"channels": 36, "cells": 20}
    network = ag.derive(build(), ag.architectures.DARTS_V2)
    assert network.classifier.in_features == 4 * 4 * 36  # 4 nodes; the width doubles twice
    _, sizes = space_builder("darts-cifar", data, stage="search")
    assert sizes == {"channels": 16, "cells": 8}
    shown = archgrad("retrain", "--help").out
    assert "darts-cifar 36" in shown
    assert "darts-cifar 20" in shown


def test_a_retraining_takes_over_what_the_search_was_told(archgrad: Type) -> None:
    class_folders(Path("pictures"), classes=3, images=12)
    searching = archgrad(
        "search", "--space", "tiny", "--channels", 2, "--epochs", 1, "--batch-size", 8, "--log-frequency", 100,
        "--data", "folder:pictures", "--image-size", 10, "--out", "a search",
    )  # fmt: skip
    assert searching.status == 0, searching.err
    following = shlex.split(next(line for line in searching.out.splitlines() if "archgrad retrain" in line))
    assert following[following.index("--image-size") + 1] == "10"
    quick = ("--channels", 2, "--epochs", 1, "--batch-size", 8, "--cutout", 0, "--drop-path", 0)
    outcome = archgrad("retrain", "--arch", "a search", *quick, "--out", "r")
    assert outcome.status == 0, outcome.err
    config = config_of(Path("r"))
    assert (config["space"], config["image_size"]) == ("tiny", 10)
    assert config["data"] == f"folder:{Path('pictures').absolute()}"
    assert json.loads(Path("r/summary.json").read_text())["image_shape"] == [3, 10, 10]
    assert f"As the search:  --data folder:{Path('pictures').absolute()} --image-size 10 --space tiny\n" in outcome.out
    typed = archgrad("retrain", "--arch", "a search", *quick, "--data=digits", "--train-samples", 100, "--out", "d")
    assert typed.status == 0, typed.err
    assert (config_of(Path("d"))["data"], config_of(Path("d"))["image_size"]) == ("digits", None)
    assert archgrad(*following[1:], *quick, "--out", "n", "--quiet").status == 0


def test_a_space_of_ones_own_is_not_run_because_a_search_names_it(archgrad: Type) -> None:
    Path("own.py").write_text("import archgrad as ag\n\ndef mine(**sizes):\n    return ag.spaces.tiny(2, 10)\n")
    quick = ("--train-samples", 100, "--epochs", 1, "--batch-size", 32, "--quiet")
    assert archgrad("search", "--space", "own.py:mine", *quick, "--out", "s").status == 0
    outcome = archgrad("retrain", "--arch", "s", *quick, "--out", "r")
    assert outcome.status == 2
    assert "Give --space" in outcome.err
    named = archgrad("retrain", "--arch", "s", "--space", "own.py:mine", *quick, "--out", "r")
    assert named.status == 0, named.err
