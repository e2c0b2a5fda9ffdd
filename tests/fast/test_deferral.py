"""Layer choices that code wires: whatever it does, the numbers are those of the plain path."""

from __future__ import annotations

import copy
import os
import pickle
import random
import runpy
from collections.abc import Callable, Iterator, Sequence
from functools import partial, partialmethod, singledispatchmethod
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag
from archgrad.errors import SpaceError
from archgrad.fast import native_cell
from archgrad.fast.deferred import Deferred
from archgrad.fast.lowering import FreeWiring
from archgrad.operations import DilConv, PoolBN, ReLUConvBN, SepConv
from archgrad.relaxation import Gumbel
from archgrad.schedules import Progress

pytestmark = pytest.mark.usefixtures("built")

C = 4
DRAWS = int(os.environ.get("ARCHGRAD_DRAWS", "25"))


def lively(operation: nn.Module) -> nn.Module:
    """The same with weights and biases of BatchNorms that are not ones and zeros."""
    for norm in operation.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5), nn.init.normal_(norm.bias)
    return operation


def candidates(affine: bool) -> list[nn.Module]:
    build: list[Callable[[], nn.Module]] = [
        nn.Identity,
        lambda: PoolBN("max", C, 1),
        lambda: PoolBN("avg", C, 1),
        lambda: nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(C, affine=affine)),
        lambda: SepConv(C, C, 3, 1, affine=affine),
        lambda: DilConv(C, C, 3, 1, affine=affine),
        lambda: ReLUConvBN(C, C, 1, affine=affine),
    ]
    return [lively(make()) for make in random.sample(build, random.randint(2, 4))]


def choice() -> ag.LayerChoice:
    affine = random.random() < 0.5
    return ag.LayerChoice([*candidates(affine), lively(SepConv(C, C, 3, 1, affine=affine))])


