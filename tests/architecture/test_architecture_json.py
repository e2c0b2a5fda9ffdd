"""JSON of all versions: read for ever, written so that two files can be compared by eye, refused when damaged."""

import json
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archgrad import architectures
from archgrad.architecture import Architecture
from archgrad.decision import joined_nodes
from archgrad.errors import ArchitectureError
from archgrad.json_text import natural_order

PINNED = pathlib.Path(__file__).parent / "architecture_version_1.json"
PINNED_2 = pathlib.Path(__file__).parent / "architecture_version_2.json"
PINNED_3 = pathlib.Path(__file__).parent / "architecture_version_3.json"


def test_the_pinned_version_1_file_loads_for_ever():
    architecture = Architecture.load(PINNED)
    assert architecture.space == "darts-cifar"
    assert dict(architecture.choices) == {
        "conv": "conv3",
        "join": (0, 2),
        "normal": {
            "2": (("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),
            "3": (("skip_connect", 2), ("sep_conv_3x3", 0)),
            "4": (("dil_conv_5x5", 1), ("dil_conv_5x5", 1)),
            "concat": (3, 4),
        },
    }
    assert architecture.provenance["epoch"] == 4
    assert architecture.provenance["alphas"]["normal/0->2"] == {"none": -0.001, "sep_conv_3x3": 1e-05}
    assert architecture.provenance["alphas"]["join"] == (0.1, 0.2, 0.3)
    assert architecture.provenance["note"] is None


def test_the_pinned_version_1_file_is_written_as_it_stands():
    assert Architecture.load(PINNED).to_json() == PINNED.read_text(encoding="utf-8")


def test_the_pinned_version_2_file_loads_for_ever_and_is_written_as_it_stands():
    architecture = Architecture.load(PINNED_2)
    assert dict(architecture.choices) == {
        "conv": "conv3",
        "sparse": {
            "2": (("sep_conv_3x3", 0), ("skip_connect", 1)),
            "3": (),
            "4": (("sep_conv_3x3", 2),),
            "5": (("skip_connect", 0), ("sep_conv_3x3", 4)),
        },
        "sparse_last": {"1": (("skip_connect", 0),), "2": (), "3": (("sep_conv_3x3", 1),), "concat": (3,)},
    }
    assert joined_nodes(architecture.choices["sparse"]) == (2, 4, 5)
    assert joined_nodes(architecture.choices["sparse_last"]) == (3,)
    assert architecture.to_json() == PINNED_2.read_text(encoding="utf-8")


NASBENCH201_1 = """{
  "format": "archgrad.architecture",
  "version": 1,
  "space": "nasbench201",
  "choices": {
    "cell": {
      "1": [["nor_conv_3x3", 0]],
      "2": [["none", 0], ["skip_connect", 1]],
      "3": [["avg_pool_3x3", 0], ["nor_conv_1x1", 1], ["none", 2]]
    }
  },
  "provenance": {}
}
"""


def test_a_nasbench201_file_of_before_outputs_were_recorded_gives_out_its_last_node():
    architecture = Architecture.from_json(NASBENCH201_1)
    assert joined_nodes(architecture.choices["cell"]) == (3,)
    said = NASBENCH201_1.replace('["none", 2]]', '["none", 2]],\n      "concat": [3]')
    assert architecture.to_json() == said
    assert Architecture.from_json(said) == architecture
    cell = json.loads(NASBENCH201_1)["choices"]["cell"]
    for choices, space in (({"cell": cell}, "mine"), ({"mine": cell}, "nasbench201")):  # another's cell means all nodes
        assert joined_nodes(next(iter(Architecture(choices, space=space).choices.values()))) == (1, 2, 3)


def test_the_pinned_version_3_file_loads_for_ever_and_is_written_as_it_stands():
    text = PINNED_3.read_text(encoding="utf-8")
    architecture = Architecture.from_json(text)
    assert dict(architecture.choices) == {"body": "conv", "drop": 0.25, "width": 16}
    assert architecture.to_json() == text


def test_what_version_1_can_say_is_written_as_version_1():
    cell = {"2": [["a", 0]], "3": [["b", 1]]}
    assert Architecture({"n": cell, "last": cell | {"concat": [3]}}).to_dict()["version"] == 1
    assert Architecture({"n": cell | {"3": []}}).to_dict()["version"] == 2
    plain = Architecture.from_json(document(version=2, choices={"n": cell}))
    assert plain == Architecture({"n": cell})
    assert plain.to_dict()["version"] == 1


def test_space_and_provenance_are_optional():
    bare = Architecture.from_json('{"format": "archgrad.architecture", "version": 1, "choices": {"conv": "a"}}')
    assert bare == Architecture({"conv": "a"})
    assert bare.provenance == {}


names = st.text(min_size=1, max_size=8).filter(lambda text: not any(0xD800 <= ord(c) < 0xE000 for c in text))


@st.composite
def cells(draw):
    inputs = draw(st.integers(1, 3))
    numbers = range(inputs, inputs + draw(st.integers(1, 4)))
    nodes = sorted(draw(st.sets(st.sampled_from(numbers), min_size=1)))  # that have edges
    cell = {str(node): [] for node in numbers}
    for node in nodes:
        sources = [source for source in range(node) if source < inputs or source in nodes]
        edges = st.lists(st.tuples(names, st.sampled_from(sources)).map(list), min_size=1, max_size=3)
        cell[str(node)] = draw(edges)
    joined = draw(st.none() | st.permutations(nodes).map(lambda order: order[: max(1, len(order) // 2)]))
    return cell if joined is None else cell | {"concat": joined}


decisions = names | st.sets(st.integers(0, 20), min_size=1).map(sorted) | cells()
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
data = st.recursive(scalars | names, lambda inner: st.lists(inner) | st.dictionaries(names, inner), max_leaves=8)
whole = st.builds(
    Architecture,
    st.dictionaries(names, decisions, max_size=4),
    space=st.none() | names,
    provenance=st.dictionaries(names, data, max_size=3),
)


@settings(max_examples=100, deadline=None)
@given(whole)
def test_json_round_trip_keeps_everything_and_the_text(architecture):
    text = architecture.to_json()
    again = Architecture.from_json(text)
    assert again == architecture
    assert hash(again) == hash(architecture)
    assert again.to_dict() == architecture.to_dict()
    assert again.to_json() == text
    assert json.loads(text) == architecture.to_dict()


def test_one_changed_edge_changes_one_line():
    before = architectures.DARTS_V2
    choices = before.to_dict()["choices"]
    choices["reduce"]["4"][0] = ["avg_pool_3x3", 1]
    after = Architecture(choices, space=before.space, provenance=before.provenance)
    lines = zip(before.to_json().splitlines(), after.to_json().splitlines(), strict=True)
    changed = [(old.strip(), new.strip()) for old, new in lines if old != new]
    assert changed == [
        (
            '"4": [["max_pool_3x3", 0], ["skip_connect", 2]],',
            '"4": [["avg_pool_3x3", 1], ["skip_connect", 2]],',
        )
    ]


def test_each_row_of_alphas_is_one_line_and_its_candidates_keep_their_order():
    alphas = {"conv": {"none": -0.1, "conv3": 0.2, "a": 0.3}, "join": [0.5, 0.25]}
    text = Architecture({"conv": "conv3"}, provenance={"alphas": alphas}).to_json()
    assert '      "conv": {"none": -0.1, "conv3": 0.2, "a": 0.3},\n      "join": [0.5, 0.25]\n' in text


def test_labels_are_sorted_with_numbers_by_size():
    labels = ["block/10/conv", "block/9/conv", "block/9", "a", "10", "9", "block/09/conv"]
    assert sorted(labels, key=natural_order) == [
        "9", "10", "a", "block/9", "block/09/conv", "block/9/conv", "block/10/conv",
    ]  # fmt: skip
    cell = {str(node): [["a", 0]] for node in (10, 9, 8)}
    assert list(Architecture({"n": cell}).choices["n"]) == ["8", "9", "10"]


def document(**changes):
    data = {"format": "archgrad.architecture", "version": 1, "space": None, "choices": {"conv": "a"}, "provenance": {}}
    return json.dumps({key: value for key, value in (data | changes).items() if value is not ...})


BAD_TEXTS = {
    "empty": ("", "Not valid JSON at line 1"),
    "cut off": (document()[:-20], "Not valid JSON at line 1, column .* intact copy"),
    "two documents": (document() * 2, "Not valid JSON"),
    "a list": ("[]", r"is a JSON object, but this is \[\]"),
    "a number": ("1", "is a JSON object, but this is 1"),
    "null": ("null", "is a JSON object, but this is None"),
    "format missing": (document(format=...), "'format' must be 'archgrad.architecture', but it is missing"),
    "another format": (document(format="onnx"), "'format' must be .* but it is 'onnx'"),
    "version missing": (document(version=...), "'version' must be an integer from 1, but got None"),
    "version 0": (document(version=0), "'version' must be an integer from 1, but got 0"),
    "version text": (document(version="1"), "'version' must be an integer"),
    "version true": (document(version=True), "'version' must be an integer"),
    "version 1.0": (document(version=1.0), "'version' must be an integer"),
    "a newer version with new keys": (document(version=4, novelty=1), "written by a newer archgrad.*Update archgrad"),
    "a node without edges in version 1": (
        document(choices={"n": {"2": [["a", 0]], "3": []}}),
        'version 1 every node of a cell must list at least one .* Write "version": 2',
    ),
    "choices missing": (document(choices=...), "'choices' is missing"),
    "unknown key": (document(chioces={}), "but this one has 'chioces'"),
    "key twice": (
        '{"format": "archgrad.architecture", "version": 1, "version": 1, "choices": {}}',
        "'version' is repeated",
    ),
    "label twice": (
        document(choices=1).replace("1}", "1}").replace('"choices": 1', '"choices": {"a": "x", "a": "y"}'),
        "'a' is repeated",
    ),
    "NaN": (document(provenance={"a": float("nan")}), "finite, but got 'NaN'"),
    "Infinity": (document(provenance={"a": float("-inf")}), "finite, but got '-Infinity'"),
    "overflowing number": (document(provenance={"a": 7}).replace("7", "1e999"), "finite, but got '1e999'"),
    "long integer": (document(provenance={"a": 7}).replace("7", "7" * 10_000), "64 bits"),
    "64-bit overflow": (document(provenance={"a": 2**64}), "64 bits"),
    "provenance null": (document(provenance=None), "'provenance' must be an object"),
    "choices null": (document(choices=None), "'choices' must map"),
    "space number": (document(space=3), "'space' must be a name"),
    "deep lists": (document(provenance={"a": 7}).replace("7", "[" * 1000 + "]" * 1000), "nest at most"),
    "very deep lists": ("[" * 10**6, "nest at most"),
    "very deep objects": ('{"a":' * 10**6, "nest at most"),
    "half a surrogate pair": (document(choices={"a": "\ud800"}), "surrogate"),
    "control character": (document() + "\x00", "Not valid JSON"),
}


@pytest.mark.parametrize(("text", "message"), BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_a_bad_text_is_refused_with_rule_and_value(text, message):
    with pytest.raises(ArchitectureError, match=message):
        Architecture.from_json(text)


def test_json_is_read_from_text_of_bounded_length():
    with pytest.raises(ArchitectureError, match="from a str, but got bytes"):
        Architecture.from_json(b"{}")
    with pytest.raises(ArchitectureError, match="at most 16777216 characters"):
        Architecture.from_json(" " * (16 * 1024 * 1024 + 1))
