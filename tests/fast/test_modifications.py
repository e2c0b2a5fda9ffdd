"""The fast path is the network, or does not run: random changes of random spaces, against the plain path in float64.

Hundreds of spaces are drawn, for each way in which a cell is computed. Outputs, gradients of weights and alphas,
buffers and kinds of errors must agree, in passes before and after the change.
"""

from __future__ import annotations

import functools
import os
import random
import warnings
from collections.abc import Callable, Sequence

import modifications
import pytest
import torch
from modifications import CHANGES, Space, batch
from torch import Tensor, nn

import archgrad as ag
from archgrad.errors import ArchgradError
from archgrad.schedules import Progress

pytestmark = pytest.mark.usefixtures("backend")

BATCHES = ["plain"] * 8 + ["channels_last", "empty", "other type", "no batch", "tiny", "inf", "-inf", "nan"]
RELAXATIONS = [
    *[ag.relaxation.Softmax] * 2,
    ag.relaxation.Gumbel,
    lambda: ag.relaxation.Gumbel(constant_gradient=False),
]
ROUNDS, DRAWS = 2, int(os.environ.get("ARCHGRAD_DRAWS", len(CHANGES)))
"""With each backend every change has its turn twice; `make fuzz` draws more."""


@pytest.mark.parametrize("part", range(ROUNDS))
def test_a_changed_space_computes_what_it_says(part: int) -> None:
    for draw in range(DRAWS):
        compare_paths(part, draw)


def changes_of(draw: int, *, among: Sequence[Callable], most: int) -> list[Callable]:
    """One change in turn and some drawn ones, in any order; now and then none."""
    own = among[draw % len(among)]
    others = random.sample([change for change in among if change is not own], random.choice(range(most)))
    return random.sample([own, *others], 1 + len(others)) if random.random() < 0.9 else []


def compare_paths(part: int, draw: int) -> None:
    told, expected = passes(part, draw, fast=False)
    _, found = passes.__wrapped__(part, draw, fast=True)
    compare(expected, found, told)


@functools.cache  # the plain path is the same whatever the fast one runs with
def passes(part: int, draw: int, *, fast: bool) -> tuple[str, list[dict[str, Tensor] | str]]:
    """Say what is drawn, and return what each pass of it gives."""
    seed = 1000 * part + draw
    random.seed(seed), torch.manual_seed(seed)
    space, relaxation = Space().double(), random.choice(RELAXATIONS)
    kind, is_late = random.choice(BATCHES), random.random() < 0.5
    x, first = batch(kind), batch("plain")
    changes = changes_of(draw, among=CHANGES, most=3)
    net = ag.Supernet(space, relaxation(), fast=fast, seed=seed)
    found = [outcome(net, first)] if is_late else []
    for change in changes:
        change(net.network)
    if modifications.mode not in changes:
        net.network.double()
    for number in range(2):
        torch.manual_seed(seed + number)
        found.append(outcome(net, x))
    return f"seed={seed}: {[c.__name__ for c in changes]}, {'late' if is_late else 'early'}, batch: {kind}", found


def compare(expected: Sequence[dict[str, Tensor] | str], found: Sequence[dict[str, Tensor] | str], told: str) -> None:
    """Hold what the passes of the fast path gave against those of the plain one, up to the first that ends early."""
    for ours, theirs in zip(found, expected, strict=True):
        if isinstance(ours, str) or isinstance(theirs, str):
            assert ours == theirs, told
            return  # what a pass that ended early left behind is not compared
        assert ours.keys() == theirs.keys(), told
        sizes = [value.abs().max().item() for value in theirs.values() if value.numel()]
        exact = {"rtol": 1e-9, "atol": max(1e-10, 1e-12 * max(sizes))}  # next to the largest, sums of nothing are noise
        for name, value in theirs.items():
            close = exact if value.dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
            torch.testing.assert_close(
                ours[name], value, equal_nan=True, msg=lambda text, n=name: f"{told}, {n}: {text}", **close
            )


def outcome(net: ag.Supernet, x: Tensor) -> dict[str, Tensor] | str:
    """Output, gradients and buffers of a pass, or the kind of error that it ends in."""
    if isinstance(net, ag.Supernet):
        net.progress = Progress(0, 50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            y = net(x)
            finite = y.isfinite().flatten(1).all(1)
            loss = y[finite].square().sum() + y[finite].sum()
            parameters = {name: p for name, p in net.named_parameters() if p.requires_grad}
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        except (RuntimeError, ValueError, TypeError, AttributeError, ArchgradError) as error:
            return type(error).__name__
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    # A gradient of zeros lets an optimizer's decay and momentum move what none would leave as it is.
    found = {name: torch.empty(0) if g is None else g for name, g in zip(parameters, gradients, strict=True)}
    return {"output": y.detach(), **found, **buffers}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # of torch.func.jvp itself
def test_a_transform_or_a_global_hook_sees_the_plain_path() -> None:
    torch.manual_seed(0)
    space = ag.spaces.darts_cifar(4, 2, nodes=2).double()
    plain, fast = (ag.Supernet(space, fast=fast) for fast in (False, True))
    x, direction = torch.randn(2, 2, 3, 8, 8, dtype=torch.float64)
    for net in (plain, fast):
        net.eval()
    expected, got = (torch.func.jvp(net, (x,), (direction,))[1] for net in (plain, fast))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    expected, got = (torch.func.grad(lambda x, n=net: n(x).square().sum())(x) for net in (plain, fast))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    seen: list[int] = []
    handle = nn.modules.module.register_module_forward_hook(lambda *_: seen.append(1))
    try:
        counts = []
        for net in (plain, fast):
            seen.clear()
            net(x)
            counts.append(len(seen))
    finally:
        handle.remove()
    assert counts[0] == counts[1] > 100


def test_a_class_whose_method_was_replaced_is_not_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    space = ag.spaces.darts_cifar(4, 2, nodes=2).double()
    plain, fast = (ag.Supernet(space, fast=fast) for fast in (False, True))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    before = fast(x)
    torch.testing.assert_close(before, plain(x), rtol=1e-10, atol=1e-10)
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: x.sigmoid())
    torch.testing.assert_close(fast(x), plain(x), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(fast(x), before)
