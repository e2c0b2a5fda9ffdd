"""Laws of the likeliest connected decision: it is the best of all that connect, found without trying all."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.cell import Cell
from archgrad.decision import cell_nodes, joined_nodes
from archgrad.errors import ArchitectureError
from archgrad.operations import Zero
from archgrad.show import to_text
from toys import Times, relaxed

NASBENCH = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
TO_NOTHING = {"none": [9.0, 0.0, 0.0, 1.0, 0.0]}


class Nothing(nn.Module):
    """A user's own way to pass nothing on."""

    passes_nothing = True

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def builders(names: tuple[str, ...]) -> dict[str, Callable[[int, int], nn.Module]]:
    return {
        name: (lambda source, node: Nothing()) if name in ("none", "nothing") else (lambda source, node: Times(2.0))
        for name in names
    }


def every_decision(cell: Cell, rows: dict[str, list[float]]) -> Iterator[tuple[float, dict[str, list[list[Any]]]]]:
    """Every decision of a cell with its likelihood: all candidates on all sets of edges that may be kept."""
    allowed = {pair: [name for name in cell.names_of(*pair) if name not in cell.never] for pair in cell.pairs}
    per_node = []
    for node in range(cell.n_inputs, cell.n_inputs + cell.n_nodes):
        size = node if cell.n_kept is None else min(cell.n_kept, node)
        per_node.append(
            [
                (node, list(zip(taken, sources, strict=True)))
                for sources in itertools.combinations(range(node), size)
                for taken in itertools.product(*(allowed[source, node] for source in sources))
            ]
        )
    for nodes in itertools.product(*per_node):
        decision: dict[str, list[Any]] = {str(node): [list(edge) for edge in edges] for node, edges in nodes}
        decision |= {"concat": [nodes[-1][0]]} if cell.output == "last" else {}
        yield likelihood(rows, cell, decision), decision


def is_connected(cell: Cell, decision: dict[str, list[list[Any]]]) -> bool:
    """By the definition: follow what passes something on from the inputs."""
    reached = set(range(cell.n_inputs))
    nodes = cell_nodes(decision)
    for node, edges in nodes.items():
        if any(name not in ("none", "nothing") and source in reached for name, source in edges):
            reached.add(node)
    assert joined_nodes(decision) == ((max(nodes),) if cell.output == "last" else tuple(nodes))
    return bool(reached & set(joined_nodes(decision)))


def likelihood(rows: dict[str, list[float]], cell: Cell, decision: dict[str, list[list[Any]]]) -> float:
    return math.prod(
        rows[f"cell/{s}->{node}"][cell.names_of(s, node).index(name)]
        for node, edges in cell_nodes(decision).items()
        for name, s in edges
    )


def draw_rows(cell: Cell, draw: random.Random, *, nothing: float) -> dict[str, list[float]]:
    rows = {}
    for label, row in cell.rows("cell").items():
        values = [
            draw.choice([1, 2, 3, 4, draw.random() * 4]) * (nothing if name == "none" else 1) for name in row.names
        ]
        rows[label] = [value / sum(values) for value in values]
    return rows


def check_against_all(cell: Cell, rows: dict[str, list[float]]) -> bool:
    """Compare with brute force; return whether the plain decision was another."""
    decision, plain = cell.decide("cell", rows), cell.decide_plain("cell", rows)
    best = max(p for p, other in every_decision(cell, rows) if is_connected(cell, other))
    assert is_connected(cell, decision)
    assert likelihood(rows, cell, decision) == pytest.approx(best, rel=1e-12)
    if is_connected(cell, plain):
        assert decision == plain
    for node, edges in cell_nodes(decision).items():
        strengths = [rows[f"cell/{s}->{node}"][cell.names_of(s, node).index(n)] for n, s in edges]
        assert cell.n_kept is None or strengths == sorted(strengths, reverse=True)
    return decision != plain


def test_a_cell_of_nasbench201_takes_the_best_of_its_connected_decisions() -> None:
    draw = random.Random(0)
    cell = Cell(3, builders(NASBENCH), n_inputs=1, n_kept=None, never=(), output="last")
    changed = [check_against_all(cell, draw_rows(cell, draw, nothing=8.0)) for _ in range(12)]
    assert 4 < sum(changed) <= 12


