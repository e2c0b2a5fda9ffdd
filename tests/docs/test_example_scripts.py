"""The scripts of a new user's jobs run, in small form, and so does each command that they name."""

from __future__ import annotations

import csv
import itertools
import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import archgrad as ag
from archgrad import testing
from archgrad.cli.main import main
from archgrad.runs import OutOfTime, read_metrics

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALLER = {
    "search": ["--train-samples", "64", "--batch-size", "16", "--device", "cpu", "--epochs", "1", "--quiet"],
    "retrain": ["--train-samples", "64", "--batch-size", "32", "--device", "cpu", "--epochs", "1", "--quiet"],
}
"""Added to the commands, where they win over what is there, so that these run in a moment."""
WITH_COMMANDS = [file.name for file in sorted(EXAMPLES.glob("*.py")) if "\n    archgrad " in file.read_text("utf-8")]

Run = Callable[[str], list[str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a script as typed, in a folder of its own, and return the lines that it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARCHGRAD_DATA", str(tmp_path / "cache"))

    def typed(line: str) -> list[str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", line.split())
        runpy.run_path(str(EXAMPLES / line.split()[0]), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return typed


def names_of(script: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / script))


def write_pictures() -> Path:
    """Write noise into pictures/cat and pictures/dog, 40 pictures each."""
    draw = np.random.default_rng(0)
    for number in range(80):
        folder = Path("pictures", ("cat", "dog")[number % 2])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number // 2:03}.png")
    return Path("pictures")


def percent(text: str) -> float:
    return float(re.search(r"([\d.]+) ?%", text)[1])  # type: ignore[index]


def test_pictures_are_searched_retrained_and_recognised(run: Run) -> None:
    lines = run("own_pictures.py --epochs 1 --out runs")
    assert lines[0] == "288 training and 72 test pictures of disc, square, triangle"
    assert any(re.fullmatch(r"runs/drawn/disc/000.png: (disc|square|triangle) \(\d+%\)", line) for line in lines)
    assert lines[-1] == "Report: runs/report.html"
    assert Path("runs/report.html").is_file()
    lines = run(f"own_pictures.py --epochs 1 --out again --pictures {write_pictures()}")
    assert lines[0] == "64 training and 16 test pictures of cat, dog"
    assert not Path("again/drawn").exists()


def test_windows_of_a_sensor_lie_in_a_file_and_their_motors_apart(run: Run) -> None:
    lines = run("sensor_windows.py --epochs 1 --motors 2 --out runs")
    with np.load("runs/windows.npz") as file:
        assert {name: file[name].shape for name in file.files} == {
            "x": (72, 1, 256), "y": (72,), "x_test": (360, 1, 256), "y_test": (360,),
        }  # fmt: skip
    assert lines[-1].startswith("Test accuracy on 360 windows of motors never heard: ")


def test_the_transformer_reads_sentences_through_their_mask(run: Run) -> None:
    lines = run("masked_transformer.py --epochs 1 --sentences 80 --out runs")
    assert lines[-2].startswith("Test accuracy: ")
    assert lines[-1].startswith("'the film was not bad and so fine' is good: ")

    names = names_of("masked_transformer.py")
    network = ag.derive(names["Transformer"](), {"block0": "4 heads", "block1": "neighbours", "activation": "gelu"})
    words = torch.tensor([[6, 7, 8, 5, 3, 0, 0]])
    with torch.no_grad():
        short, padded = (network.eval()({"words": w, "is_word": w > 0}) for w in (words[:, :5], words))
    assert torch.allclose(short, padded, atol=1e-6)
    inputs, targets = names["sentences"](200, seed=3)
    assert [*inputs["words"].shape, *targets.shape] == [200, 16, 200]
    moods = [mood_of([names["WORDS"][w] for w in row if w]) for row in inputs["words"].tolist()]
    assert [mood > 0 for mood in moods] == targets.bool().tolist()
    assert 0 not in moods


def mood_of(words: list[str]) -> int:
    signs = {"good": 1, "fine": 1, "bad": -1, "poor": -1}
    return sum(signs.get(word, 0) * (-1 if before == "not" else 1) for before, word in itertools.pairwise(["", *words]))


def test_a_script_of_nni_exports_what_a_network_is_made_of(run: Run) -> None:
    lines = run("nni_trainer.py --epochs 1 --unrolled --out runs")
    exported = json.loads(Path("runs/checkpoint.json").read_text(encoding="utf-8"))
    assert lines[0] == f"Final architecture: {exported}"
    assert exported.keys() == {"conv", "skip"}
    assert lines[-1].startswith("Test accuracy: ")


def test_methods_are_compared_with_random_ones_by_mean_and_spread(run: Run) -> None:
    lines = run("compare_methods.py --methods gdas gaea --seeds 2 --epochs 1 --out runs")
    for name in ("gdas", "gaea", "random"):
        single = [percent(line) for line in lines if re.match(rf"{name}, seed [01]: ", line)]
        mean, spread = next(re.findall(r"[\d.]+", line) for line in lines if re.match(rf"{name} .*±", line))
        assert float(mean) == pytest.approx(np.mean(single), abs=0.11)
        assert float(spread) == pytest.approx(np.std(single, ddof=1), abs=0.16)
    report = Path(lines[-1].removeprefix("Report: ")).read_text(encoding="utf-8")
    assert report.count("architecture=random, mean of 2") >= 1  # pooled with each other, and with nothing else
    assert "mean of 6" not in report


def test_the_numbers_that_are_found_build_a_plain_network(run: Run) -> None:
    lines = run("width_and_depth.py --epochs 1 --out runs")
    found = dict(line.split(": ") for line in lines if re.fullmatch(r"[\w/]+: \d+", line))
    assert {"depth", "kernel", "width"} <= set(found)
    space = names_of("width_and_depth.py")["OpenNet"]()
    network = ag.derive(space, {label: int(value) for label, value in found.items()})
    assert f"{ag.cost.count_parameters(network):,} parameters" in lines
    assert network.stem.out_channels == int(found["width"])
    assert lines[-1].startswith("Test accuracy: ")


def test_what_is_derived_stays_within_the_limit(run: Run) -> None:
    lines = run("limit_parameters.py --limit 3000 --epochs 1 --out runs")
    counts = [int(line.split()[0].replace(",", "")) for line in lines if "parameters, test accuracy" in line]
    assert counts[0] <= 3000
    assert counts[0] <= counts[1]


def test_the_selection_finds_the_likeliest_architecture_within_the_limit() -> None:
    names = names_of("limit_parameters.py")
    space = names["Layers"](channels=4)
    supernet = ag.Supernet(space)
    with torch.no_grad():
        for seed, alpha in enumerate(supernet.alphas.values()):
            alpha.copy_(2 * torch.randn(alpha.shape, generator=torch.Generator().manual_seed(seed)))
    rows = {
        label: dict(zip(supernet.rows[label].names, row, strict=True))
        for label, row in supernet.probabilities().items()
    }
    every = [dict(zip(rows, taken, strict=True)) for taken in itertools.product(*rows.values())]
    sizes = [ag.cost.count_parameters(ag.derive(space, taken)) for taken in every]
    likely = [np.prod([rows[label][name] for label, name in taken.items()]) for taken in every]
    for limit in (min(sizes), 300, 500, 700, max(sizes)):
        _, best = max((p, place) for place, (p, size) in enumerate(zip(likely, sizes, strict=True)) if size <= limit)
        found = ag.discretize(supernet, scores=names["WithinLimit"](limit).scores(supernet))
        assert dict(found.choices) == every[best]


def test_a_limit_below_every_network_is_an_error() -> None:
    names = names_of("limit_parameters.py")
    with pytest.raises(ag.errors.OptionError, match="limit=100 parameters"):
        names["WithinLimit"](100).scores(ag.Supernet(names["Layers"]()))


def test_a_search_ends_in_time_goes_on_and_obeys_its_rule(run: Run) -> None:
    with pytest.raises(OutOfTime):
        run("own_stopping.py --epochs 3 --max-minutes 1e-9 --out runs")
    lines = run("own_stopping.py --epochs 3 --out runs")
    assert "Ended early: no rule asked for it" in lines
    with open("runs/decisions.csv", newline="", encoding="utf-8") as file:
        assert [row[0] for row in csv.reader(file)] == ["1", "2", "3"]
    rows = read_metrics(Path("runs/search/metrics.csv"))
    assert len(rows) == 3
    assert all(0 <= row["smallest_margin"] <= 1 for row in rows)
    assert list(Path("runs/own").glob("events.out.tfevents*"))


class TestSettled(testing.StoppingLaws):
    """The rule of the script keeps to the laws of its kind, and stops where the loss has not become lower."""

    def make(self) -> Any:
        return names_of("own_stopping.py")["Settled"](patience=2)

    def histories(self) -> list[list[dict[str, Any]]]:
        part = self.make()
        losses = (0.9, 0.5, 0.6, 0.5)
        rows = [{"epoch": n, "valid_loss": loss, **part.probe(self.end(n))} for n, loss in enumerate(losses)]
        return [rows[: n + 1] for n in range(4)]

    def test_the_result_is_the_epoch_with_the_lowest_loss(self) -> None:
        stops = [self.make().decide(history) for history in self.histories()]
        assert stops[:3] == [None, None, None]
        assert stops[3] == ag.Stop(1, "no lower loss for 2 epochs")


@pytest.mark.parametrize("script", WITH_COMMANDS)
def test_the_commands_of_a_script_run(script: str, run: Run) -> None:
    Path("examples").symlink_to(EXAMPLES)
    write_pictures()
    windows = np.random.default_rng(0).normal(size=(80, 1, 64)).astype(np.float32)
    np.savez("windows.npz", x=windows, y=np.arange(80) % 3)
    text = (EXAMPLES / script).read_text(encoding="utf-8").split('"""')[1].replace("\\\\\n", " ").replace("\\\n", " ")
    commands = re.findall(r"^    archgrad (.*)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        small = command.replace("001.jpg", "001.png").replace("PATH", "pictures").replace("FILE.npz", "windows.npz")
        arguments = small.replace("cifar10", "digits").split()
        assert main([*arguments, *SMALLER.get(arguments[0], [])]) == 0, command
