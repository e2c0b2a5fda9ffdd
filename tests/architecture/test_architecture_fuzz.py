"""Whatever is read either gives an architecture or an ArchitectureError; nothing else escapes, and nothing runs."""

import json
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from archgrad import architectures
from archgrad.architecture import Architecture
from archgrad.errors import ArchitectureError

some = settings(max_examples=100, deadline=None, database=None)
MANY = range(3000)

KEYS = ["format", "version", "space", "choices", "provenance", "normal", "2", "3", "concat", "conv", "alphas", "é", ""]
VALUES = ["archgrad.architecture", "sep_conv_3x3", "", "\ud800", 0, 1, 2, -1, 2**70, 1.5, float("nan"), True, None]
json_values = st.recursive(
    st.sampled_from(VALUES) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
edges = st.lists(st.tuples(st.sampled_from(["sep", "", 3]), st.sampled_from([0, 1, 2, -1, True])), max_size=3)
nearly_cells = st.dictionaries(
    st.sampled_from(["2", "3", "02", "concat", "x"]), edges | st.lists(st.integers(0, 4)), max_size=3
)


def reads_or_refuses(read, value):
    try:
        architecture = read(value)
    except ArchitectureError as refusal:
        message = str(refusal)
    else:
        message = "read"
        assert Architecture.from_json(architecture.to_json()) == architecture
    assert 0 < len(message) < 1500


@some
@given(st.text())
def test_any_text(text):
    reads_or_refuses(Architecture.from_json, text)
    reads_or_refuses(Architecture.from_genotype, text)


@some
@given(json_values)
def test_any_json_of_familiar_words(value):
    reads_or_refuses(Architecture.from_json, json.dumps(value))


@some
@given(st.dictionaries(st.sampled_from(KEYS), json_values | nearly_cells, max_size=4), json_values)
def test_any_choices_in_a_good_frame(choices, provenance):
    frame = {"format": "archgrad.architecture", "version": 1, "choices": choices, "provenance": provenance}
    reads_or_refuses(Architecture.from_json, json.dumps(frame))
    reads_or_refuses(lambda value: Architecture(value, provenance=provenance), choices)


def damaged(text, seed):
    """Return the text with a few pieces dropped, doubled, moved or replaced."""
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 4)):
        a, b = sorted(chance.choices(range(len(text) + 1), k=2))
        b = min(b, a + chance.choice([1, 2, 8, 10**6]))
        piece = chance.choice(["", text[a:b] * 2, chance.choice("[](){},:\"'#=-\\\n\0é"), "9" * 30, "range(", "null"])
        text = text[:a] + piece + text[b:]
    return text


def test_damaged_json():
    for seed in MANY:
        reads_or_refuses(Architecture.from_json, damaged(architectures.NASNet.to_json(), seed))


def test_damaged_genotype():
    for seed in MANY:
        reads_or_refuses(Architecture.from_genotype, damaged(architectures.NASNet.to_genotype(), seed))


TOKENS = [
    "Genotype",
    "(",
    ")",
    "[",
    "]",
    ",",
    "=",
    "'a'",
    '"b"',
    "0",
    "1",
    "normal",
    "reduce",
    "normal_concat",
    "range",
]
TOKENS += ["reduce_concat", "lambda", ":", ".", "-", "#", "\n", "\\", "'''", "**", "{", "not ", "f'{1}'", "'", "x"]


def test_sequences_of_genotype_tokens():
    for seed in MANY:
        chance = random.Random(seed)
        reads_or_refuses(Architecture.from_genotype, "Genotype(" + " ".join(chance.choices(TOKENS, k=seed % 60)))


NNI_KEYS = [
    f"{cell}_n{node}_{suffix}"
    for cell in ("normal", "reduce")
    for node in range(2, 6)
    for suffix in [*(f"p{source}" for source in range(node)), "switch"]
]
nni_values = st.sampled_from(
    ["maxpool", "none", [], 0, 6, 7, -1, True, None, 0.5, [0, 1], [1, 0], ["normal_n2_p0"], {}]
)


@some
@given(st.sampled_from(["maxpool", 3]), st.dictionaries(st.sampled_from([*NNI_KEYS, "x"]), nni_values, max_size=3))
def test_any_nni_export_with_some_entries_changed(operation, changes):
    good = {key: [1, 0] if key.endswith("switch") else operation for key in NNI_KEYS}
    reads_or_refuses(Architecture.from_nni, good | changes)


@some
@given(st.dictionaries(st.sampled_from(NNI_KEYS) | st.integers() | st.text(), nni_values))
def test_any_mapping_as_an_nni_export(data):
    reads_or_refuses(Architecture.from_nni, data)


def test_any_bytes_as_a_file(tmp_path):
    path = tmp_path / "file"

    @settings(max_examples=80, deadline=None, database=None)
    @given(st.binary(max_size=60) | st.text().map(lambda text: ("{" + text).encode("utf-16-le", "replace")))
    def check(content):
        path.write_bytes(content)
        reads_or_refuses(Architecture.load, path)

    check()
