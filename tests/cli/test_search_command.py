"""`archgrad search`: what it writes, repeats, goes on with, and refuses."""

from __future__ import annotations

import functools
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import archgrad as ag
from archgrad.cli import retrain_command
from archgrad.cli import search_command as command
from archgrad.cli.common_options import NOT_KEPT
from archgrad.cli.data import open_data
from archgrad.cli.method_options import OF_THE_METHOD
from archgrad.fast import asked_path
from archgrad.methods import snas_without_none
from archgrad.methods.tree import tree_of
from archgrad.optimizers import Adam
from archgrad.options import names_of
from archgrad.relaxation import Gumbel
from archgrad.runs import Interrupted
from archgrad.tasks import TaskOptions

from .typed import QUICK, Type, class_folders, content

OWN = """
import archgrad as ag
from archgrad.cli.method_options import OF_THE_METHOD
from archgrad.methods import Method
from archgrad.methods.tree import tree_of
from archgrad.optimizers import Adam
from archgrad.options import names_of
from archgrad.relaxation import Gumbel
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, image_size):
        super().__init__()
        pixels = image_size ** 2
        self.body = ag.LayerChoice(
            {"wide": nn.Linear(pixels, num_classes), "deep": nn.Sequential(
                nn.Linear(pixels, 4), nn.ReLU(), nn.Linear(4, num_classes))}, label="body")

    def forward(self, x):
        return self.body(x.flatten(1))

def needs(depth):
    return Net(2, depth)

def returns_text():
    return "no module"

number = 3
"""


def config_of(run: Path) -> dict[str, Any]:
    return yaml.safe_load((run / "config.yaml").read_text())


def test_a_search_writes_its_run_and_says_where_and_what_next(archgrad: Type) -> None:
    outcome = archgrad("search", *QUICK, "--out", "a")
    assert outcome.status == 0
    file = Path("a/checkpoints/epoch_0.json")
    architecture = ag.Architecture.load(file)
    assert architecture.space == "tiny"
    assert "├─ join = input" in outcome.out
    assert f"archgrad retrain --arch {file} --data digits\n" in outcome.out
    assert "archgrad report a\n" in outcome.out
    assert outcome.err == ""  # --quiet


def test_config_holds_every_option_as_it_holds(searched: Path) -> None:
    config = config_of(searched)
    options = {action.dest for action in command.make_parser()._actions if action.dest != "help"}
    given = set(names_of(TaskOptions))  # kept where they are given
    assert options - set(NOT_KEPT) - OF_THE_METHOD - given | {"method"} == set(config) - {"command"}
    assert list(config)[:5] == ["command", "space", "channels", "cells", "data"]
    assert (config["space"], config["data"], config["channels"], config["cells"]) == ("tiny", "digits", 2, None)
    assert config["device"] == "auto"
    assert config["method"] == tree_of(snas_without_none)


def test_a_config_runs_the_same_search_again(searched: Path, archgrad: Type) -> None:
    assert archgrad("search", "--config", searched / "config.yaml", "--out", "again", "--quiet").status == 0
    again = content(Path("again"))
    for file in ("config.yaml", "metrics.csv", "checkpoints/epoch_0.json"):
        assert again[file] == content(searched)[file], file


def test_what_is_typed_beside_a_config_wins(searched: Path, archgrad: Type) -> None:
    typed = ("--seed", 5, "--no-fast", "--relaxation", "gumbel", "--temperature-max", 4, "--alphas-betas", "[0.4,0.9]")
    assert archgrad("search", *typed, "--config", searched / "config.yaml", "--out", "b", "--quiet").status == 0
    config, before = config_of(Path("b")), config_of(searched)
    changed = {"relaxation": Gumbel(temperature_max=4.0), "alphas_optimizer": Adam(betas=(0.4, 0.9))}
    method = replace(snas_without_none, **changed)
    assert config == {**before, "seed": 5, "fast": "plain", "method": tree_of(method)}


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        ((), "auto"),
        (("--fast",), "auto"),
        (("--no-fast",), "plain"),
        (("--fast", "torch"), "torch"),
        (("--fast=grouped",), "grouped"),
        (("--fast", "false"), "plain"),
    ],
)
@pytest.mark.parametrize("of", [command, retrain_command])
def test_a_path_is_typed_by_its_name_or_as_a_flag(of: Any, typed: tuple[str, ...], asked: str) -> None:
    assert asked_path(of.make_parser().parse_args(list(typed)).fast) == asked


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("--fast", "fastest"), "--fast/--no-fast: takes one of plain, native, torch, grouped, auto, but got fastest"),
        (("--no-fast", "torch"), "--no-fast takes no value"),
    ],
)
def test_another_path_is_refused(typed: tuple[str, ...], message: str, archgrad: Type) -> None:
    done = archgrad("search", *typed, "--out", "never")
    assert done.status == 2
    assert message in done.err