HEAD = """
import torch
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
"""


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., nn.Module]:
    """Return what makes a network of the lines of its forward and its parts; `before` stands before the class."""

    def write(*lines: str, before: str = "", **parts: nn.Module) -> nn.Module:
        path = tmp_path / f"net{len(list(tmp_path.iterdir()))}.py"
        path.write_text(before + HEAD + "".join(f"        {line}\n" for line in lines))
        stem = nn.Sequential(nn.Conv2d(2, C, 3, padding=1), nn.BatchNorm2d(C))
        return runpy.run_path(str(path))["Net"](stem=stem, **parts).double()

    return write


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects how many edges were computed together, each time that some were."""
    found: list[int] = []
    evaluate = native_cell.evaluate

    def seen(cell: Any, *rest: Any) -> list[Tensor] | None:
        outputs = evaluate(cell, *rest)
        if isinstance(cell, FreeWiring) and outputs is not None:
            found.append(len(cell.edges))
        return outputs

    monkeypatch.setattr(native_cell, "evaluate", seen)
    return found


def image(size: int = 5) -> Tensor:
    return torch.randn(3, 2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def tensors_of(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        assert type(outputs) is Tensor  # nothing that is deferred gets out
        yield outputs
    else:
        for part in outputs.values() if isinstance(outputs, dict) else outputs:
            yield from tensors_of(part)


def results(space: nn.Module, *, fast: bool, passes: int = 2, **options: Any) -> list[Tensor | None]:
    """Outputs, first and second derivatives of several passes, and the buffers after them."""
    net = ag.Supernet(copy.deepcopy(space), fast=fast, **options)
    net.train(space.training)
    net.progress = Progress(1, 3)
    with torch.no_grad():
        for alpha in net.alphas.values():
            alpha.copy_(torch.arange(float(alpha.numel())).view_as(alpha) / 7)
    found: list[Tensor | None] = []
    for _ in range(passes):
        inputs = [image().requires_grad_(), *net.parameters()]
        outputs = list(tensors_of(net(inputs[0])))
        total = sum((y.square() * (k + 1)).sum() for k, y in enumerate(outputs))
        first = torch.autograd.grad(total, inputs, create_graph=True, allow_unused=True)
        slope = sum(g.tanh().sum() for g in first if g is not None)
        second = torch.autograd.grad(slope, inputs, allow_unused=True)
        # Where a first derivative is None, an optimizer leaves the weight alone; of a second one nobody can tell.
        found += [*outputs, *first]
        found += [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, second, strict=True)]
    return [*found, *net.buffers()]


def agree(space: nn.Module, **options: Any) -> None:
    plain, fast = (results(space, fast=fast, **options) for fast in (False, True))
    assert len(plain) == len(fast)
    for a, b in zip(plain, fast, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def random_wiring() -> tuple[list[str], dict[str, nn.Module]]:
    """Straight code in which choices, sums and other functions follow on each other."""
    lines, parts, images = ["v0 = self.stem(x)"], {}, ["v0"]

    def one() -> str:
        return random.choice(images[-4:])

    for k in range(1, random.randint(4, 12)):
        kind = random.choice(
            ["choice"] * 5 + ["inputs"] * 3 + ["add", "sum", "mean", "other", "alone", "joined", "again"]
        )
        if kind == "choice":
            parts[f"c{k}"] = choice()
            value = f"self.c{k}({one()})"
        elif kind == "inputs":
            n = random.randint(2, 3)
            parts[f"i{k}"] = ag.InputChoice(n, random.randint(1, n), random.choice(["sum", "sum", "mean"]))
            value = f"self.i{k}([{', '.join(one() for _ in range(n))}])"
        elif kind == "add":
            value = f"{one()} + {one()}"
        elif kind == "sum":
            value = f"sum([{one()}, {one()}])"
        elif kind == "mean":
            value = f"torch.stack([{one()}, {one()}]).mean(0)"
        elif kind == "other":
            value = random.choice(["F.relu({0})", "torch.tanh({0})", "{0} * 0.5", "{0}.clone()", "1 - {0}", "-{0}"])
            value = value.format(one())
        elif kind == "alone":
            parts[f"p{k}"] = random.choice([lambda: SepConv(C, C, 3, 1), lambda: nn.Conv2d(C, C, 1)])()
            value = f"self.p{k}({one()})"
        elif kind == "joined":
            parts[f"p{k}"] = nn.Conv2d(2 * C, C, 1)
            value = f"self.p{k}(torch.cat([{one()}, {one()}], dim=1))"
        else:
            before = [name for name in parts if name.startswith("c")]
            value = f"self.{random.choice(before)}({one()})" if before else one()
        lines.append(f"v{k} = {value}")
        images.append(f"v{k}")
    parts["last"] = choice()
    given = random.choice(
        ["torch.cat([{0}], 1)", "torch.cat(({0}), dim=1).mean((2, 3))", "[{0}]", "dict(a=[{0}], b=v0)", "sum([{0}])"]
    )
    chosen = ", ".join(random.sample(images, min(len(images), random.randint(2, 4))))
    lines += [f"w = self.last({one()})", f"return {given.format('w, ' + chosen)}"]
    return lines, parts


@pytest.mark.parametrize("seed", range(DRAWS))
def test_any_wiring(seed: int, written: Callable[..., nn.Module]) -> None:
    random.seed(seed)
    torch.manual_seed(seed)
    lines, parts = random_wiring()
    space = written(*lines, **parts)
    agree(space)
    agree(space.eval(), passes=1)


CELL = (
    "states = [self.stem(x)]",
    "states.append(self.a(states[0]))",
    "states.append(sum([self.b(states[0]), self.c(states[1])]))",
    "states.append(self.i([self.d(states[0]), self.e(states[1]), self.f(states[2])]))",
    "return torch.cat(states[1:], dim=1)",
)


def cell() -> dict[str, nn.Module]:
    random.seed(0)
    torch.manual_seed(0)
    return {name: choice() for name in "abcdef"} | {"i": ag.InputChoice(3, 2)}


def test_a_cell_is_computed_together(written: Callable[..., nn.Module], together: list[int]) -> None:
    agree(written(*CELL, **cell()))
    assert together == [6, 6]


def test_loops_over_lists_in_lists(written: Callable[..., nn.Module], together: list[int]) -> None:
    cell()
    lines = (
        "states = [self.stem(x)]",
        "for node in self.nodes:",
        "    states.append(sum([edge(state) for edge, state in zip(node, states)]))",
        "return torch.cat(states[1:], dim=1)",
    )
    nodes = nn.ModuleList(nn.ModuleList(choice() for _ in range(n)) for n in (1, 2, 3))
    agree(written(*lines, nodes=nodes))
    assert together == [6, 6]


def test_choices_that_follow_on_each_other_are_not(written: Callable[..., nn.Module], together: list[int]) -> None:
    agree(written("return self.c(self.b(self.a(self.stem(x))))", **cell()))
    assert not together


def test_what_is_read_twice_is_a_node_of_its_own(written: Callable[..., nn.Module], together: list[int]) -> None:
    parts = cell() | {"j": ag.InputChoice(3, 1)}
    lines = ("h = self.stem(x)", "outs = [self.a(h), self.b(h), self.c(h)]", "y = [self.i(outs), self.j(outs)]")
    agree(written(*lines, "return torch.cat([y[0], self.d(y[1])], dim=1)", **parts))
    assert together == [10, 10]  # three choices, three summands of each sum, and d


def test_a_summand_that_is_read_after_its_sum(written: Callable[..., nn.Module], together: list[int]) -> None:
    lines = ("h = self.stem(x)", "a = self.a(h)", "y = F.relu(a + self.b(h))", "return y + a")
    agree(written(*lines, **cell()))
    assert together == [2, 2]


def test_nothing_depends_on_some_choices(written: Callable[..., nn.Module], together: list[int]) -> None:
    lines = ("h = self.stem(x)", "s = self.a(h) + self.b(h)", "unread = [self.c(s), self.d(h)]")
    agree(written(*lines, "return torch.cat([s, self.e(h)], dim=1)", **cell()))
    assert together == [5, 5]


BEYOND = {
    "attribute": ("self.kept = self.a(h)", "return self.kept + self.b(h)"),
    "setting of a part": ("y = self.a(h)", "self.a.training = self.training", "return y + self.b(h)"),
    "statistics": (
        "y = self.a(h)",
        "return y + self.b(h) * self.a.candidates[0].op[3].running_mean.sum()",
    ),
    "list of the module": ("kept = self.memory", "kept.append(self.a(h))", "return h + self.b(h)"),
    "in place": ("y = self.a(h)", "y += 1", "return y + self.b(h)"),
    "other function": ("return h.view(-1).view(h.shape) + self.a(h) + self.b(h)",),
    "in place by position": ("y = self.a(h) + self.b(h)", "return F.relu(y, True) + y"),
    "in place beside": ("y = self.a(h) + self.b(h)", "y[:, 0], z = y[:, 1], y[:, 2:].mean()", "return y * z"),
    "in place with a type": ("y = self.a(h) + self.b(h)", "y[:, 0]: torch.Tensor = y[:, 1]", "return y + h"),
    "set of its own": ("seen = self.seen", "seen.add(self.a(h))", "return self.b(h) + self.b(h + 1)"),
    "values": ("return dict(y=self.a(h), z=self.b(h)).values()",),
    "pairs": ("return zip([self.a(h)], [self.b(h)])",),
    "backwards": ("outputs = [self.a(h), self.b(h)]", "return [reversed(outputs)]"),
    "a set": ("return {self.a(h) + self.b(h)}",),
    "one after the other": ("return (part * 2 for part in [self.a(h), self.b(h)])",),
    "kind of a tensor": ("y = self.a(h) + self.b(h)", "return y * 2 if isinstance(y, torch.DoubleTensor) else y"),
}


@pytest.mark.parametrize("name", BEYOND)
def test_code_that_does_more_gets_tensors(name: str, written: Callable[..., nn.Module], together: list[int]) -> None:
    torch.manual_seed(0)
    random.seed(0)
    a = ag.LayerChoice([SepConv(C, C, 3, 1, affine=False), nn.Identity()])
    space = written("h = self.stem(x)", *BEYOND[name], a=a, b=choice())
    space.memory, space.seen = [], set()
    agree(space)
    assert not together


def test_what_is_gone_through_at_once_is_no_more(written: Callable[..., nn.Module], together: list[int]) -> None:
    lines = (
        "h = self.stem(x)",
        "y = dict(zip('ab', reversed([self.a(h), self.b(h)])))",
        "z = sum(v for v in y.values())",
    )
    agree(written(*lines, "return [z.add(1), *[v for _, v in y.items()]]", **cell()))
    assert together == [2, 2]


class _Exp(torch.autograd.Function):
    """A function that keeps what it is called with."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * ctx.saved_tensors[0].exp()


