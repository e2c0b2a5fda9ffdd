"""ReLUs in place in networks of a person: where they are harmless the fast path is taken, and it gives the same."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.errors import ArchgradError
from archgrad.fast import inverted_choice
from archgrad.fast.in_place import writes_beyond
from archgrad.fast.memory_format import works_in_place
from archgrad.operations import SepConv

C = 4


def relu() -> nn.Module:
    return random.choice([nn.ReLU, nn.ReLU6])(inplace=True)


def conv(**settings: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(C, C, 3, padding=1, bias=False, **settings), nn.BatchNorm2d(C))


class Straight(nn.Module):
    """Layers by name."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.conv, self.bn = relu(), nn.Conv2d(C, C, 1), nn.BatchNorm2d(C)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class First(Straight):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(self.relu(x)))


class Behind(nn.Module):
    """A known operation, and a ReLU in place of what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.operation = relu(), SepConv(C, C, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.operation(x))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = conv()
        self.relu = relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.layers(x))


class Looping(nn.Module):
    """Code that is not read, with harmless parts."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(*conv(), relu()) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def hooked() -> nn.Module:
    found = nn.Sequential(*conv(), relu())
    found[1].register_forward_hook(lambda module, inputs, output: output)
    return found


class Odd(nn.Conv2d):
    """Gives its input back."""

    def forward(self, input: Tensor) -> Tensor:
        return input


HARMLESS: dict[str, Callable[[], nn.Module]] = {
    "behind a norm": lambda: nn.Sequential(*conv(), relu()),
    "twice": lambda: nn.Sequential(*conv(), relu(), nn.Identity(), relu()),
    "nested": lambda: nn.Sequential(nn.Sequential(conv(), nn.Identity()), nn.Sequential(relu())),
    "pool": lambda: nn.Sequential(nn.MaxPool2d(3, 1, 1), relu()),
    "code": Straight,
    "code that is not read": Looping,
    "candidates": lambda: ag.LayerChoice([nn.Sequential(relu(), *conv()), relu(), First()]),
    "nothing": conv,
}
HARMFUL: dict[str, Callable[[], nn.Module]] = {
    "alone": relu,
    "first": lambda: nn.Sequential(relu(), *conv()),
    "first behind an identity": lambda: nn.Sequential(nn.Identity(), relu()),
    "first of code": First,
    "behind a known operation": Behind,
    "behind one in a sequence": lambda: nn.Sequential(SepConv(C, C, 3, 1), relu()),
    "behind one in a candidate": lambda: ag.LayerChoice([nn.Sequential(SepConv(C, C, 3, 1), relu()), nn.Identity()]),
    "behind a choice": lambda: nn.Sequential(ag.LayerChoice([conv(), nn.Identity()]), relu()),
    "of a sum": Residual,
    "behind a hook": hooked,
    "behind another convolution": lambda: nn.Sequential(Odd(C, C, 1), relu()),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_changes_nothing_that_others_hold(name: str) -> None:
    assert not writes_beyond(HARMLESS[name]())


@pytest.mark.parametrize("name", HARMFUL)
def test_what_may_change_what_others_hold(name: str) -> None:
    assert writes_beyond(HARMFUL[name]())


class Space(nn.Module):
    """Choices between modules that work in place, and such modules around them, whose inputs others read."""

    def __init__(self, around: list[nn.Module], candidates: list[list[nn.Module]]) -> None:
        super().__init__()
        self.stem, self.around = nn.Conv2d(2, C, 3, padding=1), nn.ModuleList(around)
        self.choices = nn.ModuleList([ag.LayerChoice(own) for own in candidates])
        self.inputs = ag.InputChoice(len(candidates), n_chosen=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        states = [choice(x) for choice in self.choices]
        y = self.inputs(states)
        for module in self.around:
            y = y + module(y) * x
        return (x + y).mean((2, 3))


def results(space: nn.Module, *, fast: bool) -> list[Tensor] | str:
    """Output, first and second derivatives, and buffers after a pass in training; or the kind of an error."""
    net = ag.Supernet(copy.deepcopy(space), fast=fast, seed=1)
    torch.manual_seed(1)
    inputs = [torch.randn(3, 2, 6, 6, dtype=torch.float64), *net.parameters()]
    try:
        y = net(inputs[0])
        first = torch.autograd.grad(y.square().sum(), inputs[1:], create_graph=True, allow_unused=True)
        second = torch.autograd.grad(
            sum(g.tanh().sum() for g in first if g is not None), inputs[1:], allow_unused=True, materialize_grads=True
        )
    except (RuntimeError, ArchgradError) as error:
        return type(error).__name__
    return [y, *(g for g in (*first, *second) if g is not None), *net.buffers()]


def test_spaces_with_harmless_ones_are_computed_by_the_kernels(built: None, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block = lambda: nn.Sequential(  # noqa: E731
        *(nn.Conv2d(C, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True)),
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True)),
        *(nn.Conv2d(8, C, 1, bias=False), nn.BatchNorm2d(C)),
    )
    space = Space([nn.Sequential(*conv(), nn.ReLU(inplace=True))], [[block(), block(), nn.Identity()]]).double()
    assert not works_in_place(space)
    seen: list[bool] = []
    inner = inverted_choice.evaluate

    def watched(*given: object) -> Tensor | None:
        found = inner(*given)
        seen.append(found is not None)
        return found

    monkeypatch.setattr(inverted_choice, "evaluate", watched)
    found = [results(space, fast=fast) for fast in (True, False)]
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-10)
    assert seen == [True]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("seed", range(12))
def test_any_network_of_them_gives_what_the_plain_path_gives(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)
    parts = [*HARMLESS.values(), *(HARMFUL.values() if seed % 2 else ())]
    candidates = [[random.choice(parts)() for _ in range(2)] + [nn.Sequential(nn.ReLU(inplace=True), *conv())]]
    candidates.append([SepConv(C, C, 3, 1, affine=False), nn.Sequential(relu(), *conv(groups=2))])
    space = Space([random.choice(parts)() for _ in range(seed % 3)], candidates).double()
    assert seed % 2 or not works_in_place(space)
    fast, plain = (results(space, fast=fast) for fast in (True, False))
    if isinstance(plain, str):  # what a ReLU in place has spoiled
        assert fast == plain
    else:
        torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-10)
