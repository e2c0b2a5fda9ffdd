"""The layout keeps labels, nodes and edges apart, whatever the graph."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archgrad.report.layout import GraphLayout, LinkSize, NodeSize, lay_out
from archgrad.report.settle import settle

LABEL_ALONG, LABEL_ACROSS = 90.0, 18.0


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[NodeSize], list[LinkSize]]:
    """A cell: 1 to 3 inputs, 1 to 6 nodes with 1 to 3 edges each, multiple ones among them, and an output."""
    n_inputs, n_nodes = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    nodes = [NodeSize(key=str(i), along=34.0, across=34.0) for i in range(n_inputs + n_nodes)]
    links = []
    for node in range(n_inputs, n_inputs + n_nodes):
        for source in draw(st.lists(st.integers(0, node - 1), min_size=1, max_size=3)):
            links.append(
                LinkSize(source=str(source), target=str(node), label_along=LABEL_ALONG, label_across=LABEL_ACROSS)
            )
    nodes.append(NodeSize(key="output", along=46.0, across=34.0))
    links += [LinkSize(source=str(n), target="output") for n in range(n_inputs, n_inputs + n_nodes)]
    return nodes, links


@settings(max_examples=40, deadline=None)
@given(graphs(), st.booleans())
def test_no_label_touches_a_label_a_node_or_a_foreign_edge(graph, compact):
    nodes, links = graph
    layout = lay_out(nodes, links, last="output", compact=compact)
    labels = [(k, *link.label) for k, link in enumerate(layout.links) if link.label is not None]
    assert len(labels) == sum(link.label_across > 0 for link in links)
    for (_, u1, v1), (_, u2, v2) in itertools.combinations(labels, 2):
        assert abs(u1 - u2) >= LABEL_ALONG or abs(v1 - v2) >= LABEL_ACROSS
    for (_, u, v), node in itertools.product(labels, nodes):
        place = layout.nodes[node.key]
        apart_along = abs(u - place.along) >= (LABEL_ALONG + node.along) / 2
        assert apart_along or abs(v - place.across) >= (LABEL_ACROSS + place.size_across) / 2
    for k, u, v in labels:
        for other, link in enumerate(layout.links):
            for across in crossings(link.points, u - LABEL_ALONG / 2, u + LABEL_ALONG / 2):
                assert other == k or abs(across - v) > LABEL_ACROSS / 2


@settings(max_examples=40, deadline=None)
@given(graphs(), st.booleans())
def test_no_node_touches_a_node_and_edges_only_lead_forward(graph, compact):
    nodes, links = graph
    layout = lay_out(nodes, links, last="output", compact=compact)
    for a, b in itertools.combinations(nodes, 2):
        first, second = layout.nodes[a.key], layout.nodes[b.key]
        apart = abs(first.across - second.across) >= (first.size_across + second.size_across) / 2
        assert apart or abs(first.along - second.along) >= (a.along + b.along) / 2
    for link in layout.links:
        steps = np.diff([u for u, _ in link.points])
        assert (steps >= -1e-6).all()
        assert link.points[0][0] >= 0
        assert link.points[-1][0] <= layout.along


def test_inputs_keep_their_order_and_stand_first_while_the_output_stands_last():
    layout = complete_cell()
    assert layout.nodes["0"].along == layout.nodes["1"].along < min(layout.nodes[str(n)].along for n in range(2, 6))
    assert layout.nodes["0"].across < layout.nodes["1"].across
    assert all(layout.nodes["output"].along > layout.nodes[str(n)].along for n in range(6))


def test_long_edges_are_straight_on_their_way():
    # Straight parts of an edge between its first and its last bend all lie at one place across.
    for link in complete_cell().links:
        places = {round(across, 6) for _, across in link.points[2:-2]}
        assert len(places) <= 1


def test_places_have_least_squared_bends():
    # Two spots of one layer linked to a spot at 0 of another: both want 0, must be 10 apart, so -5 and 5.
    room = {(1, 2): 10.0}
    places = settle(3, room, [], [(0, 1, 0.0, 1.0), (0, 2, 0.0, 1.0)])
    assert places[1] - places[0] == pytest.approx(-5.0, abs=0.1)
    assert places[2] - places[0] == pytest.approx(5.0, abs=0.1)


def test_passages_that_would_have_to_cross_do_not_share_a_place():
    # Spots 0 and 1 are one edge, 2 and 3 another; 0 is before 2, but 3 before 1.
    places = settle(4, {(0, 2): 10.0, (3, 1): 10.0}, [[0, 1], [2, 3]], [])
    assert places[2] - places[0] >= 10.0 - 1e-6
    assert places[1] - places[3] >= 10.0 - 1e-6


def complete_cell() -> GraphLayout:
    nodes = [NodeSize(key=str(i), along=34.0, across=34.0) for i in range(6)]
    nodes.append(NodeSize(key="output", along=46.0, across=34.0))
    pairs = [(source, node) for node in range(2, 6) for source in range(node)]
    links = [LinkSize(source=str(s), target=str(n), label_along=90.0, label_across=18.0) for s, n in pairs]
    return lay_out(nodes, links + [LinkSize(source=str(n), target="output") for n in range(2, 6)], last="output")


def crossings(points, start, end):
    """The places across of an edge's straight parts within [start, end] along, ends excluded."""
    for (u1, v1), (u2, v2) in itertools.pairwise(points):
        if u2 > start + 1e-6 and u1 < end - 1e-6:
            yield from (v1, v2)