OUT_OF_SIGHT: dict[str, Callable[[], Any]] = {
    "autograd": lambda: _Exp.apply,
    "static": lambda: staticmethod(_Exp.apply),
    "partial": lambda: partial(torch.add, other=1),
    "by kind": lambda: singledispatchmethod(lambda self, x: x.view(-1).view(x.shape)),
    "with arguments": lambda: partialmethod(lambda self, factor, x: _Exp.apply(x) * factor, 2),
}
LATER = ("h = self.stem(x)", "return self.act(self.a(h) + self.b(h)) + self.c(h)")


@pytest.mark.parametrize("name", OUT_OF_SIGHT)
def test_methods_that_are_no_functions_get_tensors(
    name: str, written: Callable[..., nn.Module], together: list[int]
) -> None:
    space = written(*LATER, **cell())
    type(space).act = OUT_OF_SIGHT[name]()
    agree(space)
    assert not together


@pytest.mark.parametrize("place", ["instance", "class", "class, with a function", "forward"])
def test_a_method_that_becomes_another_is_seen(
    place: str, written: Callable[..., nn.Module], together: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, found = cell(), []
    space = written(*LATER, before="def act(self, y):\n    return y * 2\n", **parts)
    kind: Any = type(space)
    monkeypatch.setattr(kind, "act", kind.forward.__globals__["act"], raising=False)
    for fast in (False, True):
        with monkeypatch.context() as changes:
            net = ag.Supernet(copy.deepcopy(space), fast=fast)
            net(image())
            if place == "instance":
                net.network.act = _Exp.apply
            elif place == "forward":
                changes.setattr(
                    kind, "forward", lambda self, x: _Exp.apply(self.a(self.stem(x)) + self.b(self.stem(x)))
                )
            else:
                changes.setattr(kind, "act", _Exp.apply if place == "class" else lambda self, y: _Exp.apply(y))
            net(image()).square().sum().backward()
            found.append([*net.buffers(), *(p.grad for p in net.parameters())])
    assert together == [2]
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def sharing(*, norm: bool) -> dict[str, nn.Module]:
    parts = {"a": choice(), "b": choice()}
    if norm:  # which stands in a candidate, and by itself behind both
        parts["norm"] = next(part for part in parts["a"].modules() if isinstance(part, nn.BatchNorm2d))
    else:
        parts["again"] = parts["a"]
    return parts


@pytest.mark.parametrize("norm", [False, True])
def test_what_stands_in_two_places_is_computed_when_it_is_called(norm: bool, written: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    random.seed(0)
    last = "self.norm(h)" if norm else "self.again(h)"
    lines = ("h = self.stem(x)", f"return torch.cat([self.a(h), self.b(h), {last}, self.b(h)], dim=1)")
    agree(written(*lines, **sharing(norm=norm)))


@pytest.mark.parametrize(
    "options", [{"relaxation": Gumbel()}, {"activation_checkpointing": True}, {"seed": 3}], ids=str
)
def test_other_ways_of_searching(options: dict[str, Any], written: Callable[..., nn.Module]) -> None:
    agree(written(*CELL, **cell()), **options)


def test_noise_and_affine_norms_and_images_of_two_sizes(written: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    random.seed(0)
    pairs = [nn.Identity(), SepConv(C, C, 3, 1, affine=True)]
    lines = ("h = self.stem(x)", "s = F.max_pool2d(h, 2)", "y = self.a(h) + self.b(h)", "z = self.c(s) + self.d(s)")
    space = written(*lines, "return [y, z]", a=choice(), b=ag.LayerChoice(pairs), c=choice(), d=choice())
    agree(space)


def test_an_error_leaves_the_statistics_of_what_was_called(written: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    random.seed(0)
    lines = ("h = self.stem(x)", "y = self.a(h) + self.b(h)", "return self.wide(h)")
    space = written(*lines, a=choice(), b=choice(), wide=nn.Conv2d(C + 1, C, 1))
    nets = [ag.Supernet(copy.deepcopy(space), fast=fast) for fast in (False, True)]
    for net in nets:
        with pytest.raises(RuntimeError, match="expected input"):
            net(image())
    for a, b in zip(*(net.buffers() for net in nets), strict=True):
        torch.testing.assert_close(a, b)


def test_numbers_that_are_not_finite(written: Callable[..., nn.Module]) -> None:
    space = written(*CELL, **cell())
    x = image()
    x[0, 0, 0, 0] = -float("inf")
    plain, fast = (ag.Supernet(copy.deepcopy(space), fast=fast)(x) for fast in (False, True))
    torch.testing.assert_close(plain, fast, equal_nan=True)


def test_copies_and_pickles_of_a_supernet_go_on(written: Callable[..., nn.Module], together: list[int]) -> None:
    net = ag.Supernet(written(*CELL, **cell()))
    expected = net.eval().train()(image())
    torch.testing.assert_close(copy.deepcopy(net)(image()), expected, rtol=0, atol=0)
    assert type(pickle.loads(pickle.dumps(net.path._groups))) is type(net.path._groups)
    assert together == [6, 6]


def test_a_part_that_changes_is_seen(written: Callable[..., nn.Module], together: list[int]) -> None:
    space = written(*CELL, **cell())
    nets = [ag.Supernet(copy.deepcopy(space), fast=fast) for fast in (False, True)]
    torch.testing.assert_close(nets[0](image()), nets[1](image()))
    for net in nets:
        net.network.f.candidates[0] = nn.Tanh()
    torch.testing.assert_close(nets[0](image()), nets[1](image()))
    assert together == [6, 5]
    torch.manual_seed(1)
    kind = type(nets[1].network)
    forward = kind.forward
    try:
        for changed in (lambda self, x: _Times.apply(self.a(self.stem(x)) + self.b(self.stem(x))), forward):
            for net in nets:
                type(net.network).forward = changed
            torch.testing.assert_close(nets[0](image()), nets[1](image()))
    finally:
        kind.forward = forward


class _Times(torch.autograd.Function):
    """A function in which a deferred tensor would not be seen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 2


class _Sum:
    """A pass with one value, which is computed when it is asked for."""

    def __init__(self, value: Tensor) -> None:
        self._value, self.times = value, 0

    def compute(self, asked: Sequence[Deferred], *, join: bool = False) -> None:
        self.times += 1
        for x in asked:
            x.value, x.of = self._value, None

    def add(self, summands: Any, like: Any) -> Deferred:
        raise AssertionError

    def reads(self, x: Tensor) -> bool:
        return False


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "shape": lambda x: (x.shape, x.size(), x.size(1), x.dim(), x.ndim, x.dtype, x.device),
    "operators": lambda x: (x - 1, 2 - x, x / 2, x**2, -x, x > 0, x[0], x + 1.5, x * 3, x @ x.transpose(2, 3)),
    "functions": lambda x: (torch.relu(x), F.pad(x, (1, 1)), F.avg_pool2d(x, 2), torch.stack([x, x]), x.flatten(1)),
    "layers": lambda x: (nn.ReLU()(x), nn.BatchNorm2d(C).double()(x), nn.Conv2d(C, C, 1).double()(x).shape),
    "numbers": lambda x: (float(x.sum()), bool((x > 0).any()), len(x), x.tolist(), x.numpy().sum()),
    "parts": lambda x: (list(x), tuple(x.split(2, 1)), torch.cat([x, x], 1), torch.cat([x, torch.ones_like(x)], 1)),
    "gradient": lambda x: (x.requires_grad, x.detach(), x.is_leaf, x.grad_fn is None),
    "products": lambda x: (torch.add(x, x, alpha=2), x.mul(x), torch.mul(x, torch.ones(3)), x * torch.tensor(2)),
    "copies": lambda x: (copy.deepcopy(x), pickle.loads(pickle.dumps(x)), x.clone(), repr(x), f"{x.sum():.3f}"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_sees_the_value(name: str) -> None:
    value = torch.randn(2, C, 4, 3, dtype=torch.float64)
    of = _Sum(value)
    found = []
    for x in (value, Deferred((), value.shape, value.dtype, value.device, of)):
        torch.manual_seed(0)
        found.append(FUNCTIONS[name](x))
    assert of.times == (name != "shape")
    for a, b in zip(*found, strict=True):
        if isinstance(a, Tensor | list | tuple) and not isinstance(a, torch.Size):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
            assert type(a) is type(b)
        else:
            assert a == b


def test_an_input_that_code_out_of_sight_writes_to_is_refused(
    written: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    random.seed(0)
    lines = ("h = self.stem(x)", "y = self.i([h, h])", "return self.a(h) + self.b(h) + self.i([h, h])")
    net = ag.Supernet(written(*lines, a=choice(), b=choice(), i=ag.InputChoice(2)))
    net(image())

    def writes(self: ag.InputChoice, inputs: list[Tensor]) -> Tensor:
        return inputs[0].add_(1)

    monkeypatch.setattr(ag.InputChoice, "forward", writes)
    with pytest.raises(SpaceError, match="in place"):
        net(image())


def test_what_is_compiled_gets_tensors(written: Callable[..., nn.Module], together: list[int]) -> None:
    lines = ("h = self.stem(x)", "return self.wide(self.a(h) + self.b(h))")
    nets = [ag.Supernet(written(*lines, **cell(), wide=nn.Conv2d(C, C, 1)), fast=fast) for fast in (False, True)]
    nets[1](image())
    assert together == [2]
    given: list[type] = []
    wide = nets[1].network.wide

    def compiled(x: Tensor) -> Tensor:
        given.append(type(x))
        return wide.forward(x)

    wide._compiled_call_impl = compiled  # where `Module.compile` puts what it makes
    nets[1](image())
    assert together == [2]
    assert given == [Tensor]


@pytest.mark.parametrize("skip", [False, True])
def test_autocast_of_images_in_single_precision(skip: bool, written: Callable[..., nn.Module]) -> None:
    def mixed() -> nn.Module:
        others = [nn.Identity()] if skip else []
        return ag.LayerChoice(
            [SepConv(C, C, 3, 1, affine=False), nn.BatchNorm2d(C), ReLUConvBN(C, C, 1, affine=False)][:: 2 - skip]
            + others
        )

    torch.manual_seed(0)
    lines = ("h = self.stem(x).float()", "y = self.a(h)", "z = self.b(h)", "return [y, z, y + z, torch.cat([y, z], 1)]")
    space = written(*lines, a=mixed(), b=mixed()).float()
    found = []
    for fast in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(ag.Supernet(copy.deepcopy(space), fast=fast)(image().float()))
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype == (torch.float32 if skip else torch.bfloat16)
        torch.testing.assert_close(a, b)
