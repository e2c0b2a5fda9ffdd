"""Inverted residual blocks as users write them: in choices, and by themselves in derived networks."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from modifications import CHANGES, batch
from test_modifications import compare, outcome
from torch import Tensor, nn

import archgrad as ag
from archgrad.distributed.sync_batchnorm import SynchronisedBatchNorm2d
from archgrad.fast import accelerate
from archgrad.fast.alone import FastOperation
from archgrad.fast.branches import branch_of
from archgrad.fast.inverted_residuals import InvertedResiduals, inverted_alone, suits
from archgrad.fast.unchanged import StructureCache

pytestmark = pytest.mark.usefixtures("backend")

C = 4


def convolution(c_in: int, c_out: int, kernel: int = 1, **settings) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False, **settings)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


class Block(nn.Module):
    """With an attribute that decides whether the input is added."""

    def __init__(self, c_out: int = C, kernel: int = 3, expansion: int = 3, stride: int = 1, act=nn.ReLU) -> None:
        super().__init__()
        hidden = C * expansion
        first = [*convolution(C, hidden), act()] if expansion > 1 else []
        depthwise = convolution(hidden, hidden, kernel, stride=stride, groups=hidden)
        self.layers = nn.Sequential(*first, *depthwise, act(), *convolution(hidden, c_out))
        self.is_residual = stride == 1 and c_out == C

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.is_residual else self.layers(x)


class Returning(Block):
    """As torchvision writes it."""

    def forward(self, x: Tensor) -> Tensor:
        if self.is_residual:
            return self.layers(x) + x
        else:
            return self.layers(x)


class Early(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        if self.is_residual:
            y = x + y
            return y
        return y


class Named(nn.Module):
    """Parts by name, and ReLU by a function."""

    def __init__(self, *, affine: bool = True) -> None:
        super().__init__()
        self.expand, self.depthwise = convolution(C, 8), convolution(8, 8, 5, groups=8)
        self.project = convolution(8, C)
        for norm in (part for part in self.modules() if isinstance(part, nn.BatchNorm2d) and not affine):
            norm.affine, norm.weight, norm.bias = False, None, None

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.relu(self.depthwise(F.relu(self.expand(x)))))


class Named6(Named):
    def forward(self, x: Tensor) -> Tensor:
        return self.project(F.relu6(self.depthwise(F.relu6(self.expand(x)))))


KNOWN: dict[str, Callable[[], nn.Module]] = {
    "block": Block,
    "wide, 7x7": lambda: Block(kernel=7, expansion=6),
    "without expansion": lambda: Block(expansion=1),
    "relu6": lambda: Block(act=nn.ReLU6),
    "returning": Returning,
    "early": Early,
    "named": Named,
    "without affine part": lambda: Named(affine=False),
    "relu6 by a function": Named6,
    "in place": lambda: Block(act=partial(nn.ReLU, inplace=True)),
    "relu6 in place": lambda: Block(act=partial(nn.ReLU6, inplace=True)),
    "sequence": lambda: Block().layers,
    "nested": lambda: nn.Sequential(nn.Identity(), nn.Sequential(Block(), nn.Identity())),
}


class Twice(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) + x


class AroundHalf(nn.Module):
    """The input of the second part is added, not that of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = convolution(C, C), Rest()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Rest(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        depthwise = convolution(C, C, 3, groups=C)
        self.layers = nn.Sequential(nn.ReLU(), *depthwise, nn.ReLU(), *convolution(C, C))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Halfway(Named):
    """Adds what is not the input."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.expand(x))
        return self.project(F.relu(self.depthwise(y) + y))


class ByMode(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.training else self.layers(x)


class Computed(Block):
    """The attribute is a property."""

    @property
    def adds(self) -> bool:
        return True

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


class Counted(Block):
    """The attribute is no truth value."""

    def __init__(self) -> None:
        super().__init__()
        self.is_residual = 1


class Subtracted(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) - x


def with_part(name: int, part: nn.Module) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        block = Block()
        block.layers[name] = part
        return block

    return build


def hooked() -> nn.Module:
    block = Block()
    block.layers[4].register_forward_hook(lambda m, x, y: 1.5 * y)
    return block


def bounded() -> nn.Module:
    block = Block(act=nn.ReLU6)
    block.layers[2].max_val = 3.0
    return block


def shared_norm() -> nn.Module:
    block = Block()
    block.layers[4] = block.layers[1]
    return block


UNKNOWN: dict[str, Callable[[], nn.Module]] = {
    **{kind.__name__: kind for kind in (Twice, AroundHalf, Halfway, ByMode, Computed, Counted, Subtracted)},
    "other activation": with_part(2, nn.SiLU()),
    "mixed activations": with_part(2, nn.ReLU6()),
    "other bound": bounded,
    "grouped": with_part(3, nn.Conv2d(12, 12, 3, padding=1, groups=6, bias=False)),
    "circular": with_part(3, nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False, padding_mode="circular")),
    "other norm": with_part(4, nn.GroupNorm(2, 12)),
    "norm shared": shared_norm,
    "hook": hooked,
}


class Space(nn.Module):
    def __init__(self, *candidates: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, C, 3, padding=1)
        self.choice = ag.LayerChoice(list(candidates))

    def forward(self, x: Tensor) -> Tensor:
        return self.choice(self.stem(x)).mean((2, 3))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many inverted residuals each call of the kernels had."""
    found: list[int] = []
    inner = InvertedResiduals.blend

    def blend(self: InvertedResiduals, *args, **kwargs) -> Tensor:
        found.append(len(self._parts))
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(InvertedResiduals, "blend", blend)
    return found


def image(height: int = 6, width: int = 7) -> Tensor:
    return torch.randn(3, 2, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def nets(*candidates: nn.Module, relaxation=None) -> tuple[ag.Supernet, ag.Supernet]:
    """Plain and fast, with lively parameters and statistics."""
    torch.manual_seed(0)
    space = Space(*candidates).double()
    for norm in (part for part in space.modules() if isinstance(part, nn.BatchNorm2d)):
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            if tensor is not None:
                tensor.data.normal_()
        norm.running_var.uniform_(0.5, 2)
    plain, fast = (ag.Supernet(copy.deepcopy(space), relaxation, fast=fast) for fast in (False, True))
    for net in (plain, fast):
        for alpha in net.alphas.values():
            alpha.data = torch.arange(float(alpha.numel()), dtype=alpha.dtype).view_as(alpha) / 7
    return plain, fast


def second_order(net: ag.Supernet, x: Tensor) -> list[Tensor | None]:
    """Output, first and second derivatives, and buffers after a pass."""
    inputs = [x.clone().requires_grad_(), *net.parameters()]
    y = net(inputs[0])
    first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True, allow_unused=True)
    second = torch.autograd.grad(sum(g.tanh().sum() for g in first if g is not None), inputs, allow_unused=True)
    return [y, *first, *second, *(b.clone() for b in net.buffers())]


def agree(plain: ag.Supernet, fast: ag.Supernet, x: Tensor | None = None) -> None:
    x = image() if x is None else x
    for ours, theirs in zip(second_order(fast, x), second_order(plain, x), strict=True):
        if ours is None or theirs is None:
            ours, theirs = (torch.zeros(()) if g is None else g.abs().max() for g in (ours, theirs))
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10 * max(1, theirs.abs().max().item()))


