"""Operations that users write are known by their structure, whatever their class; what only looks alike is not."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from modifications import Shortcut
from torch import Tensor, nn

import archgrad as ag
from archgrad.exactness import kind_of
from archgrad.fast.accelerate import restore
from archgrad.fast.branches import branch_of
from archgrad.operations import PoolBN, SepConv

C = 4


class Depthwise(nn.Module):
    """With a ReLU by a function."""

    def __init__(self, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(C, C, 3, padding=dilation, dilation=dilation, groups=C, bias=False)
        self.layers = nn.ModuleList([nn.Conv2d(C, C, 1, bias=False), nn.BatchNorm2d(C)])

    def forward(self, x: Tensor) -> Tensor:
        """Docstrings say nothing."""
        y = F.relu(x)
        return self.layers[1](self.layers[0](self.depthwise(y)))


class Twice(nn.Sequential):
    """Of two of them."""

    def __init__(self) -> None:
        super().__init__(Depthwise(), nn.Sequential(nn.Identity(), Depthwise()))


class Numbered(nn.Module):
    """Of a sequence whose parts have names that are not their places."""

    def __init__(self) -> None:
        super().__init__()
        self.halves = nn.Sequential(OrderedDict([("1", Depthwise()), ("0", Depthwise())]))

    def forward(self, x: Tensor) -> Tensor:
        return self.halves[1](self.halves[0](x))


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool, self.bn = nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(C, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.pool(x)
        out = self.bn(out)
        return out


class Halve(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(C, C // 2, 1, stride=2, bias=False) for _ in range(2))
        self.bn = nn.BatchNorm2d(C)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        return self.bn(torch.cat([self.one(x), self.two(x[:, :, 1:, 1:])], dim=1))


class Preprocessed(Depthwise):
    """Another name for its input."""

    def forward(self, images: Tensor) -> Tensor:
        y = F.relu(images)
        return self.layers[1](self.layers[0](self.depthwise(y)))


class Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class InPlaceInside(nn.Module):
    """Two halves, each of which begins with a ReLU in place; the second writes to what the first gave."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.first, self.second = (nn.Sequential(*Depthwise().children()) for _ in range(2))
        for half in (self.first, self.second):
            half[1] = nn.Sequential(*half[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.relu(self.first(self.relu(x))))


def without_bias(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    norm.bias = None
    return norm


def convolved(*layers: nn.Module, relu: type[nn.Module] | None = nn.ReLU) -> nn.Sequential:
    """A ReLU behind, or none at all."""
    return nn.Sequential(*layers, nn.BatchNorm2d(C), *([relu()] if relu else []))


def depthwise(kernel: int = 3) -> list[nn.Module]:
    return [nn.Conv2d(C, C, kernel, padding=kernel // 2, groups=C, bias=False), nn.Conv2d(C, C, 1, bias=False)]


class Behind(nn.Module):
    """ReLU by a function, behind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(C, C, 3, padding=1, bias=False), nn.BatchNorm2d(C)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def two_convolutions() -> list[nn.Module]:
    first, second = (nn.Conv2d(C, C, 3, padding=1, bias=False) for _ in range(2))
    return [convolved(first), convolved(second, relu=None)]


KNOWN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "norm of a pool": (lambda: nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(C)), "pool-norm"),
    "depthwise": (Depthwise, "depthwise"),
    "dilated": (lambda: Depthwise(2), "depthwise"),
    "twice": (Twice, "separable"),
    "numbered": (Numbered, "separable"),
    "sequence": (
        lambda: nn.Sequential(nn.ReLU(), nn.Conv2d(C, C, 3, padding=1, bias=False), nn.BatchNorm2d(C)),
        "convolution",
    ),
    "behind": (Behind, "convolution"),
    "pointwise, behind": (lambda: convolved(nn.Conv2d(C, C, 1, bias=False)), "convolution"),
    "5x5, behind": (lambda: convolved(nn.Conv2d(C, C, 5, padding=2, bias=False)), "convolution"),
    "no relu": (lambda: convolved(nn.Conv2d(C, C, 3, padding=1, bias=False), relu=None), "convolution"),
    "alone, behind": (lambda: convolved(nn.Conv2d(C, C, 3, padding=1, groups=C, bias=False)), "convolution"),
    "before and behind": (lambda: convolved(nn.ReLU(), *depthwise()), "depthwise"),
    "depthwise, behind": (lambda: convolved(*depthwise(5)), "depthwise"),
    "depthwise, no relu": (lambda: convolved(*depthwise(), relu=None), "depthwise"),
    "twice, behind": (lambda: nn.Sequential(convolved(*depthwise()), convolved(*depthwise(5))), "separable"),
    "pool": (Pooled, "pool-norm"),
    "stages": (
        lambda: nn.Sequential(
            convolved(nn.Conv2d(C, C, 3, padding=1, bias=False)), convolved(nn.Conv2d(C, C, 3, padding=1), relu=None)
        ),
        "stages",
    ),
    "stages, behind": (
        lambda: nn.Sequential(
            nn.ReLU(inplace=True), convolved(*depthwise(5)), convolved(nn.Conv2d(C, C, 1)), convolved(*depthwise())
        ),
        "stages",
    ),
    "shortcut of a convolution": (lambda: Shortcut(nn.ReLU(), nn.Conv2d(C, C, 1), nn.BatchNorm2d(C)), "convolution"),
    "shortcut, ReLU inside": (lambda: Shortcut(convolved(*depthwise())), "depthwise"),
    "shortcut of two": (
        lambda: Shortcut(nn.ReLU(), convolved(*depthwise()), *depthwise(), nn.BatchNorm2d(C)),
        "separable",
    ),
    "shortcut of two convolutions": (lambda: Shortcut(*two_convolutions()), "stages"),
    "same": (Same, "identity"),
    "in place": (
        lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(C, C, 1, bias=False), nn.BatchNorm2d(C)),
        "convolution",
    ),
    "in place inside": (InPlaceInside, "separable"),
    "subclass": (lambda: type("Own", (SepConv,), {})(C, C, 3, 1), "separable"),
}


class Residual(Depthwise):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


class Gated(Depthwise):
    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(x) if self.training else x
        return self.layers[1](self.layers[0](self.depthwise(y)))


class Observed(Depthwise):
    """Calls a part whose result it does not use."""

    def forward(self, x: Tensor) -> Tensor:
        seen = self.layers[1](x)  # noqa: F841
        y = F.relu(x)
        return self.layers[1](self.layers[0](self.depthwise(y)))


class Repeated(Depthwise):
    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(x)
        return self.layers[1](self.layers[0](self.layers[0](self.depthwise(y))))


class OtherRelu(Depthwise):
    def forward(self, x: Tensor) -> Tensor:
        return self.layers[1](self.layers[0](self.depthwise(functional.relu(x))))


class functional:  # noqa: N801 (it looks like a module)
    relu = staticmethod(torch.tanh)


class OtherCall(Depthwise):
    def __call__(self, x: Tensor) -> Tensor:
        return 2 * super().__call__(x)


class OtherParts(Twice):
    def __iter__(self):
        return reversed(list(super().__iter__()))


class OtherPlaces(Numbered):
    """Finds its parts from the end."""

    class FromTheEnd(nn.Sequential):
        def __getitem__(self, number: int) -> nn.Module:
            return super().__getitem__(len(self) - 1 - number)

    def __init__(self) -> None:
        super().__init__()
        self.halves = self.FromTheEnd(*self.halves)


class OtherNames(nn.Module):
    """A part that calls its parts otherwise."""

    class Renamed(nn.Module):
        def __getattr__(self, name: str) -> nn.Module:
            return super().__getattr__({"first": "second", "second": "first"}.get(name, name))

    def __init__(self) -> None:
        super().__init__()
        self.halves = self.Renamed()
        self.halves.first, self.halves.second = Depthwise(), Depthwise()

    def forward(self, x: Tensor) -> Tensor:
        return self.halves.second(self.halves.first(x))


class OddlyHalved(Halve):
    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        return self.bn(torch.cat([self.one(x), self.two(x[:, :, 1:, :])], dim=1))


class Swapped(Halve):
    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        return self.bn(torch.cat([self.two(x[:, :, 1:, 1:]), self.one(x)], dim=1))


def with_own_forward() -> nn.Module:
    module = Depthwise()
    module.forward = lambda x: 3 * x
    return module


def with_hook() -> nn.Module:
    module = Twice()
    module[1][1].layers[0].register_forward_hook(lambda m, x, y: 2 * y)
    return module


def with_instance_part() -> nn.Module:
    module = Depthwise()
    module.__dict__["depthwise"] = nn.Tanh()
    return module


def with_circular_padding() -> nn.Module:
    module = Depthwise()
    module.depthwise = nn.Conv2d(C, C, 3, padding=1, groups=C, bias=False, padding_mode="circular")
    return module


class ReadBehind(Depthwise):
    """Reads what it has written to, under the name from before."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(F.relu(x))
        z = self.relu(y)  # noqa: F841
        return self.layers[1](self.layers[0](y))


UNKNOWN: dict[str, Callable[[], nn.Module]] = {
    **{
        kind.__name__: kind
        for kind in (Residual, Gated, Observed, Repeated, OtherRelu, OtherCall, OtherParts, OddlyHalved, Swapped)
    },
    **{kind.__name__: kind for kind in (OtherPlaces, OtherNames, ReadBehind)},
    "own forward": with_own_forward,
    "hook": with_hook,
    "part of the instance": with_instance_part,
    "padding": with_circular_padding,
    "shortcut of what was changed in place": lambda: Shortcut(nn.ReLU(inplace=True), *depthwise(), nn.BatchNorm2d(C)),
    "shortcut of a shortcut": lambda: Shortcut(Shortcut(*depthwise(), nn.BatchNorm2d(C))),
    "norm without a bias": lambda: nn.Sequential(nn.MaxPool2d(3, 1, 1), without_bias(nn.BatchNorm2d(C))),
}


class Space(nn.Module):
    """A choice that stands alone, and an operation that does."""

    def __init__(self, *candidates: nn.Module) -> None:
        super().__init__()
        self.choice = ag.LayerChoice(list(candidates))
        self.alone = Depthwise()

    def forward(self, x: Tensor) -> Tensor:
        return self.alone(self.choice(x)).mean((2, 3))


def results(space: nn.Module, x: Tensor, *, fast: bool) -> list[Tensor]:
    """Output, first and second derivatives, and buffers after a pass in training."""
    net = ag.Supernet(copy.deepcopy(space), fast=fast)
    with torch.no_grad():
        for alpha in net.alphas.values():
            alpha.copy_(torch.arange(float(alpha.numel())).view_as(alpha) / 7)
    inputs = [x.clone().requires_grad_(), *net.parameters()]
    y = net(inputs[0])
    first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True, allow_unused=True)
    second = torch.autograd.grad(sum(g.tanh().sum() for g in first if g is not None), inputs, allow_unused=True)
    return [y, *(g for g in (*first, *second) if g is not None), *net.buffers()]


def image(size: int = 6) -> Tensor:
    return torch.randn(3, C, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def agree(*candidates: nn.Module, size: int = 6) -> None:
    torch.manual_seed(0)
    space = Space(*candidates).double()
    plain, fast = (results(space, image(size), fast=fast) for fast in (False, True))
    assert len(plain) == len(fast)
    for a, b in zip(plain, fast, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("name", KNOWN)
def test_known_by_structure(name: str) -> None:
    build, form = KNOWN[name]
    branch = branch_of(build())
    assert branch is not None
    assert branch.form == form
    agree(build(), build(), nn.Identity())


class InPlaceAlone(nn.Module):
    """An operation outside of choices, which writes to what is read once more, as the plain path does."""

    def __init__(self) -> None:
        super().__init__()
        self.choice = ag.LayerChoice([Depthwise(), nn.Identity()])
        self.alone = InPlaceInside()

    def forward(self, x: Tensor) -> Tensor:
        x = self.choice(x)
        y = self.alone(x)
        return (x + y).mean((2, 3))


@pytest.mark.usefixtures("backend")
def test_an_operation_outside_of_choices_that_writes_to_its_input() -> None:
    torch.manual_seed(0)
    space = InPlaceAlone().double()
    found = [results(space, image() + 0, fast=fast) for fast in (False, True)]
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)
    branch = branch_of(space.alone)
    assert branch is not None
    assert branch.writes_to_input


@pytest.mark.usefixtures("backend")
def test_all_at_once() -> None:
    agree(*(build() for build, _ in KNOWN.values()))


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_looks_alike_runs_as_it_is_written(name: str) -> None:
    assert branch_of(UNKNOWN[name]()) is None
    if "Halve" in str(type(UNKNOWN[name]()).__mro__):  # another size
        agree(UNKNOWN[name](), Halve())
    else:
        agree(UNKNOWN[name](), Depthwise(), nn.Identity())


def test_a_reduction_of_odd_images_says_what_the_written_one_does() -> None:
    assert branch_of(Halve()).form == "reduction"
    agree(Halve(), Halve())
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        ag.Supernet(Space(Halve(), Halve()).double())(image(5))


def test_a_class_or_name_that_changes_later_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(Depthwise):
        def forward(self, x: Tensor) -> Tensor:
            return self.layers[1](self.layers[0](self.depthwise(torch.relu(x))))

    net = ag.Supernet(Space(Later(), nn.Identity()).double())
    before = net(image())
    monkeypatch.setattr(Later, "forward", lambda self, x: x)
    assert not torch.equal(net(image()), before)
    monkeypatch.undo()
    assert torch.equal(net.eval()(image()), net(image()))
    monkeypatch.setitem(globals(), "F", functional)
    assert branch_of(Depthwise()) is None


def test_an_operation_that_stands_alone_may_be_given_its_input_by_name() -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.choice, self.alone = ag.LayerChoice([nn.Identity(), nn.Tanh()]), Preprocessed()

        def forward(self, x: Tensor) -> Tensor:
            return self.alone(images=self.choice(x))

    torch.manual_seed(0)
    space = Alone().double()
    assert type(ag.Supernet(space, fast="torch").network.alone) is not Preprocessed
    plain, fast = (results(space, image(), fast=fast) for fast in (False, True))
    for a, b in zip(plain, fast, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_fast_operations_are_pickled_and_restored_as_what_they_are() -> None:
    torch.manual_seed(0)
    net = ag.Supernet(Space(PoolBN("max", C, 1), nn.Identity()).double(), fast="torch").eval()
    alone = net.network.alone
    assert type(alone) is not Depthwise
    assert isinstance(alone, Depthwise)
    assert kind_of(alone) is Depthwise
    again = pickle.loads(pickle.dumps(alone))
    assert torch.equal(again(image()), alone(image()))
    assert repr(again) == repr(alone)
    restore(net.network)
    assert type(alone) is Depthwise
    assert net.network.choice.evaluator is None
