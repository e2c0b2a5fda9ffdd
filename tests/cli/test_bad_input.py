"""Bad input is met at the door: one clear message with the remedy, status 2, no traceback, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import archgrad as ag

from .typed import QUICK, Type, class_folders

GENOTYPE = ag.architectures.DARTS_V1.to_genotype()
CODE = "__import__('pathlib').Path('it-ran').touch()"


def changed(text: str, *keys: str, value: object) -> str:
    data = json.loads(text)
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return json.dumps(data)


FILES: dict[str, tuple[Callable[[str], str], str]] = {
    "unknown label": (lambda text: changed(text, "choices", "roof", value="thatch"), "unknown label 'roof'"),
    "unknown candidate": (lambda text: changed(text, "choices", "stem", value="conv99"), "conv99"),
    "truncated JSON": (lambda text: text[: len(text) // 2], "JSON"),
    "newer version": (lambda text: changed(text, "version", value=99), "Update archgrad"),
    "version of another kind": (lambda text: changed(text, "version", value="one"), "'version' must be an integer"),
    "code in a genotype": (
        lambda _: GENOTYPE.replace(
            "normal_concat=[2, 3, 4, 5]", "normal_concat=__import__('pathlib').Path('it-ran').touch()"
        ),
        "A genotype holds names, numbers, lists",
    ),
    "empty file": (lambda _: "", "empty"),
}


def check_refused(archgrad: Type, *arguments: object, message: str) -> None:
    before = sorted(Path.cwd().rglob("*"))
    outcome = archgrad(*arguments)
    assert outcome.status == 2
    assert outcome.err.startswith("Error: ")
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert outcome.out == ""
    assert sorted(Path.cwd().rglob("*")) == before


@pytest.mark.parametrize("case", FILES)
def test_architectures_that_are_none(case: str, searched: Path, archgrad: Type) -> None:
    change, message = FILES[case]
    Path("a.json").write_text(change((searched / "checkpoints" / "epoch_0.json").read_text()))
    check_refused(archgrad, "retrain", "--arch", "a.json", *QUICK, "--out", "new", message=message)
    assert not Path("it-ran").exists()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("--epochs", "-3"), "epochs must be a whole number of at least 1, but got epochs=-3"),
        (("--epochs", "0"), "epochs"),
        (("--seed", "-1"), "seed"),
        (("--learning-rate", "0"), "learning_rate"),
        (("--learning-rate", "1e999"), "learning_rate"),
        (("--momentum", "1"), "momentum"),
        (("--weights-fraction", "1"), "weights_fraction"),
        (("--device", "abacus"), "abacus"),
        (("--train-samples", "40"), "batch"),  # halves of 20 samples, and batches of 32
        (("--batch-size", "1"), "BatchNorm"),
        (("--data", "cifar"), "There is no data set 'cifar'"),
        (("--data", "folder:nowhere"), "nowhere does not exist"),
        (("--image-size", "8"), "image_size"),  # goes with folder:PATH
    ],
)
def test_options_outside_their_range(typed: tuple[str, ...], message: str, archgrad: Type) -> None:
    check_refused(archgrad, "search", *QUICK, *typed, "--out", "new", message=message)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("--epochs", "-3"), "epochs must be a whole number of at least 1, but got epochs=-3"),
        (("--cutout", "8"), "cutout must be smaller than the images"),
        (("--drop-path", "1"), "drop_path"),
        (("--optimizer", "adamw", "--momentum", "0.5"), "AdamW"),
        (("--train-samples", "20"), "batch"),
        (("--batch-size", "1"), "BatchNorm"),
    ],
)
def test_options_of_a_retraining_outside_their_range(
    typed: tuple[str, ...], message: str, searched: Path, archgrad: Type
) -> None:
    check_refused(archgrad, "retrain", "--arch", searched, *QUICK, *typed, "--out", "new", message=message)


@pytest.mark.parametrize("command", ["search", "retrain"])
def test_data_with_nothing_to_learn(command: str, searched: Path, archgrad: Type) -> None:
    typed = (command, *(("--arch", searched) if command == "retrain" else ("--space", "tiny")), "--out", "new")
    Path("empty").mkdir()
    check_refused(archgrad, *typed, "--data", "folder:empty", message="empty")
    class_folders(Path("single"), classes=1)
    check_refused(archgrad, *typed, "--data", "folder:single", message="class")
    class_folders(Path("corrupt"))
    Path("corrupt/train/class0/0.png").write_bytes(b"no image")
    check_refused(archgrad, *typed, "--data", "folder:corrupt", message="0.png")


def test_a_damaged_checkpoint_is_told_of_and_the_run_kept(searched: Path, archgrad: Type) -> None:
    shutil.copytree(searched, "a")
    for checkpoint in Path("a/checkpoints").glob("*.ckpt"):
        checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    metrics = Path("a/metrics.csv").read_bytes()
    outcome = archgrad("search", "--resume", "a")
    assert outcome.status == 2
    assert "Traceback" not in outcome.err
    assert "checkpoint" in outcome.err
    assert Path("a/metrics.csv").read_bytes() == metrics
