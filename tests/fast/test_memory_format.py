"""Networks get images in channels_last only where no code can tell; in-place code around the fast path stays right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag
from archgrad.cell import Cell
from archgrad.fast import accelerate, accelerated, accepts_channels_last
from archgrad.operations import SepConv


class Body(nn.Module):
    """One choice between convolutions, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.choice = ag.LayerChoice([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)], label="c")
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.ReLU()])
        self.head = nn.Linear(144, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.choice(x)


class Pooled(Body):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.choice(x))
        for block in self.blocks:
            x = x + block(x)
        return self.head(torch.cat([x.mean((2, 3))] * 36, dim=1)) if self.training else self.mixed(x)

    def mixed(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class OtherBranch(Body):
    def forward(self, x: Tensor) -> Tensor:
        x = self.choice(x)
        return self.head(x.flatten(1)) if self.training else self.head(x.view(len(x), -1))


class ByType(Body):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1) if isinstance(x, Tensor) else self.choice(x)


class Helper(Body):
    def forward(self, x: Tensor) -> Tensor:
        return flat(self.choice(x))


class Masked(Body):
    """Drops parts of images, and in its head of vectors."""

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5, inplace=inplace)
        self.choice = ag.LayerChoice(
            [nn.Conv2d(4, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Dropout(0.3))], label="c"
        )
        self.end = nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.dropout(self.choice(x)).mean((2, 3)))


class MaskedByFunction(Body):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.choice(x), 0.5, self.training).mean((2, 3))


class OwnDropout(nn.Dropout):
    pass


class MaskedByOwn(Body):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1] = OwnDropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[1](self.choice(x)).mean((2, 3))


class ViewOrCopy(Body):
    def forward(self, x: Tensor) -> Tensor:
        h = self.choice(x)
        f = h.flatten(1)
        f += f.tanh()
        return h.mean((2, 3))


class Random(Body):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.choice(x).mean((2, 3)) * float(np.random.rand())


def flat(x: Tensor) -> Tensor:
    return x.view(len(x), -1)


@pytest.mark.parametrize("kind", [OtherBranch, ByType, Helper, MaskedByFunction, MaskedByOwn, ViewOrCopy, Random])
def test_what_may_tell_formats_apart_gets_images_as_they_are(kind: type[Body]) -> None:
    torch.manual_seed(0), np.random.seed(0)
    space = kind().double()
    state = np.random.get_state()[1].copy()
    plain, fast = (ag.Supernet(space, fast=fast) for fast in (False, True))
    assert (np.random.get_state()[1] == state).all()
    assert fast.network.calls == 0
    assert not fast.channels_last
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    for training in (True, False):
        found = []
        for net in (plain, fast):
            torch.manual_seed(0), np.random.seed(0)
            found.append(net.train(training)(x))
        torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)


def test_a_network_of_known_calls_gets_channels_last_and_gives_contiguous_images_back() -> None:
    assert accepts_channels_last(Pooled())
    net = ag.Supernet(Body(), fast=True)
    assert net.channels_last
    y = net(torch.randn(3, 4, 6, 6))
    assert y.is_contiguous()
    y.view(len(y), -1)


def results(net: ag.Supernet, x: Tensor) -> list[Tensor]:
    """Outputs and gradients of two passes and one in evaluation mode, which draw the same in all networks."""
    torch.manual_seed(0)
    found: list[Tensor] = []
    for training in (True, False, True):
        y = net.train(training)(x)
        wanted = [*net.weights.values(), *net.alphas.values()]
        found += [y, *torch.autograd.grad(y.square().sum(), wanted, materialize_grads=True)]
    return found