@pytest.mark.parametrize("name", KNOWN)
def test_known_by_structure(name: str, runs: list[int], backend: str) -> None:
    branch = branch_of(KNOWN[name]())
    assert branch is not None
    assert branch.form == "inverted"
    agree(*nets(KNOWN[name](), KNOWN[name](), nn.Identity()))
    if backend == "kernels":
        assert runs == [2]


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_looks_alike_runs_as_it_is_written(name: str, runs: list[int], backend: str) -> None:
    module = UNKNOWN[name]()
    branch = branch_of(module)
    of_programs = dict.fromkeys(["other activation", "mixed activations", "other bound"], "chain")
    of_programs["grouped"] = "stages"  # with an ordinary convolution among them
    assert (branch and branch.form) == of_programs.get(name)
    agree(*nets(module, Block(), nn.Identity()))
    if backend == "kernels":
        guarded = name in ("in place", "Computed")  # code that may work in place, or cannot be read
        assert runs == ([] if guarded else [1])


def test_all_at_once(runs: list[int], backend: str) -> None:
    others = [nn.Identity(), nn.Conv2d(C, C, 3, padding=1), nn.AvgPool2d(3, 1, 1), ag.operations.Zero(1)]
    agree(*nets(*(build() for build in KNOWN.values()), *others))
    if backend == "kernels":
        assert runs == [len(KNOWN)]