@pytest.mark.parametrize(("old", "word"), [("true", "auto"), ("false", "plain")])
def test_a_config_of_before_there_were_paths_is_read(
    old: str, word: str, searched: Path, archgrad: Type, tmp_path: Path
) -> None:
    config = (searched / "config.yaml").read_text()
    assert "fast: auto\n" in config
    (tmp_path / "old.yaml").write_text(config.replace("fast: auto\n", f"fast: {old}\n"))
    assert archgrad("search", "--config", tmp_path / "old.yaml", "--out", "old", "--quiet").status == 0
    assert config_of(Path("old")) == {**config_of(searched), "fast": word}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("command: retrain\n", "holds the options of 'archgrad retrain'"),
        ("epoch: 3\n", "Did you mean 'epochs'?"),
        ("space.operations: s1\n", "Write 'space_options: {operations: ...}'."),
        ("epochs: many\n", "epochs"),
        ("epochs: [1\n", "no valid YAML"),
        ("step: {name: first-order}\n", "belongs under method:"),
        ("resume: a\n", "'resume'"),
    ],
)
def test_a_config_that_is_none_is_refused(text: str, message: str, archgrad: Type) -> None:
    Path("c.yaml").write_text(text)
    outcome = archgrad("search", "--config", "c.yaml", "--out", "new")
    assert outcome.status == 2
    assert message in outcome.err
    assert not Path("new").exists()


@pytest.mark.parametrize("way", [("--resume", "a"), ("--config", "a/config.yaml", "--out", "b")])
def test_a_space_of_somebody_s_own_runs_only_when_it_is_typed(way: tuple[str, ...], archgrad: Type) -> None:
    space = Path("my_space.py")
    space.write_text(OWN)
    named = ("--space", "my_space.py:Net")
    assert archgrad("search", *named, "--epochs", 1, "--out", "a", "--quiet").status == 0
    space.write_text("raise SystemExit('it ran')\n")
    outcome = archgrad("search", *way)
    assert outcome.status == 2
    assert f"add --space '{space.absolute()}:Net'" in outcome.err
    space.write_text(OWN)
    assert archgrad("search", *way, *named, "--quiet").status == 0


def test_resuming_needs_nothing_else(archgrad: Type) -> None:
    first = archgrad("search", *QUICK, "--out", "a")
    before = content(Path("a"))
    again = archgrad("search", "--resume", "a", "--quiet", "--workers", 0)
    assert again.status == 0
    assert again.out == first.out  # nothing was left to do
    after = content(Path("a"))
    for file in ("config.yaml", "metrics.csv", "checkpoints/epoch_0.json"):
        assert after[file] == before[file]


def test_resuming_with_other_options_is_refused_with_the_difference(archgrad: Type) -> None:
    archgrad("search", *QUICK, "--out", "a")
    before = content(Path("a"))
    for typed, difference in (
        (("--epochs", 2), "epochs: the run has 1, asked for 2"),
        (("--channels", 3), "channels: the run has 2, asked for 3"),
        (("--step", "exact"), "method.step.name: the run has 'first-order', asked for 'unrolled'"),
        (("--out", "b"), "--resume goes on in the run's own folder"),
        (("--config", "a/config.yaml"), "does not go with --config"),
    ):
        outcome = archgrad("search", "--resume", "a", *typed)
        assert outcome.status == 2
        assert difference in outcome.err
        assert content(Path("a")) == before
    assert "no run folder" in archgrad("search", "--resume", "nowhere").err
    (Path("a") / "config.yaml").write_text("command: search\nepochs: 1\n")
    assert "started from Python" in archgrad("search", "--resume", "a").err