@pytest.mark.parametrize("output", ["last", "concat"])
@pytest.mark.parametrize(
    ("n_inputs", "n_nodes", "n_kept"), [(1, 3, None), (2, 2, None), (1, 3, 1), (1, 3, 2), (2, 3, 1)]
)
def test_a_random_cell_takes_the_best_of_its_connected_decisions(
    output: str, n_inputs: int, n_nodes: int, n_kept: int | None
) -> None:
    draw = random.Random(n_inputs + 10 * n_nodes)
    cell = Cell(n_nodes, builders(("none", "a", "b")), n_inputs=n_inputs, n_kept=n_kept, never=(), output=output)
    changed = [check_against_all(cell, draw_rows(cell, draw, nothing=6.0)) for _ in range(25)]
    assert any(changed)


def test_two_ways_to_pass_nothing_on_and_one_that_is_never_derived() -> None:
    draw = random.Random(5)
    cell = Cell(3, builders(("none", "nothing", "a", "b")), n_inputs=1, n_kept=None, never=("b",), output="last")
    assert any(check_against_all(cell, draw_rows(cell, draw, nothing=2.0)) for _ in range(10))


@pytest.mark.parametrize(("n_kept", "output"), [(None, "last"), (2, "concat")])
def test_edges_with_candidates_of_their_own(n_kept: int | None, output: str) -> None:
    draw = random.Random(6)
    edges = {(0, 1): ("none", "a"), (0, 2): ("b", "none"), (2, 3): ("c", "b"), (0, 3): ("none",)}
    candidates = builders(("none", "a", "b", "c"))
    cell = Cell(3, candidates, edge_candidates=edges, n_inputs=1, n_kept=n_kept, never=("c",), output=output)
    assert any(check_against_all(cell, draw_rows(cell, draw, nothing=6.0)) for _ in range(25))


def test_probabilities_of_zero_are_taken_only_where_nothing_else_connects() -> None:
    cell = Cell(2, builders(("none", "a")), n_inputs=1, n_kept=None, never=(), output="last")
    rows = {"cell/0->1": [1.0, 0.0], "cell/0->2": [1.0, 0.0], "cell/1->2": [0.4, 0.6]}
    # 0->2 and 0->1 both have no probability for "a"; by 0->1 the edge 1->2 stays as it is, and 0->2 is as long
    assert is_connected(cell, cell.decide("cell", rows))
    rows["cell/0->1"] = [0.9999, 0.0001]
    assert cell.decide("cell", rows) == {"1": [["a", 0]], "2": [["none", 0], ["a", 1]], "concat": [2]}


def test_a_path_that_must_be_taken_keeps_weak_edges_of_no_other_source() -> None:
    for n_kept in (2, None):
        cell = Cell(1, builders(("none", "a")), n_kept=n_kept, never=())
        rows = {"cell/0->2": [0.9, -0.6], "cell/1->2": [-0.4, -0.7]}
        assert cell.decide_plain("cell", rows) == {"2": [["none", 0]]}
        assert cell.decide("cell", rows) == {"2": [["a", 0]]}


def test_the_papers_cell_decides_as_it_is_written() -> None:
    draw = random.Random(1)
    cell = Cell(4, builders(("none", "a", "b", "c")), label="cell")
    for _ in range(50):
        rows = draw_rows(cell, draw, nothing=5.0)
        assert cell.decide("cell", rows) == cell.decide_plain("cell", rows)


def test_a_none_that_is_an_identity_connects() -> None:
    names = {"none": lambda source, node: nn.Identity(), "a": lambda source, node: Times(2.0)}
    cell = Cell(1, names, n_inputs=1, n_kept=None, never=(), output="last")
    assert cell.decide("cell", {"cell/0->1": [0.9, 0.1]}) == {"1": [["none", 0]]}


def nasbench_alphas() -> dict[str, list[float]]:
    pairs = [(source, node) for node in (1, 2, 3) for source in range(node)]
    return {f"cell/{source}->{node}": TO_NOTHING["none"] for source, node in pairs}


def test_a_search_that_leads_to_none_gives_a_network_that_depends_on_its_input_and_says_so() -> None:
    space = ag.spaces.nasbench201(4, 1, 3)
    architecture = ag.discretize(relaxed(space, nasbench_alphas()), space="nasbench201")
    cell = architecture.choices["cell"]
    assert [edge for node in ("1", "2", "3") for edge in cell[node]].count(("nor_conv_3x3", 0)) == 1
    assert architecture.provenance["plain_decisions"]["cell"]["3"] == (("none", 0), ("none", 1), ("none", 2))
    network = ag.derive(space, architecture)
    assert not torch.equal(network(torch.randn(4, 3, 8, 8)), network(torch.randn(4, 3, 8, 8)))
    assert "the likeliest candidates leave no path from an input to the output" in to_text(architecture)
    assert "nor_conv_3x3 (0.00) from input 0 to node 3 instead of none (1.00)" in to_text(architecture)
    assert ag.Architecture.from_json(architecture.to_json()).provenance == architecture.provenance