@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_where_the_resolution_is_halved(size: tuple[int, int]) -> None:
    halving = nn.Sequential(nn.Conv2d(C, 6, 1, stride=2, bias=False), nn.BatchNorm2d(6))
    agree(*nets(*(Block(6, kernel, 3, 2) for kernel in (3, 5, 7)), halving), image(*size))


@pytest.mark.parametrize("change", ["eval", "momentum", "cumulative", "untracked", "norm in eval", "no buffers"])
def test_statistics_in_every_mode(change: str) -> None:
    plain, fast = nets(Block(), Named(affine=False), nn.Identity())
    for net in (plain, fast):
        if change == "eval":
            net.eval()
        for k, norm in enumerate(part for part in net.modules() if isinstance(part, nn.BatchNorm2d)):
            if change == "momentum":
                norm.momentum = 0.1 * (k + 1)
            elif change == "cumulative":
                norm.momentum = None
            elif change == "untracked":
                norm.track_running_stats = k % 2 == 0
            elif change == "norm in eval" and k % 2:
                norm.eval()
            elif change == "no buffers" and k % 2:
                norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    for _ in range(2):
        agree(plain, fast)


def test_what_changes_later_is_seen() -> None:
    plain, fast = nets(Block(), Returning(), nn.Identity())
    changes: list[Callable[[nn.Module], object]] = [
        lambda block: setattr(block, "is_residual", False),
        lambda block: block.layers[4].eval(),
        lambda block: setattr(block.layers[3], "weight", nn.Parameter(torch.ones_like(block.layers[3].weight))),
        lambda block: block.layers[3].register_forward_hook(lambda m, x, y: 2 * y),
        lambda block: block.layers.__setitem__(2, nn.Tanh()),
    ]
    for change in changes:
        agree(plain, fast)
        for net in (plain, fast):
            change(net.network.choice.candidates[0])
    agree(plain, fast)


def test_what_is_quicker_by_operations_is_left_to_them() -> None:
    branch = branch_of(Block())
    assert suits(branch, (2, C, 6, 6))
    assert not suits(branch, (1, C, 6, 6))  # 9 pixels for each channel
    wide = nn.Sequential(
        *convolution(193, 8), nn.ReLU(), *convolution(8, 8, 3, groups=8), nn.ReLU(), *convolution(8, 8)
    )
    assert branch_of(wide).form == "inverted"
    assert not suits(branch_of(wide), (100, 193, 8, 8))


def test_statistics_of_all_processes_are_left_to_the_norms() -> None:
    for place in (1, 4, 7):
        block = Block()
        assert suits(branch_of(block), (3, C, 5, 5))
        block.layers[place].__class__ = SynchronisedBatchNorm2d
        branch = branch_of(block)
        assert branch is not None
        assert not suits(branch, (3, C, 5, 5))
        assert inverted_alone(branch, torch.randn(2, C, 5, 5), StructureCache()) is None


def test_one_candidate_runs() -> None:
    for relaxation in (ag.relaxation.Gumbel(), ag.relaxation.Gumbel(constant_gradient=False)):
        plain, fast = nets(Block(), Block(kernel=5), nn.Identity(), relaxation=relaxation)
        for seed in range(3):
            found = []
            for net in (plain, fast):
                torch.manual_seed(seed)
                found.append(outcome(net, image()))
            compare([found[0]], [found[1]], f"seed={seed}")


