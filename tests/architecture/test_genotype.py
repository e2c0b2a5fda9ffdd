"""The authors' genotype text: the printed form and its variants are read, anything else is refused, nothing is run."""

import ast
import pathlib
import sys
from collections import namedtuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archgrad import architectures
from archgrad.architecture import Architecture
from archgrad.errors import ArchitectureError

PUBLISHED = ["NASNet", "AmoebaNet", "DARTS_V1", "DARTS_V2", "PC_DARTS_cifar"]
DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)


def test_the_printed_form_is_read_in_the_order_of_strength():
    architecture = Architecture.from_genotype(DARTS_V2)
    assert architecture == architectures.DARTS_V2
    assert architecture.space == "darts-cifar"
    assert architecture.choices["normal"]["4"] == (("sep_conv_3x3", 1), ("skip_connect", 0))
    assert architecture.choices["reduce"]["3"] == (("skip_connect", 2), ("max_pool_3x3", 1))


@pytest.mark.parametrize(
    "text",
    [
        DARTS_V2.replace("[2, 3, 4, 5]", "range(2, 6)"),
        DARTS_V2.replace("'", '"'),
        DARTS_V2.replace(", ", ",\n    ").replace("(normal", "(\n  normal"),
        DARTS_V2.replace(", ", ","),
        "DARTS_V2 = " + DARTS_V2,
        "# the second order one\nDARTS = " + DARTS_V2.replace(", reduce=", ",  # [((\n reduce=") + " # end",
        DARTS_V2.replace("('", "['").replace("0)", "0]").replace("1)", "1]").replace("2)", "2]"),
        DARTS_V2[:-1] + ",)",
    ],
    ids=["range", "double quotes", "lines", "dense", "assigned", "comments", "lists for pairs", "last comma"],
)
def test_other_ways_to_write_the_same_genotype_are_read(text):
    assert Architecture.from_genotype(text) == architectures.DARTS_V2


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_genotypes_survive_the_round_trip(name):
    architecture = getattr(architectures, name)
    assert Architecture.from_genotype(architecture.to_genotype()) == architecture


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_text_means_the_same_to_the_authors_named_tuple(name):
    genotype = namedtuple("Genotype", "normal normal_concat reduce reduce_concat")
    architecture = getattr(architectures, name)
    read = eval(architecture.to_genotype(), {"Genotype": genotype})
    for cell in ("normal", "reduce"):
        nodes = {key: edges for key, edges in architecture.choices[cell].items() if key != "concat"}
        assert getattr(read, cell) == [edge for edges in nodes.values() for edge in edges]
        assert getattr(read, f"{cell}_concat") == list(architecture.choices[cell].get("concat", map(int, nodes)))


RECURRENT = (
    "Genotype(recurrent=[('sigmoid', 0), ('relu', 1), ('relu', 1), ('identity', 1), ('tanh', 2), ('sigmoid', 5), "
    "('tanh', 3), ('relu', 5)], concat=range(1, 9))"
)


@pytest.mark.parametrize("nested", [False, True])
def test_a_recurrent_cell_has_one_input_and_one_edge_a_node(nested):
    architecture = Architecture.from_genotype(RECURRENT)
    assert architecture.space == "darts-rnn"
    assert architecture.choices["recurrent"]["6"] == (("sigmoid", 5),)
    assert "concat" not in architecture.choices["recurrent"]  # all nodes
    assert Architecture.from_genotype(architecture.to_genotype(nested=nested)) == architecture


def test_a_recurrent_cell_may_join_some_of_its_nodes():
    read = Architecture.from_genotype("Genotype(recurrent=[('tanh', 0), ('relu', 1), ('relu', 0)], concat=[3, 2])")
    assert read.choices["recurrent"]["concat"] == (3, 2)
    assert read.to_genotype() == "Genotype(recurrent=[('tanh', 0), ('relu', 1), ('relu', 0)], concat=[3, 2])"


operations = st.from_regex("[A-Za-z0-9_]{1,12}", fullmatch=True)


@st.composite
def genotype_cells(draw):
    nodes = range(2, 2 + draw(st.integers(1, 6)))
    cell = {
        str(node): [
            [draw(operations), draw(st.integers(0, node - 1))],
            [draw(operations), draw(st.integers(0, node - 1))],
        ]
        for node in nodes
    }
    return cell | {"concat": draw(st.permutations(nodes))[: draw(st.integers(1, len(nodes)))]}


