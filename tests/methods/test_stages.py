"""Stages that begin with a network of their own: lengths, rates, what stays, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_searches import Cuts
from torch import nn

import archgrad as ag
from archgrad.errors import OptionError, SpaceError
from archgrad.methods import Method, Stage, drnas_progressive, p_darts
from archgrad.methods.tree import method_of_tree, tree_of
from archgrad.runs import Interrupted
from archgrad.schedules import Progress
from archgrad.search.optimizers import cosine
from archgrad.search.widening import StageState, widen
from archgrad.selection import Likeliest, Selection, SkipLimit
from archgrad.skip_dropout import SkipDropout, add_skip_dropout, set_skip_dropout
from archgrad.testing import TabularSpace
from archgrad.weights_rules import FreezeOperations, WeightsRule

DATA = (torch.randn(44, 4, generator=torch.Generator().manual_seed(0)), torch.arange(44) % 3)
GROWING = Method(
    stages=(
        Stage(epochs=2, alphas_start_epoch=1, space={"width": 4}),
        Stage(epochs=2, alphas_start_epoch=1, keep=1, space={"width": 6}, skip_dropout=0.4),
        Stage(epochs=1),
        Stage(epochs=1, space={"width": 8}, skip_dropout=0.7),
    )
)
WIDENING = Method(
    stages=(
        Stage(epochs=2, alphas_start_epoch=1, space={"width": 4}),
        Stage(epochs=2, keep=1, space={"width": 6}, widen=True),
        Stage(epochs=2, space={"width": 9}, widen=True, skip_dropout=0.5),
    )
)
OPTIONS = {"batch_size": 8, "device": "cpu", "quiet": True}


def found(method: Method = GROWING, space: Any = TabularSpace, **options: Any) -> ag.SearchResult:
    return ag.search(space, DATA, method=method, **{**OPTIONS, **options})


# --- lengths and rates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "lengths", "starts"),
    [
        (75, [25, 25, 25], [10, 10, 10]),  # the paper's
        (150, [50, 50, 50], [20, 20, 20]),
        (6, [2, 2, 2], [1, 1, 1]),  # 10 * 2 / 25 = 0.8
        (7, [2, 3, 2], [1, 1, 1]),  # ends at 7/3, 14/3 and 7, rounded
        (3, [1, 1, 1], [0, 0, 0]),  # 0.4
    ],
)
def test_lengths_of_stages_are_shares(epochs: int, lengths: list[int], starts: list[int]) -> None:
    stages = p_darts.scaled(epochs).stages
    assert [stage.epochs for stage in stages] == lengths
    assert [stage.alphas_start_epoch for stage in stages] == starts
    assert [stage.space for stage in stages] == [{"cells": 5}, {"cells": 11}, {"cells": 17}]


def test_alphas_that_learn_still_do_at_any_length_and_those_that_wait_still_wait() -> None:
    late = Method(stages=(Stage(epochs=10, alphas_start_epoch=9), Stage(epochs=10, alphas_start_epoch=10)))
    assert [stage.alphas_start_epoch for stage in late.scaled(4).stages] == [1, 2]
    assert Method().scaled(7) == Method()


def test_the_rate_of_dropout_is_that_of_the_authors_code() -> None:
    # p = rate (E - e - 1) / E while the alphas wait, for 10 epochs of E = 25; then rate exp(-0.2 (e - 10))
    for stage, rate in zip(p_darts.stages, (0.0, 0.4, 0.7), strict=True):
        expected = [rate * (25 - e - 1) / 25 if e < 10 else rate * math.exp(-0.2 * (e - 10)) for e in range(25)]
        assert [stage.skip_dropout_at(e) for e in range(25)] == pytest.approx(expected, rel=1e-15)


def test_the_learning_rate_begins_anew_with_a_network_and_goes_on_without_one() -> None:
    courses = [GROWING.weights_progress(Progress(e, 6, 3)) for e in range(6)]
    assert courses == [
        *(Progress(e, 2, 3) for e in range(2)),
        *(Progress(e, 3, 3) for e in range(3)),
        Progress(0, 1, 3),
    ]
    assert [WIDENING.weights_progress(Progress(e, 6)) for e in range(6)] == [Progress(e, 6) for e in range(6)]
    assert [GROWING.network_stage(k) for k in range(4)] == [0, 1, 1, 3]
    rates = [row["learning_rate"] for row in found().history]
    assert rates == [cosine(c.epoch, c.epochs, first=0.025, last=0.001) for c in courses]
    without = replace(GROWING, stages=(Stage(epochs=3), Stage(epochs=3, keep=1)))
    assert [without.weights_progress(Progress(e, 6)) for e in range(6)] == [Progress(e, 6) for e in range(6)]


# --- dropout ----------------------------------------------------------------------------------------------------------


def test_dropout_keeps_the_mean_and_ends_in_evaluation() -> None:
    x = torch.rand(2, 3, 100, 100) + 1.0
    module = SkipDropout()
    assert torch.equal(module(x), x)  # it drops nothing at first
    set_skip_dropout(module, 0.25)
    torch.manual_seed(0)
    dropped = module(x)
    stays = dropped != 0
    torch.testing.assert_close(dropped[stays], x[stays] / 0.75)
    assert float(stays.float().mean()) == pytest.approx(0.75, abs=0.01)  # 60,000 draws: a deviation of 0.0018
    torch.manual_seed(0)
    assert torch.equal(module(x.to(memory_format=torch.channels_last)), dropped)
    assert torch.equal(module.eval()(x), x)
    assert not module.state_dict()


def test_dropout_follows_identities_among_candidates_alone() -> None:
    network = ag.spaces.darts_cifar(channels=2, cells=3, nodes=1)
    network.stem.append(nn.Identity())
    edges = [edge for cell in network.cells for edge in cell.graph.edges]
    skips = sum(isinstance(edge["skip_connect"], nn.Identity) for edge in edges)
    add_skip_dropout(network)
    assert skips == 2  # of the normal cell; reductions skip with FactorizedReduce, as in the authors' code
    assert sum(isinstance(module, SkipDropout) for module in network.modules()) == skips
    assert isinstance(network.stem[-1], nn.Identity)


def test_a_derived_network_has_no_dropout_of_the_search() -> None:
    torch.manual_seed(0)
    supernet = ag.Supernet(TabularSpace())
    add_skip_dropout(supernet.network)
    set_skip_dropout(supernet.network, 0.5)
    architecture = ag.discretize(
        supernet, scores={label: [0.0, 1.0, 0.5][: len(row.names)] for label, row in supernet.rows.items()}
    )
    for keep_weights in (True, False):
        network = ag.derive(supernet, architecture, keep_weights=keep_weights)
        assert not any(isinstance(module, SkipDropout) for module in network.modules())
    assert any(isinstance(module, SkipDropout) for module in supernet.modules())  # it stays as it is


@pytest.mark.parametrize("fast", [True, False])
def test_a_search_drops_at_the_rate_of_its_stage(fast: bool) -> None:
    seen: list[float] = []

    def watch(state: ag.EpochState) -> None:
        modules = [module for module in state.network.modules() if isinstance(module, SkipDropout)]
        seen.append(1.0 - float(modules[0].keep) if modules else 0.0)

    found(on_epoch=watch, fast=fast)
    # 0.4 (2 - 0 - 1) / 2, 0.4 exp(0); the third stage goes on with the network, whose dropout it does not want
    assert seen == pytest.approx([0.0, 0.0, 0.2, 0.4, 0.0, 0.7])


# --- what begins, and what stays --------------------------------------------------------------------------------------


def test_each_stage_has_its_size_and_keeps_what_is_left() -> None:
    built: list[int] = []
    kept: list[set[int]] = []

    def space(width: int) -> nn.Module:
        built.append(width)
        return TabularSpace(width=width)

    def watch(state: ag.EpochState) -> None:
        network = state.network
        assert isinstance(network, ag.Supernet)
        kept.append({len(left) for label, left in network.kept.items() if label != "join"})

    result = found(space=partial(space, width=4), on_epoch=watch)
    assert built == [4, 6, 8, 4, 6, 8]  # looked at before the first epoch, then one by one
    assert kept == [set(), set(), {1}, {1}, {1}, {1}]
    assert result.supernet.network.stem.out_features == 8
    assert ag.derive(TabularSpace(width=5), result.architecture)(DATA[0]).shape == (44, 3)
    weights = {id(weight) for weight in result.supernet.weights.values()}
    assert weights <= {id(weight) for weight in result.supernet.network.parameters()}


def test_weights_and_alphas_begin_anew_from_other_numbers_each_time() -> None:
    same = Method(stages=(Stage(epochs=1, alphas_start_epoch=1, space={"width": 4}),) * 2)
    alphas: list[torch.Tensor] = []
    weights: list[torch.Tensor] = []

    def watch(state: ag.EpochState) -> None:
        network = state.network
        assert isinstance(network, ag.Supernet)
        alphas.append(network.alphas["first"].detach().clone())
        weights.append(network.weights["stem.weight"].detach().clone())

    found(same, on_epoch=watch, learning_rate=1e-9, learning_rate_min=0.0)
    assert not torch.equal(*alphas)
    assert not torch.allclose(*weights, atol=1e-3)
    start = ag.Supernet(TabularSpace(), seed=0)
    assert torch.equal(alphas[0], start.alphas["first"])  # the first stage is a search as ever


@pytest.mark.parametrize("selection", [Likeliest(), SkipLimit(limit=0)])
def test_pruning_reads_the_alphas_of_the_stage_before(selection: Selection) -> None:
    probabilities: list[dict[str, list[float]]] = []

    def watch(state: ag.EpochState) -> None:
        assert isinstance(state.network, ag.Supernet)
        probabilities.append(state.network.probabilities())

    result = found(replace(GROWING, selection=selection), on_epoch=watch)
    for label, left in result.supernet.kept.items():
        if label != "join":
            row = probabilities[1][label]
            assert left == (row.index(max(row)),)


@pytest.mark.parametrize("method", [GROWING, WIDENING], ids=["anew", "widened"])
def test_killed_anywhere_it_goes_on_to_the_bit(method: Method, tmp_path: Path) -> None:
    cuts = Cuts()
    options = {"method": method, "space": cuts.space, "loss": cuts.loss, "checkpoint_steps": 1}
    expected = found(run_dir=tmp_path / "whole", **options)
    places = [{"call": call} for call in range(2, cuts.calls, 17)]
    places += [{"build": build} for build in (5, 6)]  # at a border
    for number, place in enumerate(places):
        cuts.begin(**place)
        run = tmp_path / f"cut-{number}"
        with pytest.raises((KeyboardInterrupt, Interrupted)):
            found(run_dir=run, **options)
        cuts.begin()
        resumed = found(run_dir=run, resume=True, **options)
        assert resumed.history == expected.history
        assert resumed.supernet.kept == expected.supernet.kept
        for name, value in expected.supernet.state_dict().items():
            assert torch.equal(resumed.supernet.state_dict()[name], value)
        for file in ("metrics.csv", "checkpoints/epoch_3.json", "checkpoints/epoch_5.json"):
            assert (run / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_run_that_ended_is_read_with_the_network_of_its_last_stage(tmp_path: Path) -> None:
    result = found(run_dir=tmp_path / "run")
    again = found(run_dir=tmp_path / "run", resume=True)
    assert again.history == result.history
    for name, value in result.supernet.state_dict().items():
        assert torch.equal(again.supernet.state_dict()[name], value)


def test_new_channels_are_copies_of_old_ones_in_every_layer_alike() -> None:
    torch.manual_seed(0)
    small, large = (state_of(TabularSpace(width=width, chosen=1)) for width in (4, 7))
    for _ in range(2):
        (small.supernet(DATA[0]).square().sum()).backward()
        small.weights_optimizer.step()
        small.alphas_optimizer.step()
    small.supernet.generator.manual_seed(5)
    widen(small, large, seed=3)
    before, after = small.supernet.network.state_dict(), large.supernet.network.state_dict()
    source = [0, 1, 2, 3, *torch.randint(4, (3,), generator=torch.Generator().manual_seed(3)).tolist()]
    assert torch.equal(after["stem.weight"], before["stem.weight"][source])
    inner = "first.candidates.0.0"
    assert torch.equal(after[f"{inner}.weight"], before[f"{inner}.weight"][source][:, source])
    assert torch.equal(after[f"{inner}.bias"], before[f"{inner}.bias"][source])
    assert torch.equal(after["head.weight"], before["head.weight"][:, source])
    assert torch.equal(after["head.bias"], before["head.bias"])
    for name, weight in large.supernet.weights.items():
        momentum = small.weights_optimizer.state[small.supernet.weights[name]]["momentum_buffer"]
        for axis, (old, new) in enumerate(zip(momentum.shape, weight.shape, strict=True)):
            momentum = momentum if old == new else momentum.index_select(axis, torch.tensor(source))
        assert torch.equal(large.weights_optimizer.state[weight]["momentum_buffer"], momentum)
    for label, alpha in small.supernet.alphas.items():
        assert torch.equal(large.supernet.alphas[label], alpha)
        moments = (state.alphas_optimizer.state[state.supernet.alphas[label]] for state in (small, large))
        assert len({float(each["exp_avg"].sum()) for each in moments}) == 1
    assert large.weights_optimizer.param_groups[0]["lr"] == small.weights_optimizer.param_groups[0]["lr"] == 0.1
    assert torch.equal(large.supernet.generator.get_state(), small.supernet.generator.get_state())


def state_of(space: nn.Module) -> StageState:
    supernet = ag.Supernet(space)
    return StageState(
        supernet,
        torch.optim.SGD(supernet.weights.values(), 0.1 if space.stem.out_features == 4 else 0.2, momentum=0.9),
        torch.optim.Adam(supernet.alphas.values()),
    )


@pytest.mark.parametrize("rules", [(), (FreezeOperations(0.9, 2),)], ids=["plain", "with memory"])
def test_a_network_of_the_same_size_that_is_widened_is_the_same_network(rules: tuple[WeightsRule, ...]) -> None:
    went_on = Method(weights_rules=rules, stages=(Stage(epochs=2, space={"width": 4}), Stage(epochs=2, keep=1)))
    widened = replace(went_on, stages=(*went_on.stages[:1], replace(went_on.stages[1], space={"width": 4}, widen=True)))
    expected, result = found(went_on), found(widened)
    assert result.history == expected.history
    assert any(row.get("frozen_operations") for row in result.history) == bool(rules)
    for name, value in expected.supernet.state_dict().items():
        assert torch.equal(result.supernet.state_dict()[name], value)


@pytest.mark.parametrize("fast", [True, False])
def test_more_channels_of_a_cell_go_through_operations_that_were_widened(fast: bool) -> None:
    shapes: list[dict[str, torch.Size]] = []
    left: list[set[int]] = []

    def watch(state: ag.EpochState) -> None:
        assert isinstance(state.network, ag.Supernet)
        shapes.append({name: value.shape for name, value in state.network.network.state_dict().items()})
        left.append({len(numbers) for numbers in state.network.kept.values()})

    space = partial(ag.spaces.darts_cifar, channels=12, cells=3, nodes=1)
    result = ag.search(
        space,
        "digits",
        method="drnas-progressive",
        epochs=2,
        on_epoch=watch,
        fast=fast,
        **{**OPTIONS, "batch_size": 400},
    )
    before, after = shapes
    pointwise = "cells.0.graph.edges.0.candidates.4.op.2.weight"  # of sep_conv_3x3, of 12 / 6 channels and 12 / 4
    assert (before[pointwise], after[pointwise]) == ((2, 2, 1, 1), (3, 3, 1, 1))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if ".edges." in name and before[name] != ()}
    assert left == [set(), {4}]
    retrained = ag.derive(ag.spaces.darts_cifar(12, 3, in_channels=1, stage="retrain"), result.architecture)
    assert retrained(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_layers_that_are_new_begin_with_first_weights() -> None:
    method = Method(stages=(Stage(epochs=1, space={"cells": 3}), Stage(epochs=1, space={"cells": 4}, widen=True)))
    space = partial(ag.spaces.darts_cifar, channels=2, nodes=1)
    result = ag.search(space, "digits", method=method, **{**OPTIONS, "batch_size": 400})
    assert len(result.supernet.network.cells) == 4


# --- as data, and at the door -----------------------------------------------------------------------------------------


def test_the_tree_holds_all_options_of_a_stage() -> None:
    for method in (GROWING, WIDENING, p_darts, drnas_progressive):
        assert method_of_tree(tree_of(method), own=lambda name: pytest.fail(name)) == replace(method, source="")
    unset = {"space": {}, "widen": False, "skip_dropout": 0.0}
    assert tree_of(GROWING)["stages"][2] == {"epochs": 1, "alphas_start_epoch": 0, "keep": None, **unset}
    assert len({GROWING, p_darts, GROWING}) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": {1: 2}}, "options of the space by name"),
        ({"space": 3}, "options of the space by name"),
        ({"skip_dropout": 1.0, "epochs": 1}, "from 0 to below 1"),
        ({"skip_dropout": True, "epochs": 1}, "from 0 to below 1"),
        ({"skip_dropout": 0.5}, "follows the length"),
        ({"widen": True}, "needs the sizes that grow"),
    ],
)
def test_a_stage_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Stage(**options)


def test_what_cannot_be_built_anew_is_refused_before_the_first_epoch() -> None:
    with pytest.raises(
        OptionError, match=r"Stage 1 .* width=4, but the space is a TabularSpace .* if it takes width; or"
    ):
        found(space=TabularSpace())
    with pytest.raises(OptionError, match="is built already"):
        found(space=ag.Supernet(TabularSpace()))
    with pytest.raises(
        OptionError, match=r"sets cells=5 of the space, but 'tiny' has no such option.* such as darts-cifar"
    ):
        ag.search("tiny", "digits", method="p-darts", **OPTIONS)
    with pytest.raises(OptionError, match="width=9 of the space contradicts the method, whose first stage has width=4"):
        found(space=partial(TabularSpace, width=9))
    with pytest.raises(OptionError, match="epochs=3 are too few for stages of 2, 2, 1, 1 epochs"):
        found(epochs=3)
    other = TabularSpace()
    with pytest.raises(OptionError, match="Give weights_optimizer as a function"):
        found(weights_optimizer=torch.optim.SGD(other.parameters(), 0.1))
    decides = Method(stages=(Stage(epochs=1), Stage(epochs=1, space={"chosen": 1})))
    with pytest.raises(OptionError, match="differ in what they decide"):
        found(decides)
    dropped = Method(stages=(Stage(epochs=1), Stage(epochs=1, skip_dropout=0.5)))
    with pytest.raises(OptionError, match=r"Stage 2 .* has skip_dropout=0.5, but no candidate of the space is an id"):
        found(dropped, space=nn.Sequential(ag.LayerChoice([nn.Linear(4, 3), nn.Linear(4, 3)], label="head")))
    shrinks = Method(stages=(Stage(epochs=1), Stage(epochs=1, space={"width": 6}, widen=True)))
    with pytest.raises(OptionError, match=r"'stem.weight' has the shape \(8, 4\) there and \(6, 4\) in the stage"):
        found(shrinks)
    with pytest.raises(OptionError, match="first stage has no network before it"):
        Method(stages=(Stage(space={"width": 4}, widen=True),))
    with pytest.raises(SpaceError, match=r"got the function built. Give built\(...\), or functools.partial with depth"):
        found(space=built)


def built(depth: int) -> nn.Module:
    return TabularSpace(width=depth)


def test_a_class_or_function_is_a_space_that_fits_the_data() -> None:
    def space(num_classes: int, chosen: int = 2) -> nn.Module:
        assert num_classes == 3
        torch.manual_seed(0)
        return TabularSpace(classes=num_classes, chosen=chosen)

    torch.manual_seed(0)
    module = TabularSpace()
    expected = found(Method(), module, epochs=2)
    assert found(Method(), space, epochs=2).history == expected.history
    with pytest.raises(SpaceError, match=r"must be or return a torch.nn.Module, but gave int"):
        found(Method(), lambda: 3, epochs=1)