def test_shared_parts_move_their_statistics_in_order() -> None:
    block = Block()
    other = Block()
    other.layers[4] = block.layers[4]
    agree(*nets(block, other, nn.Identity()))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_a_block_by_itself(affine: bool, training: bool, runs: list[int], backend: str) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(Named(affine=affine), Block(), Block(6, stride=2)).double().train(training)
    fast = copy.deepcopy(plain)
    accelerate(fast)
    x = torch.randn(3, C, 7, 6, dtype=torch.float64)
    compare([outcome(plain, x)], [outcome(fast, x)], "by itself")
    if backend in ("kernels", "stages"):
        assert runs == [1, 1, 1]
        assert all(isinstance(part, FastOperation) for part in fast)


class Drawn(nn.Module):
    """Random candidates, with a head that flattens by `view`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, C, 3, padding=1)
        names = random.sample(sorted(KNOWN), random.randint(1, 4))
        others = random.sample([nn.Identity(), nn.Conv2d(C, C, 3, padding=1), nn.MaxPool2d(3, 1, 1)], 2)
        self.choice = ag.LayerChoice([*(KNOWN[name]() for name in names), *others[: random.randrange(3)]])
        self.head = nn.Linear(4 * C, 3)

    def forward(self, x: Tensor) -> Tensor:
        flatten = Tensor.view if x.is_contiguous() else Tensor.reshape
        y = self.choice(self.stem(x))
        return self.head(flatten(F.adaptive_avg_pool2d(y, 2), len(y), -1))


BATCHES = ["plain"] * 6 + ["channels_last", "empty", "other type", "no batch", "tiny", "inf", "nan"]


@pytest.mark.parametrize("draw", range(2 * len(CHANGES)))
def test_a_changed_space_of_blocks_computes_what_it_says(draw: int) -> None:
    change = CHANGES[draw % len(CHANGES)]
    found = []
    for fast in (False, True):
        random.seed(draw), torch.manual_seed(draw)
        space, x, first = Drawn().double(), batch(random.choice(BATCHES)), batch("plain")
        net = ag.Supernet(space, fast=fast, seed=draw)
        passes = [outcome(net, first)] if random.random() < 0.5 else []
        if change.__name__ != "share" or len(list(net.network.choice.candidates)) > 1:
            _apply(change, net.network)
        net.network.double()
        for number in range(2):
            torch.manual_seed(draw + number)
            passes.append(outcome(net, x))
        found.append(passes)
    compare(found[0], found[1], f"draw={draw}: {change.__name__}")


def _apply(change: Callable[[nn.Module], None], network: nn.Module) -> None:
    state = random.getstate()
    try:
        change(network)
    except StopIteration:  # a change of cells, of which there are none
        random.setstate(state)


class Before(nn.Module):
    """A choice between blocks that do not scale, whose output is read by what gives gradients in channels_last."""

    def __init__(self) -> None:
        super().__init__()
        norm = partial(nn.BatchNorm2d, affine=False)
        conv = partial(nn.Conv2d, bias=False)
        self.choice = ag.LayerChoice(
            [
                nn.Sequential(
                    *(conv(C, 8, 1), norm(8), nn.ReLU()),
                    *(conv(8, 8, 3, padding=1, groups=8), norm(8), nn.ReLU()),
                    *(conv(8, C, 1), norm(C)),
                )
                for _ in range(2)
            ]
        )
        self.reduction = ag.LayerChoice([ag.operations.FactorizedReduce(C, C) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(self.choice(x)).square().mean((2, 3))


def test_gradients_that_are_differentiated_again_are_the_same_in_every_memory_format() -> None:
    torch.manual_seed(0)
    space, x = Before().double(), torch.randn(4, C, 8, 8, dtype=torch.float64)
    found = []
    for fast in (True, False):
        net = ag.Supernet(copy.deepcopy(space), fast=fast, seed=1)
        first = torch.autograd.grad(net(x).square().sum(), list(net.parameters()), create_graph=True)
        second = torch.autograd.grad(sum(g.tanh().sum() for g in first), list(net.parameters()))
        found.append([*first, *second])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-10)