@settings(max_examples=50, deadline=None)
@given(genotype_cells(), genotype_cells())
def test_any_pair_of_cells_survives_the_round_trip(normal, reduce):
    architecture = Architecture({"normal": normal, "reduce": reduce}, space="darts-cifar")
    assert Architecture.from_genotype(architecture.to_genotype()) == architecture


def test_a_genotype_is_never_evaluated(tmp_path):
    witness = tmp_path / "witness"
    for code in (f"open({str(witness)!r}, 'w')", f"__import__('os').mkdir({str(witness)!r})", "print('x')"):
        for text in (
            DARTS_V2.replace("('sep_conv_3x3', 0)", code, 1),
            DARTS_V2.replace("[2, 3, 4, 5]", code, 1),
            code,
            f"{code}; {DARTS_V2}",
            f"{DARTS_V2}.{code}",
            f"{DARTS_V2}\n{code}",
            DARTS_V2.replace("normal=", f"normal={code}, normal=", 1),
        ):
            with pytest.raises(ArchitectureError):
                Architecture.from_genotype(text)
    assert not witness.exists()


one = "('a', 0), ('a', 1)"
whole = f"Genotype(normal=[{one}], normal_concat=[2], reduce=[{one}], reduce_concat=[2])"

BAD_TEXTS = {
    "empty": ("", "needs Genotype here, but has the end of the text"),
    "prose": ("hello world", "needs '=' here, but has 'world' in line 1"),
    "cut off": (whole[:-1], "the end of the text"),
    "cut inside a string": (whole[:20], "line 1 has"),
    "field missing": (whole.replace(", reduce_concat=[2]", ""), "reduce_concat is missing"),
    "field repeated": (whole.replace("reduce=", "normal="), "'normal' is repeated"),
    "recurrent cell without its output": ("Genotype(recurrent=[('tanh', 0)])", "recurrent, concat, but concat is mis"),
    "two kinds of cells": (DARTS_V2[:-1] + ", recurrent=[('tanh', 0)])", "reduce_concat, but this one has 'recurrent'"),
    "a node that is not there": ("Genotype(recurrent=[('tanh', 0)], concat=range(1, 9))", "nodes from 1 to 1"),
    "a state that comes later": ("Genotype(recurrent=[('tanh', 1)], concat=[1])", "a source from 0 to 0"),
    "a recurrent cell's call": ("Genotype(recurrent=[(open('x'), 0)], concat=[1])", "needs an operation in quotes"),
    "field by position": (f"Genotype([{one}])", "needs a name here, but has '\\['"),
    "two statements": (f"{whole}\n{whole}", "nothing more here, but has 'Genotype' in line 2"),
    "attribute": (whole.replace("'a', 0", "'a'.upper(), 0"), 'has "\\.upper'),
    "call": (whole.replace("'a', 0", "str(), 0", 1), "needs an operation in quotes here, but has 'str'"),
    "call for the cell": (whole.replace("[('a', 0)", "list(('a', 0)", 1), "needs a list here, but has 'list'"),
    "other range": (whole.replace("[2]", "range(2, 3, 1)", 1), "has 3 numbers"),
    "huge range": (whole.replace("[2]", "range(2, 99999999999)", 1), "0 to 999"),
    "arithmetic": (whole.replace("'a', 0", "'a', 0+1"), "holds names"),
    "negative source": (whole.replace("'a', 1", "'a', -1"), "has '-1"),
    "source after the node": (whole.replace("'a', 1", "'a', 2"), "Cell 'normal', node 2 .* source from 0 to 1"),
    "source float": (whole.replace("'a', 1", "'a', 1.0"), "needs a state's number here, but has '1.0'"),
    "source huge": (whole.replace("'a', 1", "'a', " + "1" * 5000), "0 to 999"),
    "source bool": (whole.replace("'a', 1", "'a', True"), "needs a state's number here, but has 'True'"),
    "triple among pairs": (whole.replace("'a', 1", "'a', 1, 3", 1), "names the node in all edges of a cell or in none"),
    "triple with a gap": (whole.replace("0)", "0, 2)").replace("1)", "1, 4)"), "without a gap"),
    "four parts": (whole.replace("'a', 1", "'a', 1, 2, 3"), "needs '\\)' here, but has ','"),
    "endless score": (whole.replace("'a', 1", "'a', 1, 0." + "1" * 5000), "needs '\\)' here"),
    "pairs and lists": (whole.replace("('a', 1)", "[('a', 1)]", 1), "has either pairs or lists of pairs"),
    "deeper list": (whole.replace(one, f"[[{one}]]", 1), "needs an operation in quotes|needs \\('operation'"),
    "operation number": (whole.replace("'a'", "4"), "operation in quotes"),
    "operation empty": (whole.replace("'a'", "''"), "holds names"),
    "operation with code": (whole.replace("'a'", "'a()'"), "holds names"),
    "brackets mixed": (whole.replace("('a', 0)", "('a', 0]"), "needs '\\)' here"),
    "odd number of pairs": (whole.replace(one, "('a', 0)", 1), "2 pairs for each node of 'normal', but this one has 1"),
    "no pairs": (whole.replace(one, "", 1), "but this one has 0"),
    "joined node missing": (whole.replace("[2]", "[3]", 1), "Cell 'normal' must join"),
    "joins nothing": (whole.replace("[2]", "range(3, 3)", 1), "Cell 'normal' must join"),
    "double star": ("Genotype(**{})", "holds names"),
    "lambda": (f"(lambda: {whole})()", "line 1 has ': Genotype"),
    "walrus": (f"(x := {whole})", "needs Genotype here|holds names"),
    "null byte": (whole + "\0", "holds names"),
    "too long": (whole + " " * 70_000, "at most 65536 characters"),
    "deep": ("Genotype(normal=" + "[" * 30_000, "here, but has '\\['"),
    "chained calls": (whole + "()" * 20_000, "nothing more"),
    "chained words": ("not " * 16_000, "needs '=' here"),
}


