"""`--data FILE.py:NAME`: a function of one's own gives the data, wherever data is asked for."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from archgrad.architecture import Architecture
from archgrad.cli.data import open_data
from archgrad.cli.own_code import typed_again
from archgrad.data import Data
from archgrad.errors import DataError, OptionError

from .typed import Outcome, Type

OWN = """
from pathlib import Path

import torch
from torch import nn

import archgrad as ag

ran = Path(__file__).with_name("times it ran")
ran.write_text(ran.read_text() + "I" if ran.exists() else "I")


class Windows(torch.utils.data.Dataset):
    def __init__(self, length: int = 6):
        self.x = torch.randn(64, length)

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return self.x[index], int(self.x[index].sum() > 0)


def windows(length: int = 6, *, root: Path = Path("here"), kind: str = "a", scale: "float" = 1.0):
    assert root.is_absolute() or root == Path("here")
    data = Windows(length)
    return ag.Data.from_datasets(data, data, classes=["low", "high"], name="windows")


def pair():
    x = torch.randn(64, 6)
    return x, (x[:, 0] > 0).long()


def named(image_size: int = 8):
    return "digits"


def nothing(length):
    pass


value = pair()


def net(num_classes, width: int = 6):
    return nn.Sequential(
        nn.Linear(width, 4), ag.LayerChoice({"relu": nn.ReLU(), "tanh": nn.Tanh()}, label="f"), nn.Linear(4, 2)
    )
