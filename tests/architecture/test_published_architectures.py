"""The published genotypes against the papers; their parameter counts are checked where the spaces are."""

import pytest

from archgrad import architectures
from archgrad.decision import cell_nodes, joined_nodes


def as_text(cell):
    short = {"sep_conv_": "sep", "dil_conv_": "dil", "max_pool_": "max", "avg_pool_": "avg"}
    nodes = []
    for edges in cell_nodes(cell).values():
        words = []
        for operation, source in edges:
            for prefix, word in short.items():
                operation = operation.replace(prefix, word)
            words.append(
                f"{operation.replace('skip_connect', 'skip').replace('3x3', '3').replace('5x5', '5')}@{source}"
            )
        nodes.append(" ".join(words))
    return " | ".join(nodes)


@pytest.mark.parametrize(
    ("name", "normal", "reduce"),
    [
        (
            "DARTS_V1",
            "sep3@1 sep3@0 | skip@0 sep3@1 | skip@0 sep3@1 | sep3@0 skip@2",
            "max3@0 max3@1 | skip@2 max3@0 | max3@0 skip@2 | skip@2 avg3@0",
        ),
        (
            "DARTS_V2",
            "sep3@0 sep3@1 | sep3@0 sep3@1 | sep3@1 skip@0 | skip@0 dil3@2",
            "max3@0 max3@1 | skip@2 max3@1 | max3@0 skip@2 | skip@2 max3@1",
        ),
        (
            "PC_DARTS_cifar",
            "sep3@1 skip@0 | sep3@0 dil3@1 | sep5@0 sep3@1 | avg3@0 dil3@1",
            "sep5@1 max3@0 | sep5@1 sep5@2 | sep3@0 sep3@3 | sep3@1 sep3@2",
        ),
    ],
)
def test_searched_cells_are_the_papers(name, normal, reduce):
    architecture = getattr(architectures, name)
    assert architecture.space == "darts-cifar"
    assert as_text(architecture.choices["normal"]) == normal
    assert as_text(architecture.choices["reduce"]) == reduce
    assert joined_nodes(architecture.choices["normal"]) == joined_nodes(architecture.choices["reduce"]) == (2, 3, 4, 5)


@pytest.mark.parametrize(
    ("name", "normal", "reduce"),
    [("NASNet", (2, 3, 4, 5, 6), (4, 5, 6)), ("AmoebaNet", (4, 5, 6), (3, 4, 6))],
)
def test_baselines_have_five_nodes_and_join_those_that_no_other_node_reads(name, normal, reduce):
    architecture = getattr(architectures, name)
    for cell, joined in (("normal", normal), ("reduce", reduce)):
        decision = architecture.choices[cell]
        assert list(cell_nodes(decision)) == [2, 3, 4, 5, 6]
        assert joined_nodes(decision) == joined
        read = {edge.source for edges in cell_nodes(decision).values() for edge in edges}
        assert set(joined) == {2, 3, 4, 5, 6} - read


def test_two_edges_of_a_node_may_be_the_same():
    assert architectures.NASNet.choices["normal"]["5"] == (("avg_pool_3x3", 0), ("avg_pool_3x3", 0))
