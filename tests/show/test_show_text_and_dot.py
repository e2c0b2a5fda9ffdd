"""Architectures as terminal text and as DOT: every decision is in sight, and no name breaks the form."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import archgrad as ag
from archgrad.architecture import Architecture
from archgrad.architectures import DARTS_V2, AmoebaNet, NASNet
from archgrad.nasbench import parse_arch
from archgrad.show import to_dot, to_text


def test_cells_are_rows_of_edges_strongest_first():
    assert to_text(DARTS_V2) == (
        "darts-cifar\n"
        "├─ normal: cell of 4 nodes on 2 inputs\n"
        "│  ├─ node 2    sep_conv_3x3 ← input 0   sep_conv_3x3 ← input 1\n"
        "│  ├─ node 3    sep_conv_3x3 ← input 0   sep_conv_3x3 ← input 1\n"
        "│  ├─ node 4    sep_conv_3x3 ← input 1   skip_connect ← input 0\n"
        "│  ├─ node 5    skip_connect ← input 0   dil_conv_3x3 ← node 2\n"
        "│  └─ output    nodes 2, 3, 4, 5\n"
        "└─ reduce: cell of 4 nodes on 2 inputs\n"
        "   ├─ node 2    max_pool_3x3 ← input 0   max_pool_3x3 ← input 1\n"
        "   ├─ node 3    skip_connect ← node 2    max_pool_3x3 ← input 1\n"
        "   ├─ node 4    max_pool_3x3 ← input 0   skip_connect ← node 2\n"
        "   ├─ node 5    skip_connect ← node 2    max_pool_3x3 ← input 1\n"
        "   └─ output    nodes 2, 3, 4, 5\n"
    )


TREE = Architecture(
    {
        "stem": "conv3",
        "block/1/conv": "conv3",
        "block/1/join": [0, 2],
        "block/2/conv": "conv5",
        "block/2/conv/inner": "skip",
        "head/last/pool": "max",
        "/odd": "a",
    }
)


def test_choices_are_a_tree_by_the_parts_of_their_labels():
    assert to_text(TREE) == (
        "architecture\n"
        "├─ /odd = a\n"
        "├─ block\n"
        "│  ├─ 1\n"
        "│  │  ├─ conv = conv3\n"
        "│  │  └─ join = inputs 0, 2\n"
        "│  └─ 2/conv = conv5\n"
        "│     └─ inner = skip\n"
        "├─ head/last/pool = max\n"
        "└─ stem = conv3\n"
    )


def test_choices_below_a_cell_follow_its_nodes():
    nested = Architecture({"cell": {"1": [["block", 0]]}, "cell/block": "conv3"}, space="mine")
    assert to_text(nested) == (
        "mine\n"
        "└─ cell: cell of 1 node on 1 input\n"
        "   ├─ node 1    block ← input 0\n"
        "   ├─ output    node 1\n"
        "   └─ block = conv3\n"
    )


def test_edges_go_on_in_the_next_line_where_the_width_ends():
    cell = Architecture({"cell": {"3": [["conv", 0], ["conv", 1], ["conv", 2]]}})
    assert to_text(cell, width=60).splitlines()[2:] == [
        "   ├─ node 3    conv ← input 0   conv ← input 1",
        "   │            conv ← input 2",
        "   └─ output    node 3",
    ]
    assert max(len(line) for line in to_text(cell, width=40).splitlines()) <= 40


def test_probabilities_of_the_provenance_stand_beside_their_edges():
    cell = {"1": [["conv", 0]], "2": [["skip", 1], ["conv", 0]]}
    rows = {"cell/0->1": {"conv": 0.625}, "cell/1->2": {"conv": 0.5}, "cell/0->2": {"conv": "much"}}
    lines = to_text(Architecture({"cell": cell}, provenance={"probabilities": rows})).splitlines()
    assert lines[2].split() == ["├─", "node", "1", "conv", "←", "input", "0", "(0.62)"]
    assert "(" not in lines[3]
    for odd in ([1], {"cell/0->1": [0.5]}, "text", None):
        assert "(" not in to_text(Architecture({"cell": cell}, provenance={"probabilities": odd}))


def test_output_names_the_joined_nodes_and_the_last_one_of_nasbench201():
    assert to_text(AmoebaNet).count("output    nodes 4, 5, 6") == 1
    assert to_text(AmoebaNet).count("output    nodes 3, 4, 6") == 1
    nasbench = parse_arch("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    assert to_text(nasbench).splitlines()[-1] == "   └─ output    node 3"
    _, edges = read_dot(to_dot(nasbench))
    assert [source for source, target, _ in edges if target == "output"] == ["node 3"]


@pytest.mark.parametrize("space", ["mine", None])
def test_a_cell_of_ones_own_that_gives_out_its_last_node_is_shown_so(space):
    cell = ag.Cell(3, {"id": lambda source, node: torch.nn.Identity()}, n_inputs=1, output="last", label="own")
    architecture = ag.discretize(ag.Supernet(cell), space=space)
    for drawn in (architecture, ag.Architecture.from_json(architecture.to_json())):
        assert to_text(drawn).splitlines()[-1] == "   └─ output    node 3"
        _, edges = read_dot(to_dot(drawn))
        assert [source for source, target, _ in edges if target == "output"] == ["node 3"]


SPARSE = ag.Architecture({"cell": {"1": [["conv", 0]], "2": [], "3": [["skip", 1], ["conv", 0]]}}, space="mine")


def test_a_node_without_edges_is_shown_as_such_and_not_joined():
    assert to_text(SPARSE) == (
        "mine\n"
        "└─ cell: cell of 3 nodes on 1 input\n"
        "   ├─ node 1    conv ← input 0\n"
        "   ├─ node 2    no edges\n"
        "   ├─ node 3    skip ← node 1    conv ← input 0\n"
        "   └─ output    nodes 1, 3\n"
    )
    labels, edges = read_dot(to_dot(SPARSE))
    assert "node 2" in labels
    assert [source for source, target, _ in edges if target == "output"] == ["node 1", "node 3"]


def test_an_architecture_without_choices_says_so():
    assert to_text(Architecture({}, space="mine")) == "mine\n└─ no choices\n"
    assert read_dot(to_dot(Architecture({}))) == ([], [])


TOKEN = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([A-Za-z_][A-Za-z0-9_]*)|(->|[{}\[\]=;,]))')


def read_dot(text):
    """Parse DOT (the part that is written) and return (node labels, edges as (source, target, label))."""
    tokens, place = [], 0
    while place < len(text.rstrip()):
        match = TOKEN.match(text, place)
        assert match, f"no token of DOT at {text[place : place + 30]!r}"
        string = match[1]
        if string is not None:
            string = re.sub(
                r"\\(.)", lambda escape: escape[1] if escape[1] in '"\\' else pytest.fail(escape[0]), string
            )
            string = re.sub(
                r"&([a-z]+|#\d+);", lambda e: {"amp": "&", "lt": "<"}.get(e[1]) or pytest.fail(e[0]), string
            )
        tokens.append(
            ("string", string) if string is not None else ("word", match[2]) if match[2] else ("mark", match[3])
        )
        place = match.end()
    labels, edges = {}, []

    def take(*wanted):
        token = tokens.pop(0)
        assert token[0] in wanted or token[1] in wanted, (token, wanted)
        return token[1]

    def attributes():
        found = {}
        if tokens[0] == ("mark", "["):
            take("[")
            while tokens[0] != ("mark", "]"):
                key = take("word")
                take("=")
                found[key] = take("string")
                if tokens[0] == ("mark", ","):
                    take(",")
            take("]")
        return found

    def statements():
        take("{")
        while tokens[0] != ("mark", "}"):
            word = take("word")
            if word == "subgraph":
                take("word")
                statements()
                continue
            if tokens[0] == ("mark", "="):
                take("=")
                take("string")
            elif tokens[0] == ("mark", "->"):
                take("->")
                edges.append((word, take("word"), attributes().get("label")))
            else:
                found = attributes()
                if word not in ("graph", "node", "edge"):
                    assert word not in labels
                    labels[word] = found["label"]
            take(";")
        take("}")

    assert take("word") == "digraph"
    take("string")
    statements()
    assert tokens == []
    return list(labels.values()), [(labels[source], labels[target], label) for source, target, label in edges]


def test_dot_of_cells_has_every_edge_with_its_operation():
    labels, edges = read_dot(to_dot(NASNet))
    assert sorted(labels) == sorted(2 * ["input 0", "input 1", *(f"node {n}" for n in range(2, 7)), "output"])
    assert edges.count(("input 0", "node 5", "avg_pool_3x3")) == 2
    assert ("node 3", "node 5", "skip_connect") in edges
    assert sum(label is not None for *_, label in edges) == 20
    assert sum(target == "output" for _, target, _ in edges) == 5 + 3


def test_dot_of_choices_is_a_tree():
    labels, edges = read_dot(to_dot(TREE))
    assert len(edges) == len(labels) - 1
    for edge in (
        ("conv", "conv3"),
        ("join", "inputs 0, 2"),
        ("block", "2/conv"),
        ("2/conv", "conv5"),
        ("2/conv", "inner"),
    ):
        assert (*edge, None) in edges


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
names |= st.sampled_from(['"', "\\", "\\N", '\\"', "&lt;", "<b>", "a/b", "//", "\x1b[2J", "\n", "];", "←", "node 2"])
cells = st.lists(st.lists(st.tuples(names, st.just(0)), min_size=1, max_size=3), min_size=1, max_size=3).map(
    lambda nodes: {str(number): edges for number, edges in enumerate(nodes, start=1)}
)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(names, names | st.just([0, 1]) | cells, max_size=5), st.none() | names)
def test_no_name_breaks_the_form_or_reaches_the_terminal_unprintable(choices, space):
    architecture = Architecture(choices, space=space)
    text = to_text(architecture)
    assert all(character.isprintable() for character in text.replace("\n", ""))
    n_cells = sum(isinstance(decision, dict) for decision in choices.values())
    assert text.count("─ output ") >= n_cells
    labels, edges = read_dot(to_dot(architecture))
    for decision in choices.values():
        if isinstance(decision, dict):
            shown = [label for *_, label in edges]
            assert all(clean(name) in shown for pairs in decision.values() for name, _ in pairs)
        elif isinstance(decision, str):
            assert clean(decision) in labels


def clean(name):
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)
