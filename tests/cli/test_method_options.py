"""Methods from the command line: presets, parts and every option of a part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from archgrad.methods import Ensemble, Method, Stage, gaea, gdas, snas_without_none
from archgrad.methods.tree import tree_of
from archgrad.optimizers import Adam, ExponentiatedGradient
from archgrad.perturbations import Uniform
from archgrad.regularizers import BetaDecay, DirichletKL, ZeroOne
from archgrad.relaxation import Dirichlet, Gumbel, Sigmoid, Simplex, SoftGumbel
from archgrad.schedules import Linear
from archgrad.selection import Threshold
from archgrad.stopping import EpochLimit, SkipCount
from archgrad.weights_rules import Flooding

from .typed import Type

QUICK = ("--space", "tiny", "--channels", 2, "--epochs", 1, "--batch-size", 64, "--quiet", "--device", "cpu")

OWN = """
from dataclasses import dataclass
from archgrad.relaxation import Softmax

@dataclass(frozen=True)
class Sharp(Softmax):
    factor: float = 2.0

    def mix(self, alpha, row, draw):
        return super().mix(self.factor * alpha, row, draw)
"""


def tree(run: str) -> Any:
    return yaml.safe_load(Path(run, "config.yaml").read_text())["method"]


def changed(**parts: Any) -> Method:
    return replace(snas_without_none, **parts)


@pytest.mark.parametrize(
    ("typed", "method"),
    [
        (("--method", "gdas"), gdas),
        (("--method", "gdas", "--relaxation.temperature-max", 5), Method(relaxation=Gumbel(5.0), weights_first=True)),
        (
            ("--alphas-optimizer.learning-rate", "{name: linear, first: 1e-2, last: 1e-3}"),
            changed(alphas_optimizer=Adam(learning_rate=Linear(0.01, 0.001))),
        ),
        (
            ("--regularizers", "beta-decay", "--regularizers.beta-decay.weight=0.5", "--perturbation", "uniform"),
            changed(regularizers=(BetaDecay(weight=0.5),), perturbation=Uniform()),
        ),
        (
            ("--stopping", "skip-count", "--stopping.limit", 7, "--selection", "threshold", "--alphas-grad-clip", 5),
            changed(stopping=SkipCount(limit=7), selection=Threshold(), alphas_grad_clip=5.0),
        ),
        (("--skip-noise", 0.1), changed(skip_noise=0.1)),
        (
            ("--ensemble.members", 2, "--ensemble.without", "skip", "--stopping", "epoch-limit"),
            changed(ensemble=Ensemble(members=2, without=("skip",)), stopping=EpochLimit()),
        ),
        (("--ensemble", "none"), changed()),
        (("--stages", "[{epochs: 1, keep: 2}]"), changed(stages=(Stage(epochs=1, keep=2),))),
        (
            ("--relaxation", "simplex", "--alphas-optimizer", "exponentiated-gradient"),
            changed(relaxation=Simplex(), alphas_optimizer=ExponentiatedGradient()),
        ),
        (
            ("--relaxation", "soft-gumbel", "--relaxation.temperature-min", 2),
            changed(relaxation=SoftGumbel(temperature_min=2.0)),
        ),
        (
            ("--weights-rules", "flooding", "--weights-rules.flooding.level", 0.2),
            changed(weights_rules=(Flooding(0.2),)),
        ),
        (
            ("--relaxation", "dirichlet", "--regularizers", "dirichlet-kl"),
            changed(relaxation=Dirichlet(), regularizers=(DirichletKL(),)),
        ),
        (
            ("--relaxation", "sigmoid", "--regularizers", "zero-one", "--regularizers.zero-one.norm", "l1"),
            changed(relaxation=Sigmoid(), regularizers=(ZeroOne(norm="l1"),)),
        ),
    ],
)
def test_every_part_can_be_typed_and_config_yaml_runs_it_again(
    typed: tuple[Any, ...], method: Method, archgrad: Type
) -> None:
    outcome = archgrad("search", *QUICK, *typed, "--out", "a")
    assert outcome.status == 0, outcome.err
    assert tree("a") == tree_of(method)
    assert archgrad("search", "--config", "a/config.yaml", "--out", "b", "--quiet").status == 0
    for file in ("config.yaml", "metrics.csv", "checkpoints/epoch_0.json"):
        assert Path("a", file).read_bytes() == Path("b", file).read_bytes()
    assert archgrad("search", "--resume", "a", "--quiet").status == 0


def test_a_file_may_change_parts_of_a_method_that_it_names(archgrad: Type) -> None:
    Path("own.yaml").write_text("method: {name: gaea, ensemble: {members: 2}, skip_noise: 0.1}\n", encoding="utf-8")
    assert archgrad("search", *QUICK, "--config", "own.yaml", "--out", "a").status == 0
    assert tree("a") == tree_of(replace(gaea, ensemble=Ensemble(members=2), skip_noise=0.1))
    assert archgrad("search", "--resume", "a", "--quiet").status == 0
    Path("own.yaml").write_text("method: {name: gaia}\n", encoding="utf-8")
    assert "There is no method 'gaia'. Did you mean 'gaea'?" in archgrad("search", "--config", "own.yaml").err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            ("--method", "dart"),
            "There is no method 'dart'. Did you mean 'darts'? Known are default, a2m, beta-darts, darts,",
        ),
        (("--perturbation", "unifrom"), "There is no perturbation 'unifrom'. Did you mean 'uniform'?"),
        (("--perturbation.radius", 0.1), "add --perturbation NAME"),
        (("--weights-rules", "flooding"), "missing 1 required positional argument: 'level'"),
        (("--regularizers.beta-decay.weight", 1), "add --regularizers beta-decay"),
        (("--relaxation", "gumbel", "--relaxation.temperature", 1), "relaxation 'gumbel' has no option 'temperature'"),
        (("--alphas-optimizer.betas", "[0.5]"), "alphas_optimizer.betas takes"),
        (("--alphas-optimizer", "exponentiated-gradient"), "SoftGumbel needs alphas that are free to grow"),
        (
            ("--relaxation", "simplex", "--alphas-optimizer", "exponentiated-gradient", "--alphas-betas", "[0.5,0.9]"),
            "--alphas-betas goes with --alphas-optimizer adam",
        ),
        (("--space.colour", 3), "The space 'tiny' has no option --space.colour"),
        (("--relaxation.temperature-max",), "needs a value"),
    ],
)
def test_what_cannot_be_made_is_refused_with_a_hint(typed: tuple[Any, ...], message: str, archgrad: Type) -> None:
    outcome = archgrad("search", *QUICK, *typed, "--out", "a")
    assert outcome.status == 2
    assert message in outcome.err
    assert not Path("a").exists()


def test_a_part_of_ones_own_runs_only_when_it_is_typed(archgrad: Type) -> None:
    Path("mine.py").write_text(OWN)
    typed = ("--relaxation", "mine.py:Sharp")
    assert archgrad("search", *QUICK, *typed, "--relaxation.factor", 3, "--out", "a").status == 0
    name = f"{Path('mine.py').absolute()}:Sharp"
    assert tree("a")["relaxation"] == {"name": name, "factor": 3}
    refused = archgrad("search", "--resume", "a", "--quiet")
    assert refused.status == 2
    assert "Nothing that a file names is run unless you name it too" in refused.err
    assert archgrad("search", "--resume", "a", "--quiet", *typed).status == 0
    missing = archgrad("search", *QUICK, "--relaxation", "none.py:Sharp", "--out", "b")
    assert "The part's file" in missing.err


def test_any_typed_parameter_of_a_space_is_an_option(archgrad: Type) -> None:
    typed = ("--space", "darts-cifar", "--channels", 2, "--cells", 3, "--space.nodes", 1)
    quick = ("--epochs", 1, "--batch-size", 256, "--quiet", "--device", "cpu")
    outcome = archgrad("search", *typed, *quick, "--out", "a")
    assert outcome.status == 0
    line = next(line for line in outcome.out.splitlines() if "archgrad retrain" in line)
    assert line.endswith("--space.nodes 1 --data digits")
    config = yaml.safe_load(Path("a/config.yaml").read_text())
    assert config["space_options"] == {"nodes": 1}
    assert archgrad("search", "--resume", "a", "--quiet").status == 0
    wrong = archgrad("search", *typed[:-1], "many", *quick, "--out", "b")
    assert wrong.status == 2
    assert "--space.nodes takes int, but got 'many'" in wrong.err


def test_methods_lists_presets_with_their_sources_and_every_option(archgrad: Type) -> None:
    shown = archgrad("methods").out
    for words in ("gdas\n  Dong and Yang 2019", "gumbel (temperature_max=10.0", "--relaxation.temperature-max 10.0"):
        assert words in shown
    assert "exponentiated-gradient" in shown


def test_help_begins_with_what_people_set_first(archgrad: Type) -> None:
    for command, first in (("search", "--space"), ("retrain", "--arch")):
        shown = archgrad(command, "--help").out
        head = shown.index("set most often")
        assert head < shown.index(f"{first} ", head) < shown.index("--grad-clip")
        assert shown.index("--out") < shown.index("--grad-clip")


def test_stages_of_other_sizes_are_searched_and_resumed(archgrad: Type) -> None:
    small = (
        "--method", "p-darts", "--data", "digits", "--train-samples", 32, "--channels", 2, "--space.nodes", 1,
        "--epochs", 3, "--batch-size", 16, "--quiet", "--device", "cpu",
    )  # fmt: skip
    assert archgrad("search", *small, "--out", "whole").status == 0
    assert archgrad("search", *small, "--out", "cut", "--max-minutes", "1e-9").status == 124
    for run in ("cut", "cut"):  # the second time it has ended
        assert archgrad("search", "--resume", run).status == 0
    assert Path("whole", "metrics.csv").read_bytes() == Path("cut", "metrics.csv").read_bytes()
    config = yaml.safe_load(Path("cut", "config.yaml").read_text())
    assert config["cells"] == 5  # what the first stage builds
    assert [stage["space"] for stage in config["method"]["stages"]] == [{"cells": n} for n in (5, 11, 17)]
    assert [stage["epochs"] for stage in config["method"]["stages"]] == [1, 1, 1]
    assert archgrad("retrain", "--arch", "cut", "--cells", 2, *small[2:8], "--epochs", 1, *small[12:]).status == 0
    assert "cells=4 of the space contradicts the method" in archgrad("search", *small, "--cells", 4).err
    assert "'tiny' has no such option" in archgrad("search", *QUICK, "--method", "p-darts", "--epochs", 3).err