@pytest.mark.parametrize(("text", "message"), BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_a_bad_text_is_refused_with_rule_and_value(text, message):
    with pytest.raises(ArchitectureError, match=message):
        Architecture.from_genotype(text)


def test_the_message_shows_the_form_that_is_read():
    with pytest.raises(ArchitectureError, match=r"Its form is Genotype\(normal=\[\('sep_conv_3x3', 0\), ...\]"):
        Architecture.from_genotype("Genotype(1)")
    with pytest.raises(ArchitectureError, match="from a str, but got bytes"):
        Architecture.from_genotype(b"Genotype()")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"conv": "conv3"}, "cells normal and reduce or recurrent and nothing else"),
        ({"recurrent": {"1": [["a", 0]], "2": [["a", 0], ["b", 1]]}}, "1 edges a node"),
        ({"recurrent": {"2": [["a", 0]]}}, "counts nodes from 1"),
        ({"normal": {"2": [["a", 0], ["a", 1]]}}, "normal and reduce"),
        ({"normal": "a", "reduce": "b"}, "normal and reduce"),
        ({"normal": {"1": [["a", 0], ["a", 0]]}, "reduce": {"2": [["a", 0], ["a", 0]]}}, "counts nodes from 2"),
        ({"normal": {"2": [["a", 0]]}, "reduce": {"2": [["a", 0], ["a", 0]]}}, "2 edges a node"),
        ({"normal": {"2": [["a'", 0], ["a", 0]]}, "reduce": {"2": [["a", 0], ["a", 0]]}}, "letters, digits"),
    ],
)
def test_what_a_genotype_cannot_say_is_refused_not_dropped(choices, message):
    with pytest.raises(ArchitectureError, match=f"{message}.*JSON"):
        Architecture(choices).to_genotype()


def test_reading_architectures_needs_nothing_but_the_standard_library():
    folder = pathlib.Path(architectures.__file__).parent
    names = (
        *("architecture", "architectures", "checks", "decision", "errors", "files", "genotype", "json_text"),
        *("genotype_texts", "machine", "nni_format", "nni_hub_format"),
    )
    for name in names:
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                root, _, rest = module.partition(".")
                assert root in sys.stdlib_module_names or (root == "archgrad" and rest in names), (name, module)
