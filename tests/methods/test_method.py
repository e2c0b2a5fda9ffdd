"""A method is data: what goes together, what is refused, and what a search makes of it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

import archgrad as ag
from archgrad.always_on import AuxiliarySkip
from archgrad.bilevel import FirstOrder, Unrolled, search_step
from archgrad.errors import OptionError, RunError
from archgrad.methods import (
    Method,
    Stage,
    darts,
    darts_minus,
    darts_second_order,
    drnas,
    fair_darts,
    gaea,
    gdas,
    snas,
    snas_without_none,
)
from archgrad.methods.tree import method_of_tree, tree_of
from archgrad.optimizers import Adam, ExponentiatedGradient
from archgrad.perturbations import Adversarial, Uniform
from archgrad.regularizers import BetaDecay, DirichletKL, ZeroOne
from archgrad.relaxation import Dirichlet, Gumbel, ReinMax, Sigmoid, Simplex, SoftGumbel, Softmax
from archgrad.runs import Interrupted
from archgrad.schedules import Cosine, Exponential, Linear, Progress
from archgrad.search.short_forms import MethodOptions
from archgrad.selection import Threshold
from archgrad.stopping import HessianEigenvalue, SkipCount
from archgrad.testing import MixedSpace, TabularSpace
from archgrad.weights_rules import Flooding, FreezeOperations, LayerAlignment

DATA = (torch.randn(44, 4, generator=torch.Generator().manual_seed(0)), torch.arange(44) % 3)
STAGES = (Stage(epochs=2, alphas_start_epoch=1), Stage(epochs=2, keep=1))
METHODS = {
    "beta": Method(regularizers=(BetaDecay(weight=Linear(0.0, 5.0)),)),
    "smooth": Method(perturbation=Uniform()),
    "attacked": Method(perturbation=Adversarial(steps=2)),
    "gaea": gaea,
    "snas": snas,
    "drnas": drnas,
    "fair": fair_darts,
    "cooled": Method(relaxation=Gumbel(), alphas_optimizer=Adam(learning_rate=Cosine(0.01, 0.001)), weights_first=True),
    "staged": Method(stages=STAGES, selection=Threshold(0.5), alphas_grad_clip=0.1),
    "sharp": Method(step=Unrolled(), stopping=HessianEigenvalue(frequency=1, start_epoch=9)),
    "flooded": Method(weights_rules=(Flooding(1.1),)),
    "aligned": Method(weights_rules=(LayerAlignment(),), perturbation=Uniform(0.1)),
    "noisy": Method(skip_noise=0.2, step=Unrolled()),
    "frozen": Method(weights_rules=(FreezeOperations(threshold=0.9, interval=3),)),
    "reinmax": Method(relaxation=ReinMax()),
    "stopped": Method(stopping=SkipCount(limit=9)),
    "minus": darts_minus,
    "edges": Method(edge_weights=Softmax()),
    "edges of gaea": replace(gaea, edge_weights=Simplex()),
    "everything": Method(
        regularizers=(BetaDecay(weight=Exponential(0.1, 1.0)),),
        perturbation=Uniform(radius=0.2),
        stages=STAGES,
        stopping=SkipCount(limit=9),
        selection=Threshold(),
        edge_weights=Dirichlet(),
        always_on=AuxiliarySkip(),
    ),
}


class Layered(torch.nn.Sequential):
    """Two layers that decide together."""

    def __init__(self) -> None:
        def layer() -> ag.LayerChoice:
            return ag.LayerChoice({"linear": torch.nn.Linear(4, 4), "tanh": torch.nn.Tanh()}, label="layer")

        super().__init__(layer(), layer(), torch.nn.Linear(4, 3))


def space(method: Method) -> torch.nn.Module:
    torch.manual_seed(0)
    if any(rule.looks_at_layers for rule in method.weights_rules):
        return Layered()
    kind = TabularSpace if method.edge_weights is None else MixedSpace
    return kind(chosen=2 if isinstance(method.relaxation, Softmax | Gumbel | SoftGumbel) else 1)


def found(method: Method | str, **options: Any) -> ag.SearchResult:
    made = method if isinstance(method, Method) else darts
    return ag.search(
        space(made), DATA, method=method, **{"batch_size": 8, "device": "cpu", "quiet": True, "epochs": None, **options}
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_method_comes_back_from_its_tree(name: str) -> None:
    tree = yaml.safe_load(yaml.safe_dump(tree_of(METHODS[name])))
    assert method_of_tree(tree, own=lambda name: pytest.fail(name)) == replace(METHODS[name], source="")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"relaxation": Simplex()}, "Simplex has alphas on the simplex, but Adam"),
        ({"alphas_optimizer": ExponentiatedGradient()}, "Softmax needs alphas that are free to grow"),
        ({"perturbation": Uniform(), "relaxation": Gumbel()}, "Gumbel draws the candidates that run"),
        ({"perturbation": Adversarial(), "relaxation": Gumbel()}, "Adversarial moves the weights of all candidates"),
        ({"perturbation": Uniform(), "relaxation": Sigmoid()}, "Sigmoid has weights that do not sum to one"),
        ({"perturbation": Uniform(), "step": Unrolled()}, "Unrolled looks ahead"),
        ({"edge_weights": Simplex()}, r"Simplex has alphas on the simplex, but Adam"),
        (
            {"relaxation": Simplex(), "alphas_optimizer": ExponentiatedGradient(), "edge_weights": Softmax()},
            r"or edge_weights=Simplex\(\)",
        ),
        ({"always_on": Softmax()}, "always_on must be a AlwaysOn"),
        ({"stages": ()}, "at least one stage"),
        ({"stages": (Stage(), Stage(epochs=2))}, "needs a length"),
        ({"stages": (Stage(epochs=1, keep=2), Stage(epochs=1, keep=3))}, "cannot keep more"),
        (
            {
                "relaxation": Simplex(),
                "alphas_optimizer": ExponentiatedGradient(),
                "stages": (Stage(epochs=1, keep=1),),
            },
            "no longer sum to one",
        ),
        ({"relaxation": Softmax}, "relaxation must be a Relaxation"),
        ({"regularizers": (Uniform(),)}, "regularizers must be a Regularizer"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Method(**parts)


def test_what_depends_on_the_rows_is_refused_by_the_search() -> None:
    for method in (gaea, drnas, fair_darts):
        with pytest.raises(OptionError, match="'join' takes 2"):
            ag.search(TabularSpace(), DATA, method=method, batch_size=8, quiet=True)
    for method, message in (
        (replace(gaea, regularizers=(BetaDecay(),)), "BetaDecay is a function of logits"),
        (Method(regularizers=(DirichletKL(),)), "DirichletKL is a distance of Dirichlet distributions, but Softmax"),
        (Method(regularizers=(ZeroOne(),)), "ZeroOne opens or shuts gates"),
        (Method(edge_weights=Gumbel()), "Gumbel draws those that run"),
    ):
        with pytest.raises(OptionError, match=message):
            found(method)


def test_what_a_space_does_not_have_is_refused_by_the_search() -> None:
    lone = nn.Sequential(nn.Linear(4, 3), ag.LayerChoice({"tanh": nn.Tanh(), "relu": nn.ReLU()}))
    for method, message in (
        (Method(edge_weights=Softmax()), "this space has no Cell"),
        (darts_minus, "AuxiliarySkip finds no choice to stand beside"),
    ):
        with pytest.raises(OptionError, match=message):
            ag.search(lone, DATA, method=method, batch_size=8, quiet=True)
    with pytest.raises(OptionError, match=r"The method has edge_weights=Softmax\(\), but the supernet None"):
        ag.search(ag.Supernet(MixedSpace()), DATA, method=Method(edge_weights=Softmax()), batch_size=8, quiet=True)


def test_presets_and_short_forms_mean_the_same() -> None:
    assert MethodOptions().choose_method() == replace(snas_without_none, source="")
    assert MethodOptions(method="default").choose_method() is snas_without_none  # as docs/results.md has it
    assert MethodOptions(method="darts-second-order").choose_method() is darts_second_order
    short = {"step": Unrolled(), "relaxation": Gumbel(), "weights_first": True, "alphas_learning_rate": 0.01}
    assert MethodOptions(**short).choose_method() == replace(
        gdas,
        step=Unrolled(),
        selection=snas_without_none.selection,
        alphas_optimizer=Adam(learning_rate=0.01),
        source="",
    )
    torch.manual_seed(0)
    plain = ag.search(
        TabularSpace(), DATA, relaxation=Gumbel(), weights_first=True, epochs=2, batch_size=8, device="cpu", quiet=True
    )
    assert found("gdas", epochs=2).history == plain.history
    for option, value in (("step", Unrolled()), ("weights_first", False)):
        with pytest.raises(OptionError, match=f"{option} contradicts the method"):
            found("gdas", **{option: value})
    with pytest.raises(OptionError, match=r"no method 'dart'\. Did you mean 'darts'\? Known are default, a2m"):
        found("dart")


def test_numbers_of_the_alphas_win_over_those_of_the_method() -> None:
    named = MethodOptions(method="gdas", alphas_learning_rate=0.02, alphas_betas=None).choose_method()
    assert named == MethodOptions(method=gdas, alphas_learning_rate=0.02).choose_method()
    assert named == replace(gdas, alphas_optimizer=replace(gdas.alphas_optimizer, learning_rate=0.02))
    multiplied = MethodOptions(method=gaea, alphas_learning_rate=0.5).choose_method()
    assert multiplied.alphas_optimizer == ExponentiatedGradient(learning_rate=0.5)
    with pytest.raises(OptionError, match="alphas_betas goes with Adam, but the method moves alphas by Exponentiated"):
        MethodOptions(method="gaea", alphas_betas=(0.5, 0.9)).choose_method()
    with pytest.raises(OptionError, match="alphas_learning_rate must be"):
        MethodOptions(method="gdas", alphas_learning_rate=-1.0).choose_method()


@pytest.mark.parametrize(("name", "at"), zip(METHODS, itertools.cycle((1, 4, 6))))
def test_an_interrupted_search_of_any_method_goes_on_to_the_bit(name: str, at: int, tmp_path: Path) -> None:
    method = METHODS[name]
    epochs = 4 if method.epochs is None else None
    expected = found(method, epochs=epochs, run_dir=tmp_path / "whole")
    calls = 0

    def loss(outputs: Any, targets: Any) -> Any:
        nonlocal calls
        calls += torch.is_grad_enabled()  # not the look before the first step
        if calls == 3 * at:
            raise KeyboardInterrupt
        return F.cross_entropy(outputs, targets)

    run, options = tmp_path / f"cut-{at}", {"epochs": epochs, "checkpoint_steps": 1}
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        found(method, run_dir=run, loss=loss, **options)
    resumed = found(method, run_dir=run, resume=True, **options)
    assert resumed.history == expected.history
    for file in ("metrics.csv", "checkpoints/epoch_3.json"):
        assert (run / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_search_that_was_stopped_stays_stopped_and_gives_the_epoch_that_the_rule_names(tmp_path: Path) -> None:
    method = Method(stopping=SkipCount(limit=1))
    result = found(method, epochs=30, alphas_learning_rate=None, run_dir=tmp_path / "run")
    assert result.stop is not None
    assert len(result.history) < 30
    assert result.history[-1]["most_skips"] >= 1
    assert all(row["most_skips"] < 1 for row in result.history[:-1])
    stored = ag.Architecture.load(tmp_path / "run" / "checkpoints" / f"epoch_{result.stop.epoch}.json")
    assert result.architecture == stored == ag.Architecture.load(tmp_path / "run" / "architecture.json")
    again = found(method, epochs=30, run_dir=tmp_path / "run", resume=True)
    assert (again.stop, again.history, again.architecture) == (result.stop, result.history, result.architecture)


def test_the_alphas_wait_and_rows_are_pruned_between_stages() -> None:
    result = found(METHODS["staged"])
    assert [row["valid_loss"] is None for row in result.history] == [True, False, False, False]
    assert {len(left) for label, left in result.supernet.kept.items() if label != "join"} == {1}
    start = ag.Supernet(space(darts), seed=0)
    waited = found(Method(stages=(Stage(epochs=1, alphas_start_epoch=1),)))
    assert all(torch.equal(waited.supernet.alphas[label], alpha) for label, alpha in start.alphas.items())
    shorter = found(METHODS["staged"], epochs=3)  # stages of 2 and 1
    assert [row["valid_loss"] is None for row in shorter.history] == [True, False, False]


def test_a_regulariser_alone_moves_the_alphas_by_its_gradient() -> None:
    # L_valid = 0 has no gradient; R = mean over rows of logsumexp has softmax / rows
    supernet = ag.Supernet(TabularSpace()).double()
    alphas = list(supernet.alphas.values())
    before = [alpha.detach().clone() for alpha in alphas]
    batch = (DATA[0].double()[:8], DATA[1][:8])
    report = search_step(
        supernet,
        batch,
        batch,
        step=FirstOrder(),
        weights_optimizer=torch.optim.SGD(supernet.weights.values(), 0.1),
        alphas_optimizer=torch.optim.SGD(alphas, 1.0),
        loss=lambda outputs, targets: 0.0 * outputs.sum(),
        regularizers=(BetaDecay(weight=Linear(0.0, 8.0, "end")),),
        progress=Progress(1, 4),
    )
    for alpha, old in zip(alphas, before, strict=True):
        torch.testing.assert_close(alpha.detach(), old - 2.0 * torch.softmax(old, 0) / len(alphas))
    value = torch.stack([old.logsumexp(0) for old in before]).mean()
    assert report.regularizers["BetaDecay"].item() == pytest.approx(2.0 * value.item(), rel=1e-12)


def test_a_part_that_changes_with_the_epoch_asks_for_the_progress() -> None:
    supernet = ag.Supernet(TabularSpace())
    options = {
        "step": FirstOrder(),
        "weights_optimizer": torch.optim.SGD(supernet.weights.values(), 0.1),
        "alphas_optimizer": torch.optim.SGD(supernet.alphas.values(), 0.1),
    }
    batch = (DATA[0][:8], DATA[1][:8])
    with pytest.raises(OptionError, match="weight of BetaDecay changes with the epoch"):
        search_step(supernet, batch, batch, regularizers=(BetaDecay(),), **options)
    with pytest.raises(OptionError, match="radius of Uniform changes with the epoch"):
        search_step(supernet, batch, batch, perturbation=Uniform(), **options)
    gumbel = ag.Supernet(TabularSpace(), Gumbel())
    gumbel.progress = Progress(3, 4)  # of an earlier step: stale
    options["weights_optimizer"] = torch.optim.SGD(gumbel.weights.values(), 0.1)
    options["alphas_optimizer"] = torch.optim.SGD(gumbel.alphas.values(), 0.1)
    with pytest.raises(OptionError, match="temperature of Gumbel changes with the epoch"):
        search_step(gumbel, batch, batch, **options)


def test_a_threshold_drops_weak_edges_but_never_the_last() -> None:
    cell = ag.Cell(1, {"none": lambda s, n: torch.nn.Identity(), "skip": lambda s, n: torch.nn.Identity()}, label="c")
    supernet = ag.Supernet(cell)
    with torch.no_grad():
        supernet.alphas["c/0->2"].copy_(torch.tensor([0.0, 3.0]))
        supernet.alphas["c/1->2"].copy_(torch.tensor([0.0, 1.0]))
    kept = {t: ag.discretize(supernet, scores=Threshold(t).scores(supernet)).choices["c"]["2"] for t in (0.7, 0.8, 1.0)}
    assert [edge.source for edge in kept[0.7]] == [0, 1]
    assert [edge.source for edge in kept[0.8]] == [0]
    assert [edge.source for edge in kept[1.0]] == [0]


def test_a_run_of_before_there_were_methods_is_resumed_or_refused_in_a_sentence(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = {"method": Method(relaxation=Gumbel(), step=Unrolled()), "epochs": 1}
    options |= {"batch_size": 8, "device": "cpu", "quiet": True}
    torch.manual_seed(0)
    ag.search(TabularSpace(), DATA, run_dir=run, **options)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["method"].pop("edge_weights")  # a kind of part that there was not
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert len(ag.search(TabularSpace(), DATA, run_dir=run, resume=True, **options).history) == 1
    config.pop("method")
    old = {
        "alphas_learning_rate": 3e-4, "alphas_betas": [0.5, 0.999], "alphas_weight_decay": 1e-3, "weights_first": False,
        "step": {"name": "Unrolled", "hvp": "finite-difference", "finite_difference_radius": 0.01},
        "relaxation": {"name": "Gumbel", "temperature_max": 10.0, "temperature_min": 0.1, "constant_gradient": True},
    }  # fmt: skip
    (run / "config.yaml").write_text(yaml.safe_dump({**config, **old}))
    assert len(ag.search(TabularSpace(), DATA, run_dir=run, resume=True, **options).history) == 1
    typed = {"step": "unrolled", "finite_difference_radius": 0.01, "relaxation": "gumbel", "temperature_max": 10.0}
    (run / "config.yaml").write_text(yaml.safe_dump({**config, **old, **typed}))
    assert len(ag.search(TabularSpace(), DATA, run_dir=run, resume=True, **options).history) == 1
    (run / "config.yaml").write_text(yaml.safe_dump({**config, **old, "relaxation": {"name": "Own"}}))
    with pytest.raises(OptionError, match="relaxation of somebody's own"):
        ag.search(TabularSpace(), DATA, run_dir=run, resume=True, **options)
    (run / "config.yaml").write_text(yaml.safe_dump({**config, **old}))
    other = {**options, "method": Method(relaxation=Gumbel(5.0), step=Unrolled())}
    with pytest.raises(RunError, match=r"method.relaxation.temperature_max: the run has 10.0, asked for 5.0"):
        ag.search(TabularSpace(), DATA, run_dir=run, resume=True, **other)


def test_a_run_of_before_there_was_an_option_is_resumed_as_one_with_its_default(tmp_path: Path) -> None:
    run, method = tmp_path / "run", METHODS["staged"]
    expected = found(method, run_dir=run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    older = {name: part for name, part in config["method"].items() if name not in ("weights_rules", "regularizers")}
    del older["relaxation"], older["selection"]["threshold"], older["stages"][0]["keep"]
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "method": older}))
    with pytest.raises(RunError, match=r"threshold: the run has 0\.85, asked for 0.5"):  # it has no default any more
        found(method, run_dir=run, resume=True)
    older["selection"]["threshold"] = 0.5
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "method": older}))
    assert found(method, run_dir=run, resume=True).history == expected.history
