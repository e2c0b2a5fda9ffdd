"""Cells as graphs: every node, edge and operation is drawn, and nothing else."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
import torch

import archgrad as ag
from archgrad.architectures import DARTS_V2, AmoebaNet, NASNet
from archgrad.report.cell_drawing import CellEdge, cell_graph, cell_scene, edge_width, forming_scene, short_operation
from archgrad.report.pictures import architecture_pictures, cell_graphs
from archgrad.report.scene import operation_roles
from archgrad.report.svg import svg_file

SVG = "{http://www.w3.org/2000/svg}"
PUBLISHED = {"DARTS_V2": DARTS_V2, "NASNet": NASNet, "AmoebaNet": AmoebaNet}


def drawn(graph, narrow=False):
    roles = operation_roles([edge.operation for edge in graph.edges])
    return ElementTree.fromstring(svg_file(cell_scene(graph, roles=roles, narrow=narrow)).split("\n", 1)[1])


def texts(root):
    return ["".join(node.itertext()) for node in root.iter(SVG + "text")]


def of_class(root, name):
    return [node for node in root.iter() if name in node.get("class", "").split()]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", PUBLISHED)
def test_each_state_is_drawn_once_and_called_as_in_papers(name, narrow):
    for graph in cell_graphs(PUBLISHED[name], {}):
        root = drawn(graph, narrow)
        keys = [node.get("data-node") for node in of_class(root, "node")]
        assert sorted(keys) == sorted([*map(str, range(2 + graph.n_nodes)), "output"])
        names = texts(root)
        for state in ["ck-2", "ck-1", "ck", *map(str, range(2, 2 + graph.n_nodes))]:
            assert names.count(state) == 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_kept_edge_is_drawn_with_its_operation(name):
    # NASNet and AmoebaNet have nodes that take the same operation of the same source twice.
    for graph in cell_graphs(PUBLISHED[name], {}):
        root = drawn(graph)
        expected = sorted(edge.key for edge in graph.edges)
        assert sorted(node.get("data-edge") for node in of_class(root, "edge")) == expected
        assert sorted(node.get("data-edge") for node in of_class(root, "tip")) == expected
        labels = [node for node in root.iter(SVG + "text") if node.get("data-edge")]
        titles = [label.find(SVG + "title").text for label in labels]
        shown = ["".join(label.itertext()).removeprefix(title) for label, title in zip(labels, titles, strict=True)]
        assert sorted(shown) == sorted(edge.operation for edge in graph.edges)


def test_the_output_joins_the_joined_nodes_only():
    reduce = cell_graphs(AmoebaNet, {})[1]
    joins = [node.get("data-edge") for node in of_class(drawn(reduce), "join")]
    assert sorted(joins) == sorted(f"{node}->output" for node in reduce.joined)


def test_a_stronger_edge_is_wider():
    decision = {"2": [["conv", 0], ["pool", 1]]}
    weak_and_strong = {"c/0->2": {"conv": 0.2, "pool": 0.8}, "c/1->2": {"conv": 0.1, "pool": 0.9}}
    graph = cell_graph("c", decision, weak_and_strong)
    assert [edge.strength for edge in graph.edges] == [0.2, 0.9]
    edges = {node.get("data-edge"): float(node.get("stroke-width")) for node in of_class(drawn(graph), "edge")}
    assert edges["1->2"] > edges["0->2"]
    assert "width: probability" in texts(drawn(graph))


def test_without_probabilities_all_edges_are_equally_wide_and_no_width_is_explained():
    root = drawn(cell_graphs(DARTS_V2, {})[0])
    assert len({node.get("stroke-width") for node in of_class(root, "edge")}) == 1
    assert "width: probability" not in texts(root)


def test_edge_width_stays_in_bounds():
    assert edge_width(-1.0) == edge_width(0.0) == 1.0
    assert edge_width(7.0) == edge_width(1.0) == 9.0


def test_the_forming_cell_has_all_edges_and_marks_the_kept_ones():
    graph = cell_graphs(DARTS_V2, {})[0]
    pairs = [(source, node) for node in range(2, 6) for source in range(node)]
    names = sorted({edge.operation for edge in graph.edges})
    scene = forming_scene(graph, pairs, roles=operation_roles(names), candidates=names)
    root = ElementTree.fromstring(svg_file(scene).split("\n", 1)[1])
    assert {node.get("data-edge") for node in of_class(root, "edge")} == {f"{s}->{n}" for s, n in pairs}
    kept = {node.get("data-edge") for node in of_class(root, "edge") if "kept" in node.get("class").split()}
    assert kept == {edge.key for edge in graph.edges}
    labels = {node.get("data-edge"): "".join(node.itertext()) for node in of_class(root, "edge-label")}
    assert {key for key, text in labels.items() if text} == kept


def test_the_name_of_a_drawing_says_in_words_what_it_shows():
    graph = cell_graph("normal", {"2": [["sep_conv_3x3", 0]]}, {"normal/0->2": {"sep_conv_3x3": 0.25}})
    scene = cell_scene(graph, roles={"sep_conv_3x3": "c1"})
    assert scene.name == "Cell normal: sep_conv_3x3 from c_k-2 to 2, probability 0.250"


def test_short_names_are_those_of_the_paper_shortened_and_others_stay():
    assert short_operation("sep_conv_3x3") == "sep 3×3"
    assert short_operation("max_pool_3x3") == "max 3×3"
    assert short_operation("skip_connect") == "skip"
    assert short_operation("my_conv_3x3") == "my_conv_3x3"


def test_an_edge_is_called_as_its_alphas_are():
    assert re.fullmatch(r"\d+->\d+", CellEdge(operation="a", source=0, node=2).key)


@pytest.mark.parametrize("narrow", [False, True])
def test_a_cell_of_ones_own_that_gives_out_its_last_node_is_drawn_so(narrow):
    cell = ag.Cell(3, {"id": lambda source, node: torch.nn.Identity()}, n_inputs=1, output="last", label="own")
    architecture = ag.Architecture.from_json(ag.discretize(ag.Supernet(cell), space="mine").to_json())
    (picture,) = architecture_pictures(architecture, {})
    root = ElementTree.fromstring(svg_file(picture.narrow if narrow else picture.wide).split("\n", 1)[1])
    assert [node.get("data-edge") for node in of_class(root, "join")] == ["3->output"]


@pytest.mark.parametrize("narrow", [False, True])
def test_a_node_without_edges_is_not_drawn_but_in_the_forming_cell_where_it_may_get_some(narrow):
    graph = cell_graph("c", {"2": [["conv", 0]], "3": [], "4": [["pool", 2], ["conv", 1]]})
    root = drawn(graph, narrow)
    assert [node.get("data-node") for node in of_class(root, "node")] == ["0", "1", "2", "4", "output"]
    assert sorted(node.get("data-edge") for node in of_class(root, "join")) == ["2->output", "4->output"]
    pairs = [(source, node) for node in range(2, 5) for source in range(node)]
    scene = forming_scene(graph, pairs, roles={}, candidates=["conv", "pool"], narrow=narrow)
    root = ElementTree.fromstring(svg_file(scene).split("\n", 1)[1])
    assert [node.get("data-node") for node in of_class(root, "node")] == ["0", "1", "2", "3", "4", "output"]


def test_the_cell_of_nasbench201_puts_out_its_last_node():
    from archgrad.nasbench import parse_arch

    cell = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|"
    (graph,) = cell_graphs(parse_arch(cell), {})
    assert graph.joined == (graph.n_inputs + graph.n_nodes - 1,)
