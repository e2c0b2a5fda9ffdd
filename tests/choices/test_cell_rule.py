"""Laws of a cell: its graph relaxed, the paper's rule of what it keeps, and what is left of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.cell import Cell
from archgrad.derived_cell import DerivedCell
from archgrad.errors import ArchitectureError, SpaceError
from archgrad.operations import DropPath
from toys import Learnt, Times, relaxed, softmax

Builders = dict[str, Callable[[int, int], nn.Module]]
THREE: Builders = {
    "none": lambda source, node: Times(0.0),
    "one": lambda source, node: Times(1.0),
    "ten": lambda source, node: Times(10.0),
}


def state(value: float) -> Tensor:
    return torch.full((1, 1, 1, 1), value, dtype=torch.float64)


def decide(cell: Cell, probabilities: dict[str, list[float]]) -> Any:
    return cell.decide("cell", {f"cell/{edge}": row for edge, row in probabilities.items()})


def test_every_node_has_an_edge_from_every_earlier_state_node_by_node_then_by_source() -> None:
    rows = Cell(3, THREE).rows("normal")
    edges = ["0->2", "1->2", "0->3", "1->3", "2->3", "0->4", "1->4", "2->4", "3->4"]
    assert list(rows) == [f"normal/{edge}" for edge in edges]
    assert all(row.names == ("none", "one", "ten") and row.n_chosen == 1 for row in rows.values())


def test_the_papers_cell_has_14_edges() -> None:
    assert len(Cell(4, THREE).rows("normal")) == 14


def test_candidates_are_built_for_their_edge() -> None:
    seen: list[tuple[int, int]] = []

    def build(source: int, node: int) -> nn.Module:
        seen.append((source, node))
        return nn.Identity()

    Cell(2, {"a": build}, n_inputs=1)
    assert seen == [(0, 1), (0, 2), (1, 2)]


def test_edges_may_have_candidates_of_their_own() -> None:
    built: list[tuple[str, int, int]] = []

    def build(name: str, source: int, node: int) -> nn.Module:
        built.append((name, source, node))
        return Times({"one": 1.0, "ten": 10.0, "none": 0.0}[name])

    candidates = {name: partial(build, name) for name in THREE}
    cell = Cell(1, candidates, edge_candidates={(1, 2): ["ten", "one"]}, label="cell")
    assert built == [("none", 0, 2), ("one", 0, 2), ("ten", 0, 2), ("ten", 1, 2), ("one", 1, 2)]
    assert {label: row.names for label, row in cell.rows("cell").items()} == {
        "cell/0->2": ("none", "one", "ten"),
        "cell/1->2": ("ten", "one"),
    }
    assert decide(cell, {"0->2": [0.5, 0.3, 0.2], "1->2": [0.4, 0.6]}) == {"2": [["one", 1], ["one", 0]]}
    supernet = relaxed(cell, {"cell/0->2": [0.0, 0.0, 0.0], "cell/1->2": [0.0, 0.0]})
    assert supernet([state(3.0), state(2.0)]).item() == pytest.approx(3 * 11 / 3 + 2 * 11 / 2)
    with pytest.raises(ArchitectureError, match=r"no candidate 'none' \(edge 1->2\). Its candidates are ten, one"):
        ag.derive(cell, ag.Architecture({"cell": {"2": [["one", 0], ["none", 1]]}}))


def test_a_node_is_the_sum_of_its_relaxed_edges_and_the_output_joins_the_nodes() -> None:
    # every edge multiplies by m = (0 + 1 + 10)/3 = 11/3; node 2 = m (s0 + s1); node 3 = m (s0 + s1 + node 2)
    supernet = relaxed(Cell(2, THREE, label="cell"), {f"cell/{e}": [0.0] * 3 for e in ("0->2", "1->2", "0->3")})
    with torch.no_grad():
        for alpha in supernet.alphas.values():
            alpha.zero_()
    output = supernet([state(1.0), state(2.0)])
    m = 11.0 / 3.0
    assert output.shape == (1, 2, 1, 1)
    assert output[0, 0, 0, 0].item() == pytest.approx(3.0 * m, rel=1e-14)
    assert output[0, 1, 0, 0].item() == pytest.approx(m * (3.0 + 3.0 * m), rel=1e-14)


def test_the_last_node_may_be_the_output() -> None:
    supernet = relaxed(Cell(2, {"one": THREE["one"]}, n_inputs=1, output="last", label="cell"))
    # node 1 = x, node 2 = x + x
    assert supernet([state(3.0)]).tolist() == [[[[6.0]]]]


def test_probabilities_rank_the_edges_and_not_logits() -> None:
    # Edge 0->2 has the larger logit 5 for "one", but beside a logit of 6 for "none": p = 1/(1 + e) ~ 0.27.
    # Edge 1->2 has logit 1 for "one" beside zeros: p = e/(e + 2) ~ 0.58. Ranked by logits, 0 would be kept.
    cell = Cell(1, THREE, n_kept=1, label="cell")
    alphas = {"cell/0->2": [6.0, 5.0, -9.0], "cell/1->2": [0.0, 1.0, 0.0]}
    assert softmax(alphas["cell/0->2"])[1] < softmax(alphas["cell/1->2"])[1]
    assert ag.discretize(relaxed(cell, alphas)).choices["cell"]["2"] == (("one", 1),)


def test_none_is_never_kept_however_likely() -> None:
    cell = Cell(1, THREE)
    kept = decide(cell, {"0->2": [0.98, 0.015, 0.005], "1->2": [1.0, 0.0, 0.0]})
    assert kept == {"2": [["one", 0], ["one", 1]]}


def test_what_none_takes_weakens_its_edge() -> None:
    cell = Cell(2, THREE)
    rows = {"0->2": [0, 1, 0], "1->2": [0, 1, 0], "0->3": [0.8, 0.2, 0.0], "1->3": [0.0, 0.45, 0.55]}
    kept = decide(cell, {**rows, "2->3": [0.6, 0.1, 0.3]})
    assert kept["3"] == [["ten", 1], ["ten", 2]]


def test_kept_edges_come_strongest_first_and_not_by_source() -> None:
    kept = decide(Cell(1, THREE), {"0->2": [0.1, 0.4, 0.5], "1->2": [0.1, 0.9, 0.0]})
    assert kept == {"2": [["one", 1], ["ten", 0]]}


def test_equal_edges_resolve_to_the_lower_source_and_equal_candidates_to_the_earlier() -> None:
    third = [1 / 3, 1 / 3, 1 / 3]
    rows = dict.fromkeys(("0->2", "1->2", "0->3", "1->3", "2->3"), third)
    assert decide(Cell(2, THREE), rows) == {"2": [["one", 0], ["one", 1]], "3": [["one", 0], ["one", 1]]}


def test_what_is_never_derived_is_settable() -> None:
    cell = Cell(1, THREE, never=("none", "ten"))
    assert decide(cell, {"0->2": [0.5, 0.1, 0.4], "1->2": [0.1, 0.2, 0.7]}) == {"2": [["one", 1], ["one", 0]]}
    free = Cell(1, THREE, never=())
    assert decide(free, {"0->2": [0.5, 0.1, 0.4], "1->2": [0.1, 0.2, 0.7]}) == {"2": [["ten", 1], ["none", 0]]}


def test_n_kept_none_keeps_every_edge_in_the_order_of_sources() -> None:
    cell = Cell(2, THREE, n_inputs=1, n_kept=None)
    kept = decide(cell, {"0->1": [0, 1, 0], "0->2": [0.1, 0.5, 0.4], "1->2": [0.0, 0.1, 0.9]})
    assert kept == {"1": [["one", 0]], "2": [["one", 0], ["ten", 1]]}


@pytest.mark.parametrize("n_kept", [1, 2, 3])
def test_the_rule_on_random_tables_with_many_ties(n_kept: int) -> None:
    # The definition, word for word: each edge stands for its best candidate outside `never`; the best edges are kept.
    draw = random.Random(n_kept)
    cell = Cell(3, THREE, n_kept=n_kept)
    for _ in range(200):
        rows = {edge.removeprefix("cell/"): draw.choices([0.1, 0.2, 0.3, 0.4], k=3) for edge in cell.rows("cell")}
        expected: dict[str, list[list[Any]]] = {}
        for node in range(2, 5):
            entries = [
                (-rows[f"{source}->{node}"][k], source, k) for source in range(node) for k in (1, 2)
            ]  # sorting them resolves ties to the lower source and the earlier candidate
            best = [min(entry for entry in entries if entry[1] == source) for source in range(node)]
            expected[str(node)] = [[cell.names[k], source] for _, source, k in sorted(best)[:n_kept]]
        assert decide(cell, rows) == expected


def test_a_derived_cell_computes_its_graph() -> None:
    # node 2 = 10 s0 + s1, node 3 = node 2 + 10 s1
    architecture = ag.Architecture({"cell": {"2": [["ten", 0], ["one", 1]], "3": [["one", 2], ["ten", 1]]}})
    derived = ag.derive(Cell(2, THREE, label="cell"), architecture)
    assert derived([state(1.0), state(2.0)]).flatten().tolist() == [12.0, 32.0]


def test_sure_alphas_give_what_the_derived_cell_gives() -> None:
    cell = Cell(3, THREE, n_kept=2, label="cell")
    sure = {"none": [80.0, 0.0, 0.0], "one": [0.0, 80.0, 0.0], "ten": [0.0, 0.0, 80.0]}
    alphas = dict.fromkeys(cell.rows("cell"), sure["none"])
    alphas.update({f"cell/{edge}": sure["ten"] for edge in ("0->2", "1->3", "0->4")})
    alphas.update({f"cell/{edge}": sure["one"] for edge in ("1->2", "2->3", "3->4")})
    supernet = relaxed(cell, alphas)
    states = [state(1.0), state(-3.0)]
    derived = ag.derive(cell, ag.discretize(supernet))
    assert torch.allclose(supernet(states), derived(states), rtol=1e-12)


def test_concat_says_which_nodes_are_joined_and_nodes_that_nothing_uses_are_left_out() -> None:
    learnt: Builders = {"learnt": lambda source, node: Learnt(float(10 * source + node))}
    decision = {"2": [["learnt", 0]], "3": [["learnt", 1]], "4": [["learnt", 2]], "concat": [4]}
    derived = ag.derive(Cell(3, learnt, label="cell"), ag.Architecture({"cell": decision}))
    assert isinstance(derived, DerivedCell)
    assert derived.used_inputs == (0,)
    assert len(list(derived.parameters())) == 2
    assert derived([state(1.0), None]).tolist() == [[[[2.0 * 24.0]]]]


@pytest.mark.parametrize("lazy", [False, True])
def test_a_node_without_edges_is_left_out_of_what_the_output_joins(lazy: bool) -> None:
    # node 2 = 10 s0, node 3 has no edges, node 4 = node 2 + s1
    decision = {"2": [["ten", 0]], "3": [], "4": [["one", 2], ["one", 1]]}
    derived = ag.derive(Cell(3, THREE, lazy=lazy, label="cell"), ag.Architecture({"cell": decision}))
    assert derived([state(1.0), state(2.0)]).flatten().tolist() == [10.0, 12.0]
    last = Cell(3, THREE, output="last", lazy=lazy, label="cell")
    assert ag.derive(last, ag.Architecture({"cell": decision}))([state(1.0), state(2.0)]).flatten().tolist() == [12.0]
    one = ag.derive(
        Cell(3, THREE, lazy=lazy, label="cell"), ag.Architecture({"cell": {"2": [["ten", 0]], "3": [], "4": []}})
    )
    assert one([state(1.0), None]).flatten().tolist() == [10.0]


def test_a_cell_says_in_its_decision_that_its_last_node_goes_out() -> None:
    cell = Cell(2, THREE, n_kept=1, output="last", label="cell")
    architecture = ag.discretize(relaxed(cell, {"cell/0->2": [0.0, 1.0, 0.0], "cell/2->3": [0.0, 2.0, 0.0]}))
    assert architecture.choices["cell"] == {"2": (("one", 0),), "3": (("one", 2),), "concat": (3,)}
    assert ag.derive(cell, architecture)([state(3.0), None]).tolist() == [[[[3.0]]]]
    assert "concat" not in ag.discretize(relaxed(Cell(1, THREE, output="last", label="cell"))).choices["cell"]
    unsaid = ag.Architecture({"cell": {"2": [["one", 0]], "3": [["one", 2]]}})  # a file of an earlier release
    assert ag.derive(cell, unsaid)([state(3.0), None]).tolist() == [[[[3.0]]]]


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        ({"2": [["one", 0]], "3": [["one", 2]], "concat": [2]}, r"gives out its last node 3, .* has 'concat' \[2\]"),
        ({"2": [["one", 0]], "3": []}, "gives out its last node 3, which has no edges in this architecture"),
    ],
)
def test_an_architecture_with_another_output_is_not_derived_from_a_cell_that_gives_out_its_last_node(
    decision: Any, message: str
) -> None:
    with pytest.raises(ArchitectureError, match=f"Cell 'cell' {message}"):
        ag.derive(Cell(2, THREE, output="last", label="cell"), ag.Architecture({"cell": decision}))


def test_edges_scored_below_0_are_kept_only_where_a_node_has_no_other() -> None:
    for n_kept in (2, None):
        cell = Cell(2, THREE, n_kept=n_kept)
        rows = {"0->2": [0, -0.6, -0.5], "1->2": [0, -0.3, -0.9], "0->3": [0, -0.2, -0.1], "1->3": [0, 0.4, -0.5]}
        assert decide(cell, {**rows, "2->3": [0, -0.7, -0.6]}) == {"2": [["one", 1]], "3": [["one", 1]]}


def test_a_pair_that_occurs_twice_gets_a_module_each() -> None:
    # NASNet's cell takes one pool of one input twice
    learnt: Builders = {"learnt": lambda source, node: Learnt(3.0)}
    derived = ag.derive(Cell(1, learnt, label="cell"), ag.Architecture({"cell": {"2": [["learnt", 0]] * 2}}))
    assert len(list(derived.parameters())) == 2
    assert derived([state(1.0), None]).item() == 6.0


def test_a_cell_that_is_used_twice_stays_one_cell() -> None:
    space = nn.Module()
    space.a = Cell(1, THREE, label="cell")
    space.b = space.a
    derived = ag.derive(space, ag.Architecture({"cell": {"2": [["one", 0], ["ten", 1]]}}))
    assert isinstance(derived.a, DerivedCell)
    assert derived.a is derived.b


def test_drop_path_spares_the_identity() -> None:
    builders: Builders = {"skip": lambda source, node: nn.Identity(), "ten": THREE["ten"]}
    drop = DropPath(p=1.0)
    cell = Cell(1, builders, n_inputs=2, drop_path=drop, label="cell")
    derived = ag.derive(cell, ag.Architecture({"cell": {"2": [["skip", 0], ["ten", 1]]}}))
    states = [state(1.0), state(2.0)]
    assert derived.train()(states).item() == 1.0  # 10 * 2 is dropped, the skip never is
    assert derived.eval()(states).item() == 21.0


def test_a_lazy_cell_builds_only_what_is_chosen_and_any_number_of_nodes() -> None:
    built: list[tuple[str, int, int]] = []

    def builder(name: str) -> Callable[[int, int], nn.Module]:
        def build(source: int, node: int) -> nn.Module:
            built.append((name, source, node))
            return Times(2.0)

        return build

    cell = Cell(1, {"a": builder("a"), "b": builder("b")}, lazy=True, label="cell")
    assert built == []
    decision = {"2": [["a", 0], ["b", 1]], "3": [["b", 2]]}
    derived = ag.derive(cell, ag.Architecture({"cell": decision}))
    assert built == [("a", 0, 2), ("b", 1, 2), ("b", 2, 3)]
    assert derived([state(1.0), state(1.0)]).flatten().tolist() == [4.0, 8.0]
    with pytest.raises(SpaceError, match=r"nothing to search.*stage='search'"):
        ag.Supernet(cell)


def test_a_choice_inside_a_cells_candidate_is_decided_with_it() -> None:
    builders: Builders = {
        "plain": lambda source, node: Times(1.0),
        "nested": lambda source, node: ag.LayerChoice({"two": Times(2.0), "five": Times(5.0)}, label="inner"),
    }
    cell = Cell(1, builders, n_inputs=1, n_kept=1, label="cell")
    supernet = relaxed(cell, {"cell/0->1": [0.0, 1.0], "inner": [0.0, 1.0]})
    architecture = ag.discretize(supernet)
    assert architecture.choices["inner"] == "five"
    assert ag.derive(cell, architecture)([state(1.0)]).item() == 5.0
    left = ag.discretize(relaxed(cell, {"cell/0->1": [1.0, 0.0]}))
    assert "inner" not in left.choices
    assert ag.derive(cell, left)([state(1.0)]).item() == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_nodes": 0}, "at least 1, but got n_nodes=0"),
        ({"n_inputs": 0}, "n_inputs=0"),
        ({"n_kept": 0}, "n_kept=0"),
        ({"never": ("none", "one", "ten")}, "a candidate outside never="),
        ({"output": "sum"}, "output 'concat' or 'last', but got 'sum'"),
        (
            {"edge_candidates": {(0, 3): ["one"]}},
            r"no edge \(0, 3\) \(source, node\). Its edges are \[\(0, 2\), \(1, 2\)\]",
        ),
        ({"edge_candidates": {(0, 2): ["one", "two"]}}, r"no candidate 'two', of its edge \(0, 2\)"),
        ({"edge_candidates": {(1, 2): ["one", "one"]}}, r"each candidate of its edge \(1, 2\) once"),
        ({"edge_candidates": {(1, 2): ["none"]}}, r"a candidate outside never=\['none'\] on its edge \(1, 2\)"),
        ({"edge_candidates": {(0, 2): "one"}}, r"a list of names for its edge \(0, 2\), but got 'one'. Give \['one'\]"),
        ({"edge_candidates": {(1, 2): []}}, r"a candidate outside never=\['none'\] on its edge \(1, 2\), but got \[\]"),
    ],
)
def test_options_of_a_cell_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        Cell(**{"n_nodes": 1, "candidates": THREE, "label": "cell", **options})


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        ("one", "needs node -> "),
        ({"2": [["one", 0]]}, "has nodes 2, 3, but the architecture has 2"),
        ({"2": [["two", 0]], "3": [["one", 0]]}, r"no candidate 'two' \(node 2\).*none, one, ten"),
        ({"2": [["one", 2]], "3": [["one", 0]]}, "Cell 'cell', node 2 must list .* source from 0 to 1"),
        ({"2": [], "3": []}, "Cell 'cell' must keep at least one edge"),
        ({"2": [], "3": [["one", 2]]}, "Cell 'cell', node 3 must take .* but takes node 2, which has none"),
        ({"2": [["one", 0]], "3": [], "concat": [3]}, "Cell 'cell' must have nodes with edges as its output"),
        ({"2": [["one", 0]], "3": [["one", 0]], "concat": [1]}, "Cell 'cell' must join different nodes from 2 to 3"),
        ({"2": [["one", 0]], "3": [["one", 0]], "concat": []}, "Cell 'cell' must join different nodes from 2 to 3"),
    ],
)
def test_a_decision_that_does_not_fit_is_an_error_that_names_the_cell(decision: Any, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        Cell(2, THREE).fix("cell", decision)


@pytest.mark.parametrize("n", [1, 3])
def test_a_wrong_number_of_states_is_an_error(n: int) -> None:
    with pytest.raises(SpaceError, match=f"Cell 'cell' needs 2 inputs, but got {n}"):
        relaxed(Cell(1, THREE, label="cell"))([state(1.0)] * n)


def test_an_open_cell_that_is_called_says_what_to_do() -> None:
    for lazy in (False, True):
        with pytest.raises(SpaceError, match=r"open and cannot run.*derive"):
            Cell(1, THREE, lazy=lazy, label="cell")([state(1.0)] * 2)


@pytest.mark.parametrize(
    "counts", [{"n_nodes": 0}, {"n_nodes": 2.0}, {"n_nodes": True}, {"n_nodes": 2, "n_kept": "1"}, {"n_nodes": None}]
)
def test_the_numbers_of_a_cell_are_whole(counts: dict[str, object]) -> None:
    with pytest.raises(SpaceError, match=r"needs whole numbers n_nodes, n_inputs and n_kept of at least 1"):
        ag.Cell(candidates={"skip": lambda source, node: nn.Identity()}, label="cell", **counts)  # type: ignore[arg-type]
