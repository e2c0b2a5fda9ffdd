"""Partial channels: what passes by, what is derived, what is refused, and that the fast path carries them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import archgrad as ag
from archgrad.always_on import AuxiliarySkip
from archgrad.errors import OptionError, SpaceError
from archgrad.operations import PoolBN
from archgrad.relaxation import Gumbel, Relaxation, Softmax
from archgrad.schedules import Progress

DATA = (torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 10)
SMALL = functools.partial(ag.spaces.nasbench201, 4, 1)


def rows_cell(width: Callable[[int], int] = lambda parts: 6 // parts, **options: Any) -> ag.Cell:
    """A cell of rows (B, 6), not of images."""

    def dense(source: int, node: int, parts: int = 1) -> nn.Module:
        return nn.Linear(width(parts), width(parts))

    return ag.Cell(2, {"dense": dense, "skip": lambda s, n, parts=1: nn.Identity()}, label="c", **options)


@pytest.mark.parametrize("size", [8, 7])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("relaxation", "parts"), [(Softmax(), {}), (Softmax(), {"edge_weights": Softmax()}), (Gumbel(), {})]
)
def test_fast_and_plain_agree(relaxation: Relaxation, parts: dict[str, Any], training: bool, size: int) -> None:
    torch.manual_seed(0)
    space = ag.spaces.darts_cifar(8, 3, nodes=2, partial_channels=4).double()
    x = torch.randn(3, 3, size, size, dtype=torch.float64)
    found = []
    for fast in (True, False):
        torch.manual_seed(2)  # the first weights of what always runs
        supernet = ag.Supernet(space, relaxation, seed=1, fast=fast, always_on=AuxiliarySkip(), **parts)
        supernet.progress = Progress(1, 4)
        y = supernet.train(training)(x)
        wrt = [*supernet.alphas.values(), *supernet.weights.values()]
        gradients = torch.autograd.grad(y.square().sum(), wrt, allow_unused=True, materialize_grads=True)
        found.append([y, *gradients, *(b.double() for b in supernet.network.buffers())])
    for fast_value, plain_value in zip(*found, strict=True):
        torch.testing.assert_close(fast_value, plain_value, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("channels_last", [True, False])
def test_fast_and_plain_agree_where_a_cell_runs_as_it_is_written(channels_last: bool) -> None:
    # A pool of one pixel is what the fast path leaves to BatchNorm; dropout tells the order of the memory.
    operations = {
        "pool": lambda c: PoolBN("avg", c, 1),
        "skip": lambda c: nn.Identity(),
        "drop": lambda c: nn.Dropout(0.5),
    }
    candidates = {name: lambda s, n, parts=1, make=make: make(4 // parts) for name, make in operations.items()}
    space = ag.Cell(2, candidates, label="c", partial_channels=2).double()
    nets = [ag.Supernet(space, seed=1, fast=fast) for fast in (True, False)]
    for size, training in ((1, False), (3, True)):
        x = torch.randn(1, 4, size, size, dtype=torch.float64)
        x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        outputs = []
        for net in nets:
            torch.manual_seed(5)
            outputs.append(net.train(training)([x, 2.0 * x]))
        torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)


def test_a_node_of_rows_is_what_passes_by_beside_what_was_read() -> None:
    supernet = ag.Supernet(rows_cell(partial_channels=3))
    x = torch.arange(6.0).expand(2, 6)
    with torch.no_grad():
        for label in supernet.rows:
            supernet.alphas[label].copy_(torch.tensor([-100.0, 100.0]))  # skip everywhere
    # with identities the first node is shuffle(x + x): groups (0 1)(2 3)(4 5) come out as 0 2 4 1 3 5
    y = supernet([x, x])
    assert y[0, :6].tolist() == [0.0, 4.0, 8.0, 2.0, 6.0, 10.0]


def test_the_derived_cell_has_all_channels_and_no_weights_of_the_search() -> None:
    space = ag.spaces.nasbench201(8, 1, partial_channels=4)
    supernet = ag.Supernet(space).double()
    before = torch.get_rng_state()
    architecture = ag.discretize(supernet)
    assert torch.equal(torch.get_rng_state(), before)  # nothing is built to decide
    for derived, dtype in ((ag.derive(space, architecture), torch.float32), (ag.derive(supernet, architecture), None)):
        x = torch.randn(2, 3, 8, 8, dtype=dtype or torch.float64)
        assert derived(x).shape == (2, 10)
    full = ag.derive(ag.spaces.nasbench201(8, 1), architecture)
    narrow = ag.derive(space, architecture)
    assert [p.shape for p in narrow.parameters()] == [p.shape for p in full.parameters()]
    for arguments in ({"space": supernet}, {"space": space, "supernet": supernet}):
        with pytest.raises(SpaceError, match="fewer channels than the derived ones"):
            ag.derive(arguments.pop("space"), architecture, keep_weights=True, **arguments)


@pytest.mark.parametrize(
    ("cell", "states", "message"),
    [
        (lambda: rows_cell(partial_channels=4), [torch.zeros(2, 6)] * 2, "C a multiple of 4, but got"),
        (lambda: rows_cell(lambda parts: 6, partial_channels=3), [torch.zeros(2, 6)] * 2, None),
        (lambda: rows_cell(partial_channels=3), [[torch.zeros(2, 6)]] * 2, "but got list"),
    ],
)
def test_what_cannot_be_split_is_refused(cell: Callable[[], ag.Cell], states: Any, message: str | None) -> None:
    error: Any = SpaceError if message else RuntimeError  # the candidate itself says so
    with pytest.raises(error, match=message):
        ag.Supernet(cell())(states)


def test_candidates_of_another_width_or_size_are_refused() -> None:
    def wide(source: int, node: int, parts: int = 1) -> nn.Module:
        return nn.Conv2d(4 // parts, 4, 1)

    def third(source: int, node: int, parts: int = 1) -> nn.Module:
        return nn.MaxPool2d(3)

    x = torch.zeros(2, 4, 9, 9)
    for build, message in ((wide, "must give 2 of 4 channels"), (third, "Give them stride 1 or 2")):
        with pytest.raises(SpaceError, match=message):
            ag.Supernet(ag.Cell(1, {"only": build}, label="c", partial_channels=2))([x, x])
    with pytest.raises(SpaceError, match="can have no open choices"):
        ag.Cell(1, {"a": lambda s, n, parts: ag.LayerChoice([nn.ReLU(), nn.Tanh()])}, partial_channels=2)
    with pytest.raises(SpaceError, match="partial_channels of at least 1"):
        rows_cell(partial_channels=0)
    for build_space in (ag.spaces.darts_cifar, ag.spaces.nasbench201):
        with pytest.raises(OptionError, match="must divide channels"):
            build_space(channels=6, partial_channels=4)


@pytest.mark.parametrize("name", ["pc-darts", "gaea-pc"])
def test_the_presets_build_the_space_as_they_ask(name: str) -> None:
    found = ag.search(SMALL, DATA, method=name, epochs=4, batch_size=4, device="cpu", quiet=True)
    assert len(found.supernet.nodes) == 3
    assert [row["valid_loss"] is None for row in found.history] == [name == "pc-darts", False, False, False]


def test_a_space_without_the_option_or_one_that_is_built_is_refused() -> None:
    for space, message in (("tiny", "partial_channels"), (ag.spaces.nasbench201(4, 1), "built already")):
        with pytest.raises(OptionError, match=message):
            ag.search(space, DATA, method="pc-darts", epochs=1, batch_size=4, device="cpu", quiet=True)