"""
QUICK = ("--epochs", 1, "--batch-size", 16, "--quiet", "--device", "cpu")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return file


def opened(file: Path, name: str, **options: Any) -> Data:
    given = {"data_options": options} if options else {}
    return open_data({"data": f"{file}:{name}", "image_size": None, "train_samples": None, **given})


def config_of(run: str) -> dict[str, Any]:
    return yaml.safe_load(Path(run, "config.yaml").read_text())


def next_retraining(outcome: Outcome) -> list[str]:
    return shlex.split(next(line for line in outcome.out.splitlines() if "archgrad retrain" in line))[1:]


@pytest.mark.parametrize(("name", "samples"), [("windows", 64), ("Windows", 64), ("pair", 64), ("value", 64)])
def test_whatever_a_search_takes_may_be_given(name: str, samples: int, own: Path) -> None:
    data = opened(own, name)
    assert data.name == f"{own}:{name}"  # finds it again
    assert len(data.train_targets) == samples
    assert len(data.classes) == 2


def test_a_name_may_be_given_too(own: Path) -> None:
    assert (opened(own, "named").channels, opened(own, "named").name) == (1, f"{own}:named")


def test_random_numbers_of_the_function_are_the_same_in_every_run(own: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = opened(own, "pair").train[0][0]
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert torch.equal(opened(own, "pair").train[0][0], first)
    value = opened(own, "value").train[0][0]
    own.write_text(f"{OWN}\n")  # so that it is run again
    assert torch.equal(opened(own, "value").train[0][0], value)


def test_one_file_is_run_once_for_space_and_data(own: Path, archgrad: Type) -> None:
    before = dict(sys.modules)
    assert archgrad("search", "--data", "own.py:Windows", "--space", "own.py:net", *QUICK, "--out", "a").status == 0
    assert (own.parent / "times it ran").read_text() == "I"
    assert {module: sys.modules[module] for module in before} == before
    assert "own" not in sys.modules


def test_worker_processes_read_data_of_ones_own(archgrad: Type, own: Path) -> None:
    for workers in (0, 1):
        typed = ("--data", f"{own}:Windows", "--space", f"{own}:net", *QUICK, "--workers", workers, "--out", workers)
        assert archgrad("search", *typed).status == 0
    assert Path("0/metrics.csv").read_text() == Path("1/metrics.csv").read_text()


def test_a_module_on_the_path_gives_data(archgrad: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data_module.py").write_text(OWN)
    typed = ("--data", "own_data_module:pair", "--space", "own_data_module:net", *QUICK)
    assert archgrad("search", *typed, "--out", "a").status == 0
    assert config_of("a")["data"] == "own_data_module:pair"
    monkeypatch.delitem(sys.modules, "own_data_module")


def test_a_retraining_takes_over_the_function_with_its_options_once_it_is_named(own: Path, archgrad: Type) -> None:
    named = ("--data", "own.py:windows", "--space", "own.py:net")
    options = ("--data.length", 5, "--data.root", "a place", "--space.width", 5)
    searched = archgrad("search", *named, *options, *QUICK, "--out", "s")
    assert searched.status == 0, searched.err
    stored = {"length": 5, "root": str(own.parent / "a place")}
    assert (config_of("s")["data_options"], config_of("s")["space_options"]) == (stored, {"width": 5})
    settings = Architecture.load("s").provenance["search"]
    assert (settings["data"], settings["data_options"]) == ("own.py:windows", {"length": 5, "root": "a place"})

    refused = archgrad("retrain", "--arch", "s", *QUICK, "--out", "r")
    assert refused.status == 2
    assert f"Give --data {own}:windows --space {own}:net." in refused.err
    outcome = archgrad("retrain", "--arch", "s", *named, *QUICK, "--no-quiet", "--out", "r")
    assert outcome.status == 0, outcome.err
    assert f"As the search:  --data.length 5 --data.root '{own.parent}/a place' --space.width 5\n" in outcome.out
    assert (config_of("r")["data"], config_of("r")["data_options"]) == (f"{own}:windows", stored)
    summary = json.loads(Path("r/summary.json").read_text())
    assert (summary["input_shape"], summary["classes"]) == ([5], ["low", "high"])

    typed = archgrad("retrain", "--arch", "s", *named, "--data.length", 7, "--space.width", 7, *QUICK, "--out", "t")
    assert typed.status == 0, typed.err
    assert config_of("t")["data_options"] == {"length": 7, "root": stored["root"]}
    assert archgrad(*next_retraining(searched), *QUICK, "--out", "n").status == 0
    assert config_of("n")["data_options"] == stored

    another = archgrad("retrain", "--arch", "s", "--data", "own.py:pair", "--space", "own.py:net", "--space.width", 6,
                       *QUICK, "--out", "p")  # fmt: skip
    assert another.status == 0, another.err
    assert "data_options" not in config_of("p")


def test_options_are_typed_again_as_yaml_reads_them() -> None:
    options = {"a": None, "b": True, "c": [1, 2], "d_e": "x y", "f": 0.5}
    again = shlex.split(typed_again("data", {"data_options": options}))
    assert again[0::2] == ["--data.a", "--data.b", "--data.c", "--data.d-e", "--data.f"]
    assert [yaml.safe_load(text) for text in again[1::2]] == list(options.values())


def test_data_of_somebodys_own_runs_only_when_it_is_typed(own: Path, archgrad: Type) -> None:
    named = ("--data", "own.py:windows", "--data.length", 6, "--space", "own.py:net")
    assert archgrad("search", *named, *QUICK, "--out", "a").status == 0
    own.write_text("raise SystemExit('it ran')\n")
    for way in (("--resume", "a"), ("--config", "a/config.yaml", "--out", "b")):
        outcome = archgrad("search", *way, "--space", "own.py:net")
        assert outcome.status == 2
        assert f"names data of somebody's own, '{own}:windows', which is run as Python" in outcome.err
        assert f"add --data '{own}:windows'" in outcome.err
    own.write_text(OWN)
    again = ("--data", "own.py:windows", "--space", "own.py:net")
    assert archgrad("search", "--resume", "a", *again, "--quiet").status == 0
    assert archgrad("search", "--config", "a/config.yaml", *again, "--quiet", "--out", "b").status == 0
    assert config_of("b") == config_of("a")
    assert (
        archgrad("search", "--config", "a/config.yaml", "--data", "own.py:pair", *again[2:], "--out", "c").status == 0
    )
    assert "data_options" not in config_of("c")


def test_what_cannot_be_data_is_refused(own: Path, archgrad: Type) -> None:
    for name, options, message in (
        ("none", {}, "has no 'none'"),
        ("nothing", {}, r"needs length. Give --data.length VALUE"),
        ("nothing", {"length": 1}, r"own.py:nothing' gives cannot be used: Data must be.*NoneType"),
        ("net", {"num_classes": 2}, r"net' gives cannot be used"),
    ):
        with pytest.raises(DataError, match=message):
            opened(own, name, **options)
    for name, options, message in (
        (
            "windows",
            {"size": 3},
            r"no option --data.size. It has --data.length, --data.root, --data.kind, --data.scale",
        ),
        ("windows", {"length": "long"}, r"--data.length takes <class 'int'>, but got 'long'|--data.length takes int"),
        ("windows", {"root": 3}, "--data.root takes"),
        ("windows", {"scale": True}, "--data.scale takes float, but got True"),
        ("value", {"length": 3}, r"is no function, so it has no option --data.length"),
    ):
        with pytest.raises(OptionError, match=message):
            opened(own, name, **options)
    for typed, message in (
        (("own.py",), "Give own.py:NAME"),
        (("none.py:windows",), "The data's file"),
        (("none_such_module:windows",), "The data's module 'none_such_module' cannot be imported"),
        (("digits", "--data.root", "x"), "--data.root goes with --data FILE.py:NAME, but got --data digits"),
        (("own.py:named", "--image-size", 8), "--image-size goes with --data folder:PATH"),
    ):
        outcome = archgrad("search", "--data", *typed, "--space", "tiny", "--out", "new")
        assert outcome.status == 2
        assert message in outcome.err
        assert not Path("new").exists()


def test_a_part_of_the_samples_of_ones_own_data(own: Path, archgrad: Type) -> None:
    typed = ("--data", "own.py:windows", "--space", "own.py:net", "--train-samples", 40)
    assert archgrad("search", *typed, *QUICK, "--out", "a").status == 0
    assert config_of("a")["train_samples"] == 40


def test_a_file_of_arrays_is_data_for_both_commands(archgrad: Type, own: Path) -> None:
    x = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
    np.savez("points.npz", x=x, y=(x[:, 0] > 0).astype(np.int64), x_test=x, y_test=(x[:, 0] > 0).astype(np.int64))
    typed = ("--space", "own.py:net", *QUICK)
    searched = archgrad("search", "--data", "points.npz", *typed, "--out", "s")
    assert searched.status == 0, searched.err
    outcome = archgrad("retrain", "--arch", "s", *typed, "--out", "r")
    assert outcome.status == 0, outcome.err
    assert config_of("r")["data"] == str(Path("points.npz").absolute())
    assert "Test accuracy:  " in outcome.out