def test_the_plain_decision_is_there_for_who_asks() -> None:
    space = ag.spaces.nasbench201(4, 1, 3, connected=False)
    architecture = ag.discretize(relaxed(space, nasbench_alphas()))
    assert {edge.operation for node in ("1", "2", "3") for edge in architecture.choices["cell"][node]} == {"none"}
    assert "plain_decisions" not in architecture.provenance
    assert "no path" not in to_text(architecture)
    ag.derive(space, architecture)


def test_a_cut_architecture_is_not_derived_unless_asked_for() -> None:
    cut = ag.architectures  # the published ones are whole
    ag.derive(ag.spaces.darts_cifar(4, 3, stage="retrain"), cut.DARTS_V1)
    none = ag.Architecture({"cell": {str(n): [["none", s] for s in range(n)] for n in (1, 2, 3)}})
    with pytest.raises(ArchitectureError, match=r"output of cell 'cell' would depend on none .*connected=False"):
        ag.derive(ag.spaces.nasbench201(4, 1, 3), none)
    with pytest.raises(ArchitectureError, match="would depend on none"):
        ag.derive(ag.spaces.nasbench201(4, 1, 3, stage="retrain"), none)
    ag.derive(ag.spaces.nasbench201(4, 1, 3, connected=False), none)


def test_a_supernet_gives_the_random_architecture_of_its_space() -> None:
    space = nn.Sequential(ag.LayerChoice([nn.ReLU(), nn.Tanh(), nn.Sigmoid()]), ag.LayerChoice([nn.ReLU(), nn.Tanh()]))
    for seed in range(3):
        found = ag.random_architecture(ag.Supernet(space), seed=seed)
        assert found.choices == ag.random_architecture(space, seed=seed).choices
        ag.derive(space, found)


def test_random_architectures_are_connected() -> None:
    def build(source: int, node: int) -> nn.Module:
        return Zero(1)

    names = {"none": build, "zero": build, "other": build, "a": lambda source, node: nn.Identity()}
    space = Cell(2, names, n_inputs=1, n_kept=None, never=(), output="last", label="cell")
    for seed in range(40):
        architecture = ag.random_architecture(space, seed=seed)
        assert ag.derive(space, architecture)([torch.ones(1, 1, 2, 2)]).abs().sum() > 0


@pytest.mark.parametrize(("n_inputs", "n_nodes", "n_kept"), [(1, 3, None), (2, 2, None), (1, 3, 1), (2, 3, 2)])
@pytest.mark.parametrize("threshold", [0.6, 0.8, 1.0])
def test_a_threshold_leaves_no_node_without_an_edge_and_no_output_without_an_input(
    n_inputs: int, n_nodes: int, n_kept: int | None, threshold: float
) -> None:
    draw = random.Random(n_nodes)
    cell = Cell(n_nodes, builders(("none", "a", "b")), n_inputs=n_inputs, n_kept=n_kept, never=())
    fewer = changed = 0
    for _ in range(30):
        gates = {label: [draw.random() ** 0.3, draw.random(), draw.random()] for label in cell.rows("cell")}
        rows = {label: [p if p >= threshold else p - 1.0 for p in row] for label, row in gates.items()}
        decision = cell.decide("cell", rows)
        nodes = cell_nodes(decision)
        assert all(nodes.values())
        assert is_connected(cell, decision)
        fewer += any(len(edges) < min(n_kept or node, node) for node, edges in nodes.items())
        changed += decision != cell.decide_plain("cell", rows)
    assert fewer > 0 or n_kept == 1
    assert changed > 0


def test_where_all_ways_are_below_a_threshold_the_strongest_of_them_is_taken() -> None:
    # each node keeps one edge; 0->2 misses the threshold by 0.3 more than its "none", 0->1 with 1->2 by 0.1 + 0.3
    cell = Cell(2, builders(("none", "a")), n_inputs=1, n_kept=None, never=(), output="last")
    rows = {"cell/0->1": [-0.4, -0.5], "cell/0->2": [-0.3, -0.6], "cell/1->2": [-0.5, -0.6]}
    assert cell.decide("cell", rows) == {"1": [["none", 0]], "2": [["a", 0]], "concat": [2]}
    rows["cell/1->2"][1] = -0.35
    assert cell.decide("cell", rows) == {"1": [["a", 0]], "2": [["a", 1]], "concat": [2]}
