"""An Architecture is a value: immutable all the way down, comparable by what it decides."""

import copy
import dataclasses
import pickle

import pytest

from archgrad.architecture import Architecture
from archgrad.decision import Edge, cell_nodes, empty_nodes, joined_nodes
from archgrad.errors import ArchitectureError

CELL = {"2": [["sep", 0], ["sep", 1]], "3": [["skip", 2], ["sep", 0]]}
CHOICES = {"conv": "conv3", "join": [0, 2], "normal": CELL}


def make(**changes):
    return Architecture(
        **{"choices": CHOICES, "space": "mine", "provenance": {"alphas": {"conv": {"conv3": 0.5}}}} | changes
    )


def test_decisions_are_read_back_as_written():
    architecture = make()
    assert architecture.choices["conv"] == "conv3"
    assert architecture.choices["join"] == (0, 2)
    assert architecture.choices["normal"]["3"] == (("skip", 2), ("sep", 0))
    assert architecture.choices["normal"]["3"][0] == Edge(operation="skip", source=2)
    assert architecture.space == "mine"
    assert architecture.provenance["alphas"]["conv"]["conv3"] == 0.5


@pytest.mark.parametrize(
    "mutate",
    [
        lambda a: setattr(a, "space", "other"),
        lambda a: a.choices.__setitem__("conv", "conv5"),
        lambda a: a.choices["join"].__setitem__(0, 1),
        lambda a: a.choices["normal"].__setitem__("2", ()),
        lambda a: a.choices["normal"]["2"].__setitem__(0, ("skip", 0)),
        lambda a: a.provenance["alphas"]["conv"].__setitem__("conv3", 1.0),
    ],
)
def test_nothing_in_it_can_be_changed(mutate):
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
        mutate(make())


def test_later_changes_to_the_arguments_do_not_reach_it():
    choices = copy.deepcopy(CHOICES)
    architecture = make(choices=choices)
    choices["normal"]["2"][0][0] = "other"
    choices["join"].append(3)
    assert architecture == make()


def test_equality_and_hash_are_by_decisions_and_space_whatever_the_order_and_provenance():
    shuffled = {"normal": dict(reversed(CELL.items())), "join": (0, 2), "conv": "conv3"}
    same = make(choices=shuffled, provenance={})
    assert same == make()
    assert hash(same) == hash(make())
    assert make(space=None) != make()
    assert make(choices=CHOICES | {"conv": "conv5"}) != make()
    assert len({make(), same, make(space=None)}) == 2


def test_strength_order_of_edges_is_content():
    weaker_first = CHOICES | {"normal": CELL | {"2": CELL["2"][::-1]}}
    assert make(choices=weaker_first) != make()


def test_joining_all_nodes_in_order_equals_saying_nothing_of_it():
    assert make(choices={"n": CELL | {"concat": [2, 3]}}) == make(choices={"n": CELL})
    assert make(choices={"n": CELL | {"concat": [3, 2]}}) != make(choices={"n": CELL})


def test_joining_all_nodes_that_have_edges_equals_saying_nothing_of_it():
    sparse = CELL | {"4": [], "5": [["sep", 3]]}
    plain = make(choices={"n": sparse})
    assert make(choices={"n": sparse | {"concat": [2, 3, 5]}}) == plain
    assert joined_nodes(plain.choices["n"]) == (2, 3, 5)
    assert empty_nodes(plain.choices["n"]) == (4,)
    assert pickle.loads(pickle.dumps(plain)) == plain


def test_cell_nodes_and_joined_nodes_part_the_two_kinds_of_key():
    partial = make(choices={"n": CELL | {"concat": [3]}}).choices["n"]
    assert cell_nodes(partial) == {2: (("sep", 0), ("sep", 1)), 3: (("skip", 2), ("sep", 0))}
    assert joined_nodes(partial) == (3,)
    assert joined_nodes(make().choices["normal"]) == (2, 3)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_copies_and_pickles_hold_the_same(clone):
    again = clone(make())
    assert again == make()
    assert again.provenance == make().provenance


def test_to_dict_is_new_plain_data():
    data = make().to_dict()
    data["choices"]["join"].append(9)
    data["provenance"]["alphas"].clear()
    assert make().to_dict()["choices"] == CHOICES
    assert type(make().to_dict()["choices"]["normal"]["2"][0]) is list


