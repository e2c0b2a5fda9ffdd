"""Checkpoints come back exactly as they were, or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import random
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archgrad.errors import RunError
from archgrad.runs import Checkpoints, capture_random_state, load_state, restore_random_state, save_state

FUZZ = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.complex128,
]  # fmt: skip


def same(a: Any, b: Any) -> bool:
    """Equal in type, value (nan equals nan, -0.0 differs from 0.0), dtype, shape and bits."""
    if isinstance(a, torch.Tensor):
        if not isinstance(b, torch.Tensor) or a.dtype != b.dtype or a.shape != b.shape:
            return False
        bits = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
        return torch.equal(*bits)
    if isinstance(a, np.ndarray | np.generic):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, OrderedDict):
        a = dict(a)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(p, q) and same(a[p], b[q]) for p, q in zip(a, b, strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(p, q) for p, q in zip(a, b, strict=True))
    if isinstance(a, float):
        return struct.pack("<d", a) == struct.pack("<d", b) or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


def round_trip(state: Any, folder: Path) -> Any:
    save_state(folder / "state.ckpt", state)
    return load_state(folder / "state.ckpt")


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    size = torch.Size(shape).numel() * torch.empty(0, dtype=dtype).element_size()
    content = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype == torch.bool:
        content = bytearray(byte % 2 for byte in content)
    flat = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
    tensor = flat.reshape(shape)
    return tensor.permute(draw(st.permutations(range(tensor.dim()))))


KEYS = st.recursive(
    st.text(max_size=5) | st.integers() | st.booleans() | st.none() | st.just("$tensor"),
    lambda inner: st.tuples(inner, inner),
    max_leaves=3,
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.text()
    | st.text(st.characters(categories=["Cs"]))
    | st.binary(max_size=20)
    | tensors()
    | st.sampled_from([np.float64(1.5), np.int32(3), np.arange(3, dtype=np.uint32), np.zeros((0, 2)), np.array(True)])
)
STATES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


@QUICK
@given(state=STATES)
def test_any_state_comes_back_exactly(state: Any, tmp_path: Path) -> None:
    assert same(state, round_trip(state, tmp_path))


def test_all_random_states_come_back_exactly(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)
    state = {**capture_random_state(), "pcg64": generator.bit_generator.state}
    restored = round_trip(state, tmp_path)
    assert same(state, restored)
    expected = random.random(), np.random.rand(), torch.rand(()), generator.random()
    restore_random_state(restored)
    generator.bit_generator.state = restored["pcg64"]
    assert (random.random(), np.random.rand(), torch.rand(()), generator.random()) == expected


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_an_optimizer_goes_on_as_if_never_stopped(optimizer_class: type, tmp_path: Path) -> None:
    options = {"momentum": 0.9} if optimizer_class is torch.optim.SGD else {"betas": (0.5, 0.999)}

    def steps(optimizer: torch.optim.Optimizer, weight: torch.Tensor, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            (weight**2).sum().backward()
            optimizer.step()

    weight = torch.nn.Parameter(torch.arange(4.0))
    optimizer = optimizer_class([weight], lr=0.1, **options)
    steps(optimizer, weight, 2)
    saved = {"optimizer": optimizer.state_dict(), "weight": weight}
    restored = round_trip(saved, tmp_path)
    assert same({**saved, "weight": weight.detach()}, restored)
    steps(optimizer, weight, 2)

    other = torch.nn.Parameter(restored["weight"])
    other_optimizer = optimizer_class([other], lr=9.0, **options)
    other_optimizer.load_state_dict(restored["optimizer"])
    steps(other_optimizer, other, 2)
    assert torch.equal(weight, other)


def test_a_tensor_that_occurs_twice_comes_back_as_one(tmp_path: Path) -> None:
    shared = torch.rand(3, 4)
    restored = round_trip({"a": shared, "b": [shared], "view": shared[0], "other": shared.clone()}, tmp_path)
    assert restored["a"] is restored["b"][0]
    assert restored["other"] is not restored["a"]
    assert torch.equal(restored["view"], shared[0])


def test_memory_order_of_tensors_is_kept(tmp_path: Path) -> None:
    original = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    restored = round_trip(original, tmp_path)
    assert torch.equal(original, restored)
    assert restored.stride() == original.stride()


def test_a_restored_tensor_and_array_can_be_written_to(tmp_path: Path) -> None:
    restored = round_trip({"tensor": torch.zeros(2), "array": np.zeros(2)}, tmp_path)
    restored["tensor"][0] = 1
    restored["array"][0] = 1
    assert restored["tensor"].tolist() == restored["array"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("state", "where"),
    [
        ({"a": [1, object()]}, r"state\['a'\]\[1\] is a builtins.object"),
        ({"a": {1, 2}}, "builtins.set"),
        ({"a": torch.zeros(2).to_sparse()}, "sparse"),
        ({"a": torch.zeros(2, device="meta")}, "meta"),
        ({"a": torch.zeros(2, dtype=torch.float8_e5m2)}, "float8"),
        ({"a": np.array(["text"])}, "array of dtype"),
        ({"a": np.array([object()])}, "array of dtype object"),
        ({b"key": 1}, "key b'key'"),
        (1 << 5000, "more than 4096 bits"),
    ],
)
def test_what_cannot_be_stored_is_named_and_nothing_is_written(state: Any, where: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=where):
        save_state(tmp_path / "state.ckpt", state)
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_holds_itself_is_refused(tmp_path: Path) -> None:
    state: list[Any] = []
    state.append(state)
    with pytest.raises(RunError, match="holds itself"):
        save_state(tmp_path / "state.ckpt", state)


# --- damage -----------------------------------------------------------------------------------------------------------

GOOD_STATE = {"weights": torch.arange(6.0), "epoch": 3, "nested": {"tuple": (1, math.nan), 2: b"x"}}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "good.ckpt"
    save_state(path, GOOD_STATE)
    return path.read_bytes()


def loads_or_refuses(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    try:
        load_state(path)
    except RunError:
        return False
    return True


def test_every_truncation_is_refused(good: bytes, tmp_path: Path) -> None:
    for length in range(len(good)):
        assert not loads_or_refuses(tmp_path / "cut.ckpt", good[:length]), length


def test_every_flipped_bit_is_refused(good: bytes, tmp_path: Path) -> None:
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1 << (position % 8)
        assert not loads_or_refuses(tmp_path / "flipped.ckpt", bytes(damaged)), position


def test_bytes_after_the_end_are_refused(good: bytes, tmp_path: Path) -> None:
    assert not loads_or_refuses(tmp_path / "long.ckpt", good + b"\0")


def sealed(text: bytes, content: bytes) -> bytes:
    """Return a file whose lengths and checksum are right, so that what it holds is looked at."""
    lengths = struct.pack("<8sIQQ", b"ARCHGRAD", 1, len(text), len(content))
    return lengths + hashlib.sha256(lengths + text + content).digest() + text + content


@FUZZ
@given(content=st.binary(max_size=200))
def test_any_bytes_load_or_give_a_run_error(content: bytes, tmp_path: Path) -> None:
    loads_or_refuses(tmp_path / "fuzz.ckpt", content)
    loads_or_refuses(tmp_path / "fuzz.ckpt", b"ARCHGRAD" + content)
    loads_or_refuses(tmp_path / "fuzz.ckpt", sealed(content, content))


JSON_DATA = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["0", "1", "uint32"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "$tensor",
                    "$array",
                    "$scalar",
                    "$tuple",
                    "$dict",
                    "$float",
                    "$bytes",
                    "$str",
                    "$new",
                    "dtype",
                    "dims",
                    "a",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=10,
)


@FUZZ
@given(structure=JSON_DATA, header=JSON_DATA)
def test_any_structure_under_a_right_checksum_loads_or_gives_a_run_error(
    structure: Any, header: Any, tmp_path: Path
) -> None:
    text = json.dumps(structure).encode()
    tensors = safetensors.torch.save({"0": torch.ones(2, 2), "1": torch.ones(3, dtype=torch.bfloat16)})
    loads_or_refuses(tmp_path / "fuzz.ckpt", sealed(text, tensors))
    head = json.dumps(header).encode()
    loads_or_refuses(tmp_path / "fuzz.ckpt", sealed(b"{}", struct.pack("<Q", len(head)) + head + bytes(16)))


@FUZZ
@given(
    dtype=st.sampled_from(["F32", "F64", "I64", "BOOL", "BF16", "F8_E4M3", "U16", "XX"]),
    shape=st.lists(st.integers(-2, 4) | st.sampled_from([0, 2**31, 2**62, 2**63, 2**64]), max_size=4),
    start=st.integers(-1, 20) | st.just(2**63),
    end=st.integers(-1, 40) | st.just(2**64 - 1),
)
def test_any_tensor_header_loads_or_gives_a_run_error(
    dtype: str, shape: list[int], start: int, end: int, tmp_path: Path
) -> None:
    head = json.dumps({"0": {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}}).encode()
    content = struct.pack("<Q", len(head)) + head + bytes(16)
    loads_or_refuses(tmp_path / "fuzz.ckpt", sealed(b'{"$tensor": "0"}', content))


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b"NaN", b"\xff", b"[1,]"])
def test_malformed_structures_are_refused(text: bytes, tmp_path: Path) -> None:
    assert not loads_or_refuses(tmp_path / "bad.ckpt", sealed(text, safetensors.torch.save({})))


def test_sizes_in_the_header_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    header = struct.pack("<8sIQQ", b"ARCHGRAD", 1, 2**60, 2**60) + bytes(32)
    (tmp_path / "big.ckpt").write_bytes(header)
    with pytest.raises(RunError, match=f"promises {2**61 + 60} bytes, but it has 60"):
        load_state(tmp_path / "big.ckpt")


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["HOSTILE_TARGET"],)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_hostile_pickle_is_refused_and_not_run(writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTILE_TARGET", str(tmp_path / "hacked"))
    path = tmp_path / "last.ckpt"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(Hostile()))
    else:
        torch.save(Hostile(), path)
    with pytest.raises(RunError, match="does not start as a checkpoint"):
        load_state(path)
    assert not (tmp_path / "hacked").exists()


def test_a_newer_version_is_refused_by_name(good: bytes, tmp_path: Path) -> None:
    (tmp_path / "new.ckpt").write_bytes(good[:8] + struct.pack("<I", 2) + good[12:])
    with pytest.raises(RunError, match="version 2, and this archgrad reads version 1"):
        load_state(tmp_path / "new.ckpt")


def test_a_version_one_file_loads_for_ever(tmp_path: Path) -> None:
    text = (
        b'{"epoch":3,"lr":0.025,"nan":{"$float":"nan"},"pair":{"$tuple":[1,"a"]},"groups":{"$dict":[[0,{"$tensor":"0"}]]},'
        b'"bytes":{"$bytes":"AAE="},"array":{"$array":"1","dtype":"uint32"},"half":{"$tensor":"3","dtype":"bfloat16"},"last":{"$tensor":"2","dims":[1,0]}}'
    )
    tensors = {
        "0": torch.tensor([1.0, 2.0]),
        "1": torch.tensor([-1], dtype=torch.int32),
        "2": torch.tensor([[1, 2], [3, 4], [5, 6]]),
        "3": torch.tensor([0x3FC0], dtype=torch.int16),
    }
    (tmp_path / "v1.ckpt").write_bytes(sealed(text, safetensors.torch.save(tensors)))
    expected = {
        "epoch": 3,
        "lr": 0.025,
        "nan": math.nan,
        "pair": (1, "a"),
        "groups": {0: torch.tensor([1.0, 2.0])},
        "bytes": b"\x00\x01",
        "array": np.array([2**32 - 1], dtype=np.uint32),
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "last": torch.tensor([[1, 3, 5], [2, 4, 6]]),
    }
    assert same(expected, load_state(tmp_path / "v1.ckpt"))


# --- the last two -----------------------------------------------------------------------------------------------------


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.load(set_aside=True) is None
    for epoch in range(3):
        assert checkpoints.save({"epoch": epoch}) > 0
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert load_state(checkpoints.last) == {"epoch": 2}
    assert load_state(checkpoints.previous) == {"epoch": 1}
    assert checkpoints.load(set_aside=True) == {"epoch": 2}


def test_the_older_checkpoint_is_used_with_a_warning_and_never_replaced_by_the_damaged_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for epoch in range(2):
        checkpoints.save({"epoch": epoch})
    checkpoints.last.write_bytes(checkpoints.last.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"last.ckpt.*Going on from the older 'previous.ckpt'"):
        assert checkpoints.load(set_aside=True) == {"epoch": 0}
    checkpoints.save({"epoch": 1})
    assert load_state(checkpoints.previous) == {"epoch": 0}
    assert load_state(checkpoints.last) == {"epoch": 1}


def test_only_damaged_checkpoints_are_an_error(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for epoch in range(2):
        checkpoints.save({"epoch": epoch})
    for path in (checkpoints.last, checkpoints.previous):
        path.write_bytes(b"")
    with pytest.raises(RunError, match="No intact checkpoint is left"):
        checkpoints.load(set_aside=True)


@pytest.mark.parametrize("moment", range(5))
def test_a_crash_at_any_moment_of_a_save_leaves_a_whole_checkpoint(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    for epoch in range(2):
        checkpoints.save({"epoch": epoch})

    class Crash(BaseException):
        pass

    calls = 0

    def crashing(real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > moment:  # the process is dead: nothing after this moment happens
                raise Crash
            return real(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crashing(os.fsync))
        patch.setattr(os, "replace", crashing(os.replace))
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
        with pytest.raises(Crash):
            checkpoints.save({"epoch": 2})
    # fsync, rename, fsync of the folder; then last -> previous, next -> last
    assert checkpoints.load(set_aside=True) == {"epoch": 1}
    checkpoints.save({"epoch": 2})
    assert checkpoints.load(set_aside=True) == {"epoch": 2}