def test_a_run_is_replaced_only_when_told(archgrad: Type) -> None:
    archgrad("search", *QUICK, "--out", "a")
    before = content(Path("a"))
    refused = archgrad("search", *QUICK, "--out", "a", "--seed", 1)
    assert refused.status == 2
    assert "exists and is not empty" in refused.err
    assert content(Path("a")) == before
    assert archgrad("search", *QUICK, "--out", "a", "--seed", 1, "--overwrite").status == 0
    assert config_of(Path("a"))["seed"] == 1

    Path("letters").mkdir()
    Path("letters/to-mother.txt").write_text("Dear mother")
    for overwrite in ((), ("--overwrite",)):
        assert archgrad("search", *QUICK, "--out", "letters", *overwrite).status == 2
        assert content(Path("letters")) == {"to-mother.txt": b"Dear mother"}
    assert "--overwrite needs the folder" in archgrad("search", *QUICK, "--overwrite").err


def test_without_out_the_first_free_number_in_runs_is_taken(archgrad: Type) -> None:
    Path("runs/tiny-digits-1").mkdir(parents=True)
    outcome = archgrad("search", *QUICK, "--no-quiet")
    assert outcome.out.startswith("Run folder:    runs/tiny-digits-2\n")  # told at once, and again at the end
    assert outcome.out.count("Run folder:    runs/tiny-digits-2\n") == 2
    assert Path("runs/tiny-digits-2/metrics.csv").is_file()


def test_options_of_another_step_or_relaxation_are_refused(archgrad: Type) -> None:
    for typed, message in (
        (("--finite-difference-radius", 0.1), "--finite-difference-radius goes with --step unrolled"),
        (("--step", "exact", "--finite-difference-radius", 0.1), "goes with --step unrolled"),
        (("--relaxation", "softmax", "--temperature-min", 0.1), "--temperature-min goes with --relaxation gumbel"),
        (("--no-constant-gradient",), "--constant-gradient goes with --relaxation gumbel"),
        (("--step", "unrolled", "--finite-difference-radius", 0), "must be above 0"),
    ):
        outcome = archgrad("search", *QUICK, *typed, "--out", "a")
        assert outcome.status == 2
        assert message in outcome.err
        assert not Path("a").exists()


@pytest.mark.parametrize("step", ["unrolled", "exact"])
def test_second_order_by_name(step: str, archgrad: Type) -> None:
    assert archgrad("search", *QUICK, "--step", step, "--out", "a").status == 0
    config = config_of(Path("a"))
    hvp = {"unrolled": "finite-difference", "exact": "exact"}[step]
    assert config["method"]["step"] == {
        "name": "unrolled", "hvp": hvp, "finite_difference_radius": 0.01, "steps": 1, "truncation": None,
    }  # fmt: skip


def test_a_space_of_ones_own_from_a_file_or_module(archgrad: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("my_space.py").write_text(OWN)
    without_sizes = (*QUICK[4:], "--data", "digits")
    by_file = archgrad("search", "--space", "my_space.py:Net", *without_sizes, "--out", "a")
    assert by_file.status == 0, by_file.err
    settled = f"{Path('my_space.py').absolute()}:Net"
    assert config_of(Path("a"))["space"] == settled
    assert f"--space {settled} " in by_file.out
    by_module = archgrad("search", "--space", "my_space:Net", *without_sizes, "--out", "b")
    assert by_module.status == 0, by_module.err
    assert content(Path("a"))["metrics.csv"] == content(Path("b"))["metrics.csv"]
    # The architecture does not name a space, so that retraining is told it.
    assert "Give --space" in archgrad("retrain", "--arch", "a", *without_sizes, "--out", "r").err
    assert archgrad("retrain", "--arch", "a", "--space", settled, *without_sizes, "--out", "r").status == 0


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("my_space.py:Net", "--channels", "4"), "has no channels, but got --channels 4"),
        (("my_space.py:Other",), "has no 'Other'"),
        (("my_space.py:needs",), "needs depth"),
        (("my_space.py:returns_text",), "must be or return a torch.nn.Module, but gave str"),
        (("my_space.py:number",), "must be a class or function, but it is of type int"),
        (("elsewhere.py:Net",), "does not exist"),
        (("no.such.module:Net",), "cannot be imported"),
        (("my_space.py",), "Give my_space.py:NAME"),
        (("tiny", "--cells", "3"), "has no cells"),
        (("tiny", "--channels", "0"), "must be a whole number of at least 1"),
    ],
)
def test_a_space_that_cannot_be_built_is_refused(typed: tuple[str, ...], message: str, archgrad: Type) -> None:
    Path("my_space.py").write_text(OWN)
    outcome = archgrad("search", "--space", *typed, "--epochs", 1, "--out", "new")
    assert outcome.status == 2
    assert message in outcome.err
    assert not Path("new").exists()


