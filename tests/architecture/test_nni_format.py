"""NNI's three shapes of the paper's CNN space are told apart by their content."""

import json

import pytest

from archgrad.architecture import Architecture
from archgrad.errors import ArchitectureError

CELLS = ("normal", "reduce")
NODES = range(2, 6)
KEPT = {2: (1, 0), 3: (2, 0), 4: (1, 3), 5: (4, 2)}  # best first
INDEX = {
    "maxpool": 0,
    "avgpool": 1,
    "skipconnect": 2,
    "sepconv3x3": 3,
    "sepconv5x5": 4,
    "dilconv3x3": 5,
    "dilconv5x5": 6,
}
PAPER = ["max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"]


def operation(cell, node, source):
    return list(INDEX)[(node + 2 * source + (cell == "reduce")) % 7]


def export(version):
    edges, switches = {}, {}
    for cell in CELLS:
        for node in NODES:
            for source in range(node):
                name = operation(cell, node, source)
                dropped = version == "1" and source not in KEPT[node]
                edges[f"{cell}_n{node}_p{source}"] = [] if dropped else INDEX[name] if version == "2.3" else name
            kept = list(KEPT[node])
            switches[f"{cell}_n{node}_switch"] = (
                [f"{cell}_n{node}_p{source}" for source in sorted(kept)] if version == "1" else kept
            )
    return edges | switches


def expected(version):
    order = sorted if version == "1" else list
    return {
        cell: {
            str(node): tuple((PAPER[INDEX[operation(cell, node, s)]], s) for s in order(KEPT[node])) for node in NODES
        }
        for cell in CELLS
    }


@pytest.mark.parametrize("version", ["1", "2.3", "2.4"])
def test_each_shape_is_recognised_and_read(version):
    architecture = Architecture.from_nni(export(version))
    assert dict(architecture.choices) == expected(version)
    assert architecture.space == "darts-cifar"
    assert architecture.provenance == {"source": f"NNI {version}"}


@pytest.mark.parametrize("version", ["1", "2.3", "2.4"])
def test_the_order_of_keys_does_not_matter(version):
    assert Architecture.from_nni(dict(reversed(export(version).items()))) == Architecture.from_nni(export(version))


def test_the_two_newer_shapes_of_one_search_give_one_architecture():
    assert Architecture.from_nni(export("2.3")) == Architecture.from_nni(export("2.4"))


def test_the_oldest_shape_gives_the_same_edges_without_their_order():
    old, new = (Architecture.from_nni(export(version)).choices for version in ("1", "2.4"))
    for cell in CELLS:
        for node in map(str, NODES):
            assert sorted(new[cell][node], key=lambda edge: edge.source) == list(old[cell][node])


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "version", "node", "edges"),
    [
        ("v1_epoch_1.json", "1", "3", (("sep_conv_3x3", 0), ("dil_conv_5x5", 2))),
        ("v2.3_checkpoint.json", "2.3", "5", (("avg_pool_3x3", 3), ("avg_pool_3x3", 1))),
        ("v2.4_checkpoint.json", "2.4", "5", (("sep_conv_5x5", 3), ("sep_conv_3x3", 0))),
    ],
)
def test_recorded_exports_are_read(shared_dir, file, version, node, edges):
    path = shared_dir / "golden" / "nni" / file
    architecture = Architecture.load(path)
    assert architecture.provenance == {"source": f"NNI {version}"}
    assert architecture.choices["normal"][node] == edges
    assert architecture == Architecture.from_nni(json.loads(path.read_text()))
    assert Architecture.from_genotype(architecture.to_genotype()) == architecture


BAD = {
    "no mapping": ("2.4", None, None, "is a mapping, but got list"),
    "unknown key": ("2.4", "conv1", "a", "but this one has 'conv1'"),
    "unknown node": ("2.4", "normal_n6_p0", "maxpool", "but this one has 'normal_n6_p0'"),
    "edge from itself": ("2.4", "normal_n2_p2", "maxpool", "but this one has 'normal_n2_p2'"),
    "key no str": ("2.4", 7, "maxpool", "but this one has 7"),
    "unknown name": ("2.4", "normal_n2_p0", "none", "'normal_n2_p0' must be one of maxpool, .* but is 'none'"),
    "unknown name on a dropped edge": ("2.4", "normal_n3_p1", "none", r"'normal_n3_p1' must be one of .*\(NNI 2.4\)"),
    "name in the shape of an index": ("2.3", "normal_n2_p0", "maxpool", r"an index from 0 to 6 \(NNI 2.3\)"),
    "index too high": ("2.3", "normal_n2_p0", 7, "an index from 0 to 6 .* but is 7"),
    "index negative": ("2.3", "normal_n2_p0", -1, "an index from 0 to 6"),
    "index bool": ("2.3", "normal_n2_p0", True, "an index from 0 to 6"),
    "index float": ("2.3", "normal_n2_p0", 1.0, "an index from 0 to 6"),
    "kept edge without operation": ("1", "normal_n2_p0", [], r"'normal_n2_p0' must be one of .* but is \[\]"),
    "dropped edge of another kind": ("1", "normal_n3_p1", None, "but is None"),
    "dropped edge in a newer shape": ("2.4", "normal_n2_p0", [], r"but is \[\]"),
    "switch of three": ("2.4", "normal_n3_switch", [0, 1, 2], "must list 2 different indices from 0 to 2"),
    "switch of one": ("2.4", "normal_n3_switch", [0], "must list 2 different"),
    "switch empty": ("2.4", "normal_n3_switch", [], "must list 2 different"),
    "switch twice the same": ("2.4", "normal_n3_switch", [1, 1], "must list 2 different"),
    "switch out of range": ("2.4", "normal_n3_switch", [0, 3], "indices from 0 to 2"),
    "switch negative": ("2.4", "normal_n3_switch", [0, -1], "indices from 0 to 2"),
    "switch bool": ("2.4", "normal_n3_switch", [True, 0], "indices from 0 to 2"),
    "switch a number": ("2.4", "normal_n3_switch", 1, "but is 1"),
    "switch of another node": ("1", "normal_n3_switch", ["normal_n2_p0", "normal_n3_p0"], "keys among"),
    "switch of keys in a newer shape": ("2.4", "normal_n3_switch", ["normal_n3_p0", "normal_n3_p2"], "indices from 0"),
}


@pytest.mark.parametrize(("version", "key", "value", "message"), BAD.values(), ids=BAD)
def test_damage_is_refused_with_key_rule_and_value(version, key, value, message):
    data = [] if key is None else export(version) | {key: value}
    with pytest.raises(ArchitectureError, match=message):
        Architecture.from_nni(data)


@pytest.mark.parametrize("version", ["1", "2.3", "2.4"])
def test_no_key_may_be_missing(version):
    for key in export(version):
        data = export(version)
        del data[key]
        with pytest.raises(ArchitectureError, match=f"has 36 keys, but 1 are missing, the first being '{key}'"):
            Architecture.from_nni(data)