def agree(plain: list[Tensor], fast: list[Tensor]) -> None:
    for a, b in zip(plain, fast, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("path", ["auto", "torch", "grouped"])
def test_masks_of_images_are_those_of_the_plain_path(inplace: bool, recomputes: bool, path: str) -> None:
    space = Masked(inplace=inplace).double()
    plain, fast = (ag.Supernet(space, fast=p, activation_checkpointing=recomputes) for p in ("plain", path))
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    assert fast.channels_last != recomputes
    as_given = results(plain, x)
    agree(as_given, results(fast, x))
    laid_out = x.contiguous(memory_format=torch.channels_last)
    agree(results(plain, laid_out), results(fast, laid_out))
    fast.fed_channels_last = not recomputes
    agree(as_given, results(fast, laid_out if fast.channels_last else x))
    if not recomputes:
        fast.path.take("plain")  # as a search may, whose loaders go on as they began
        agree(as_given, results(fast, laid_out))
        fast.path.take("torch")
    fast.network.dropout = nn.Dropout(0.5)
    assert not fast.channels_last


def test_a_dropout_does_not_keep_choices_from_being_computed_together() -> None:
    net = ag.Supernet(Masked(), fast=True)
    assert net.channels_last
    assert net.path._code.keeps_to_itself
    assert type(ag.Supernet(net.network, fast=False).network.dropout) is nn.Dropout


class Instances(Body):
    """Normalises image by image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.InstanceNorm2d(4, affine=True))
        build = {
            "norm": lambda source, node: nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.InstanceNorm2d(4)),
            "function": lambda source, node: ByFunction(),
            "sep": lambda source, node: SepConv(4, 4, 3, 1),
        }
        self.choice = Cell(2, build, n_inputs=1, label="c")

    def forward(self, x: Tensor) -> Tensor:
        return self.choice([self.stem(x)]).square().mean((2, 3))


class ByFunction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("samples", [1, 2])
def test_gradients_behind_instance_norm(samples: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(samples, 4, 6, 6, dtype=torch.float64)
    for by_function in (False, True):
        space = Instances().double()
        for edge in space.choice.edges:
            edge.candidates[1] = ByFunction() if by_function else nn.Identity()
        plain, fast = (ag.Supernet(space, fast=fast) for fast in (False, True))
        assert fast.channels_last != by_function
        agree(results(plain, x), results(fast, x))


def test_a_hook_or_a_part_that_comes_later_is_seen() -> None:
    net = ag.Supernet(Body(), fast=True)
    handle = net.network.choice.register_forward_hook(lambda m, i, o: o.view(len(o), -1).view(o.shape))
    assert not net.channels_last
    net(torch.randn(3, 4, 6, 6))
    handle.remove()
    assert net.channels_last
    net.network.blocks[1] = OtherBranch()
    assert not net.channels_last


class InPlace(nn.Module):
    """Residual connections and activations in place, around operations and cells that the fast path knows."""

    def __init__(self, output: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.separable = SepConv(4, 4, 3, 1)
        self.cell = Cell(
            2,
            {"sep": lambda source, node: SepConv(4, 4, 3, 1, affine=False), "skip": lambda source, node: nn.Identity()},
            n_inputs=1,
            output=output,
            label="c",
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x += self.separable(x)
        y = self.relu(self.cell([x]))
        return y.mean((2, 3))


@pytest.mark.parametrize("output", ["last", "concat"])
@pytest.mark.usefixtures("backend")
def test_in_place_code_around_known_operations(output: str) -> None:
    torch.manual_seed(0)
    space = InPlace(output).double()
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    found = []
    for fast in (False, True):
        net = ag.Supernet(space, fast=fast)
        loss = net(x).square().sum()
        found.append([loss, *torch.autograd.grad(loss, [*net.weights.values(), *net.alphas.values()])])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("backend")
def test_a_pass_in_inference_mode_or_on_another_default_device_leaves_nothing_behind() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    net, twin = (ag.Supernet(ag.spaces.darts_cifar(4, 2)) for _ in range(2))
    twin.load_state_dict(net.state_dict())
    expected = twin(x)
    with torch.inference_mode():
        net(x)
    loss = net(x).square().sum()
    loss.backward()
    fresh = ag.Supernet(ag.spaces.darts_cifar(4, 2))
    fresh.load_state_dict(twin.state_dict())
    with torch.device("meta"):
        first = fresh(x)
    torch.testing.assert_close(first, twin(x))
    torch.testing.assert_close(net(x), expected)


class Twice(Cell):
    def edge_by_edge(self, states: list[Tensor]) -> Tensor:
        return 2 * super().edge_by_edge(states)


class Wide(ag.relaxation.Softmax):
    """Mixes in double precision."""

    def mix(self, alpha, row, draw):
        return super().mix(alpha.double(), row, draw)


@pytest.mark.usefixtures("backend")
def test_a_cell_or_relaxation_of_one_s_own_is_taken_as_it_is() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 6, 6)
    candidates = {"sep": lambda source, node: SepConv(4, 4, 3, 1), "skip": lambda source, node: nn.Identity()}

    class One(nn.Module):
        def __init__(self, kind: type[Cell]) -> None:
            super().__init__()
            self.cell = kind(2, candidates, n_inputs=1, label="c")

        def forward(self, x: Tensor) -> Tensor:
            return self.cell([x])

    for space, relaxation in ((One(Twice), None), (One(Cell), Wide())):
        plain, fast = (ag.Supernet(space, relaxation, fast=fast) for fast in (False, True))
        torch.testing.assert_close(fast(x).double(), plain(x).double(), rtol=1e-4, atol=1e-5)


def test_drop_path_of_one_s_own_sees_the_network_s_format() -> None:
    class Flattening(nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            return (v.view(len(v), -1) * 0.5).view(v.shape)

    candidates = {"sep": lambda source, node: SepConv(4, 4, 3, 1)}

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = Cell(2, candidates, n_inputs=1, label="c", drop_path=Flattening())

        def forward(self, x: Tensor) -> Tensor:
            return self.cell([x])

    space = One()
    network = ag.derive(space, ag.Architecture({"c": {"1": [["sep", 0]], "2": [["sep", 0], ["sep", 1]]}}))
    x = torch.randn(2, 4, 5, 5)
    expected = network.eval()(x)
    with accelerated(network, "torch"):
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
        with accelerated(network, "torch"):
            pass
        assert network.cell.evaluator is not None
    assert network.cell.evaluator is None


def test_a_convolution_of_complex_numbers_is_not_a_known_one() -> None:
    conv = nn.Conv2d(2, 2, 3, groups=2, bias=False, dtype=torch.complex64)
    accelerate(conv, "torch")
    conv(torch.randn(1, 2, 5, 5, dtype=torch.complex64)).abs().sum().backward()


def test_a_space_whose_forward_comes_later_reads_its_own_code() -> None:
    net = ag.Supernet(Body(), fast=True)
    assert net.channels_last
    net.network.forward = lambda x: Body.forward(net.network, x).flatten(1)
    assert not net.channels_last