def test_sizes_follow_from_the_space_and_the_data(archgrad: Type) -> None:
    folder = class_folders(Path("images"))
    options = ("--data", f"folder:{folder}", *QUICK[:2], "--epochs", 1, "--batch-size", 4, "--quiet")
    assert archgrad("search", *options, "--out", "a").status == 0
    config = config_of(Path("a"))
    assert config["channels"] == 8  # the space's own default
    assert config["data"] == f"folder:{folder.absolute()}"
    # 2 classes and 3 colours came from the images; from another folder the path still holds.
    assert archgrad("search", "--resume", "a").status == 0


def test_train_samples_keep_the_share_of_each_class() -> None:
    data = open_data({"data": "digits", "image_size": None, "train_samples": 100})
    whole = ag.data.load("digits")
    assert len(data.train) == 100  # type: ignore[arg-type]
    counts, total = Counter(data.train_targets.tolist()), Counter(whole.train_targets.tolist())
    for label, count in total.items():
        assert abs(counts[label] - count * 100 / len(whole.train)) <= 1  # type: ignore[arg-type]
    assert data.test is whole.test or len(data.test) == len(whole.test)  # type: ignore[arg-type]
    for wanted in (0, 1438):
        with pytest.raises(ag.errors.OptionError, match="from 1 to 1437"):
            open_data({"data": "digits", "image_size": None, "train_samples": wanted})


def test_an_interrupted_search_says_how_to_go_on(archgrad: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    @functools.wraps(command.search)  # the options are made from its signature
    def interrupted(*_: object, **__: object) -> None:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(command, "search", interrupted)
    outcome = archgrad("search", *QUICK, "--out", "my run")
    assert outcome.status == 128 + signal.SIGTERM
    assert "archgrad search --resume 'my run'" in outcome.out


def test_an_interruption_before_the_search_is_no_traceback(archgrad: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "make_method", pressed)
    outcome = archgrad("search", *QUICK)
    assert outcome.status == 130
    assert "Traceback" not in outcome.err


def test_a_file_of_arrays_is_searched_on_and_retrained_on(archgrad: Type, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "digits.npz", x=images, y=np.arange(60) % 3, x_test=images[:12], y_test=np.arange(12) % 3)
    quick = ("--channels", 2, "--cells", 3, "--epochs", 1, "--batch-size", 6)
    assert archgrad("search", "--data", "digits.npz", *quick).status == 0
    run = tmp_path / "runs" / "darts-cifar-digits-1"
    assert yaml.safe_load((run / "config.yaml").read_text())["data"] == str(tmp_path / "digits.npz")
    retrained = archgrad("retrain", "--arch", run, *quick, "--out", "again")
    assert retrained.status == 0
    assert archgrad("retrain", "--resume", "again").status == 0


def test_a_limit_of_time_saves_the_run_and_says_how_to_go_on(archgrad: Type, tmp_path: Path) -> None:
    loud = [option for option in QUICK if option != "--quiet"]
    ended = archgrad("search", *loud, "--out", "run", "--max-minutes", "1e-9")
    assert ended.status == 124
    assert "Search ended by its limit of 1e-09 minutes (max_minutes); its state is saved." in ended.out
    assert "archgrad search --resume run" in ended.out
    assert "resume=True" not in ended.err  # which is Python's way
    assert ended.err.startswith("Data: ")
    assert "max_minutes" not in (tmp_path / "run" / "config.yaml").read_text()
    assert archgrad("search", "--resume", "run").status == 0  # the limit was of that start
