"""The limit on skip connections: P-DARTS' rule on its cell, and what it means elsewhere."""

from __future__ import annotations

import random

import pytest
from torch import nn

import archgrad as ag
from archgrad.decision import cell_nodes
from archgrad.errors import OptionError
from archgrad.selection import Likeliest, SkipLimit
from archgrad.testing import TabularSpace, Times
from toys import relaxed, softmax

NAMES = ("none", "skip_connect", "a", "b")


def cell(label: str = "cell", names: tuple[str, ...] = NAMES) -> ag.Cell:
    return ag.Cell(3, {name: lambda source, node: Times(1.0) for name in names}, label=label)


def drawn(choice: ag.Cell, draw: random.Random, label: str = "cell") -> dict[str, list[float]]:
    return {
        row: [draw.gauss(0, 1), draw.gauss(1.5, 1), *(draw.gauss(0, 1) for _ in "ab")] for row in choice.rows(label)
    }


def kept(
    supernet: ag.Supernet, selection: SkipLimit | Likeliest, label: str = "cell"
) -> dict[int, list[tuple[str, int]]]:
    decision = ag.discretize(supernet, scores=selection.scores(supernet)).choices[label]
    return {node: sorted(edges) for node, edges in cell_nodes(decision).items()}


def p_darts(alphas: dict[str, list[float]], limit: int) -> dict[int, list[tuple[str, int]]]:
    """Section 3.3 of the paper, on tables of its own: parse, set the weakest skip to zero, and parse again."""
    table = {tuple(map(int, row.removeprefix("cell/").split("->"))): softmax(a) for row, a in alphas.items()}
    while True:
        parsed = {}
        for node in (2, 3, 4):
            best = {s: max(range(1, 4), key=lambda k, s=s: table[s, node][k]) for s in range(node)}
            strong = sorted(best, key=lambda s: -table[s, node][best[s]])[:2]
            parsed[node] = sorted((NAMES[best[s]], s) for s in strong)
        skips = [(s, node) for node, edges in parsed.items() for name, s in edges if name == "skip_connect"]
        if len(skips) <= limit:
            return parsed
        table[min(skips, key=lambda edge: table[edge][1])][1] = 0.0


@pytest.mark.parametrize("limit", [0, 1, 2, 5])
def test_it_is_the_rule_of_p_darts(limit: int) -> None:
    draw, changed = random.Random(limit), 0
    for _ in range(20):
        alphas = drawn(cell(), draw)
        supernet = relaxed(cell(), alphas)
        found = kept(supernet, SkipLimit(limit=limit))
        assert found == p_darts(alphas, limit)
        changed += found != kept(supernet, Likeliest())
    assert changed > (0 if limit == 5 else 5)


class TwoCells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = cell("normal"), cell("reduce")


def test_every_kind_of_cell_has_the_limit_for_itself_unless_a_label_says_which() -> None:
    draw = random.Random(0)
    alphas = drawn(cell(), draw, "normal") | drawn(cell(), draw, "reduce")
    supernet = relaxed(TwoCells(), alphas)

    def skips(selection: SkipLimit | Likeliest) -> list[int]:
        return [
            sum(name == "skip_connect" for edges in kept(supernet, selection, label).values() for name, _ in edges)
            for label in ("normal", "reduce")
        ]

    plain = skips(Likeliest())
    assert min(plain) > 2
    assert skips(SkipLimit()) == [2, 2]
    assert skips(SkipLimit(label="normal")) == [2, plain[1]]


def test_a_cell_of_skip_connections_alone_keeps_them() -> None:
    supernet = relaxed(cell(names=("none", "skip_connect")))
    assert all(edges for edges in kept(supernet, SkipLimit(limit=0)).values())


def test_layer_choices_count_together_and_the_weakest_skip_gives_way() -> None:
    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(
                ag.LayerChoice({"skip": nn.Identity(), "dense": nn.Linear(2, 2)}, label=f"layer{i}") for i in range(3)
            )
            self.join = ag.InputChoice(3, 1, label="join")

    supernet = relaxed(Layers(), {"layer0": [2.0, 0.0], "layer1": [1.0, 0.0], "layer2": [3.0, 0.0]})
    choices = ag.discretize(supernet, scores=SkipLimit(limit=2).scores(supernet)).choices
    assert [choices[f"layer{i}"] for i in range(3)] == ["skip", "dense", "skip"]


def test_scores_that_decided_stand_in_the_architecture() -> None:
    supernet = relaxed(TabularSpace(), {"first": [0.0, 1.0]})
    architecture = ag.discretize(supernet, scores=SkipLimit(limit=0).scores(supernet))
    assert architecture.choices["first"] == "dense"
    assert architecture.provenance["scores"]["first"]["skip"] == pytest.approx(softmax([0.0, 1.0])[1] - 1.0)


def test_a_limit_is_a_whole_number() -> None:
    with pytest.raises(OptionError, match="limit must be a whole number of at least 0, but got limit=-1"):
        SkipLimit(limit=-1)