BAD_CHOICES = {
    "choices no mapping": ([], "must map labels"),
    "label empty": ({"": "a"}, "non-empty str"),
    "label no str": ({1: "a"}, "non-empty str, but 'choices' has 1"),
    "candidate empty": ({"conv": ""}, "Choice 'conv' must take a candidate by its non-empty name"),
    "decision of a wrong type": ({"conv": True}, "Choice 'conv' must be .* but is True"),
    "decision None": ({"conv": None}, "but is None"),
    "number too long": ({"width": 2**70}, "Choice .width.: an integer may have 64 bits"),
    "no input chosen": ({"join": []}, "lists none"),
    "input index negative": ({"join": [-1]}, r"ascending indices from 0, but is \[-1\]"),
    "input index twice": ({"join": [1, 1]}, "ascending"),
    "input indices unsorted": ({"join": [2, 0]}, "ascending"),
    "input index bool": ({"join": [True]}, "ascending"),
    "input index float": ({"join": [1.0]}, "ascending"),
    "input index huge": ({"join": [10**30]}, "ascending"),
    "cell without nodes": ({"n": {}}, "consecutive nodes"),
    "cell of concat only": ({"n": {"concat": [2]}}, "consecutive nodes"),
    "node without input": ({"n": {"0": [["a", 0]]}}, "at least one input"),
    "node missing": ({"n": {"2": [["a", 0]], "4": [["a", 0]]}}, "consecutive nodes"),
    "node no number": ({"n": {"two": [["a", 0]]}}, "has nodes such as '2'.* but has 'two'"),
    "node number padded": ({"n": {"02": [["a", 0]]}}, "consecutive nodes"),
    "node number of another script": ({"n": {"²": [["a", 0]]}}, "nodes such as"),
    "node number huge": ({"n": {"9" * 5000: [["a", 0]]}}, "nodes such as"),
    "node key int": ({"n": {2: [["a", 0]]}}, "nodes such as '2'"),
    "no node with edges": ({"n": {"2": [], "3": []}}, "Cell 'n' must keep at least one edge, but no node has any"),
    "node without edges as a source": (
        {"n": {"2": [["a", 0]], "3": [], "4": [["b", 3]]}},
        r"Cell 'n', node 4 must take inputs and nodes that have edges, but takes node 3.* Leave out \['b', 3\]",
    ),
    "node without edges as output": (
        {"n": {"2": [["a", 0]], "3": [], "concat": [3]}},
        r"Cell 'n' must have nodes with edges as its output, but 'concat' is \[3\] and node 3 has no edges",
    ),
    "node is a name": ({"n": {"2": "a"}}, "Cell 'n', node 2 must list"),
    "edge is a name": ({"n": {"2": ["ab"]}}, "source from 0 to 1, but has 'ab'"),
    "edge of three": ({"n": {"2": [["a", 0, 1]]}}, "source from 0 to 1"),
    "source is the node": ({"n": {"2": [["a", 2]]}}, r"source from 0 to 1, but has \['a', 2\]"),
    "source negative": ({"n": {"2": [["a", -1]]}}, "source from 0 to 1"),
    "source bool": ({"n": {"2": [["a", False]]}}, "source from 0 to 1"),
    "source float": ({"n": {"2": [["a", 1.0]]}}, "source from 0 to 1"),
    "operation empty": ({"n": {"2": [["", 0]]}}, "non-empty name"),
    "operation no str": ({"n": {"2": [[4, 0]]}}, "non-empty name, but has 4"),
    "concat empty": ({"n": {"2": [["a", 0]], "concat": []}}, "join different nodes"),
    "concat no node": ({"n": {"2": [["a", 0]], "concat": [1]}}, "nodes from 2 to 2, but 'concat' is"),
    "concat twice": ({"n": {"2": [["a", 0]], "concat": [2, 2]}}, "join different nodes"),
    "concat bool": ({"n": {"1": [["a", 0]], "concat": [True]}}, "join different nodes"),
    "concat of lists": ({"n": {"2": [["a", 0]], "concat": [[2]]}}, "join different nodes"),
    "half a surrogate pair": ({"n": "\ud800"}, "surrogate"),
    "half a surrogate pair in a label": ({"\ud800": "a"}, "surrogate"),
}


@pytest.mark.parametrize(("choices", "message"), BAD_CHOICES.values(), ids=BAD_CHOICES)
def test_a_decision_that_breaks_a_rule_is_refused_with_rule_and_value(choices, message):
    with pytest.raises(ArchitectureError, match=message):
        Architecture(choices)


def self_containing():
    loop = []
    loop.append(loop)
    return loop


BAD_PROVENANCE = {
    "no mapping": ([], "'provenance' must be an object"),
    "not a number": ({"a": float("nan")}, "finite, but got nan"),
    "infinite": ({"a": {"b": [float("-inf")]}}, "finite, but got -inf"),
    "key no str": ({1: 2}, "keys must be str, but got 1"),
    "integer too long": ({"a": 10**5000}, "64 bits"),
    "no JSON": ({"a": {1, 2}}, "holds a set.*tolist"),
    "endless": ({"a": self_containing()}, "nest at most"),
    "half a surrogate pair": ({"a": "\udfff"}, "surrogate"),
}


@pytest.mark.parametrize(("provenance", "message"), BAD_PROVENANCE.values(), ids=BAD_PROVENANCE)
def test_provenance_that_is_no_json_is_refused(provenance, message):
    with pytest.raises(ArchitectureError, match=message):
        make(provenance=provenance)


@pytest.mark.parametrize("space", ["", 3, [], "\ud800"])
def test_a_space_is_a_name_or_none(space):
    with pytest.raises(ArchitectureError, match="'space'"):
        make(space=space)


def test_messages_stay_short_however_large_the_value():
    with pytest.raises(ArchitectureError) as caught:
        Architecture({"conv" * 10**5: {"x" * 10**6: [[["y"] * 10**5] * 10]}})
    assert len(str(caught.value)) < 600
