"""Biases of convolutions before a BatchNorm: taken out of what is computed, and put into what the BatchNorm tracks."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.cell import Cell
from archgrad.fast import accelerated, native_cell
from archgrad.fast.branches import branch_of
from archgrad.operations import FactorizedReduce

C = 4


def conv(c_in: int = C, c_out: int = C, kernel: int = 1, **settings: int) -> nn.Conv2d:
    """With a bias, most often."""
    layer = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=random.random() < 0.8, **settings)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
        layer.bias.requires_grad_(random.random() < 0.8)
    return layer


AFFINE = {"norms": True}
"""Whether BatchNorms scale and move, which open cells as one program do not know."""


def norm(channels: int = C) -> nn.BatchNorm2d:
    tracks = random.random() < 0.9
    momentum = random.choice([0.1, 1.0, None]) if tracks else 0.1
    return nn.BatchNorm2d(channels, momentum=momentum, affine=AFFINE["norms"], track_running_stats=tracks)


def depthwise(kernel: int) -> list[nn.Module]:
    return [conv(kernel=kernel, groups=C), conv(), norm()]


def reduction() -> nn.Module:
    halve = FactorizedReduce(C, C)
    halve.conv_1, halve.conv_2 = (conv(C, C // 2, stride=2) for _ in range(2))
    return halve


def inverted() -> nn.Module:
    first = [conv(C, 8), norm(8), nn.ReLU(), conv(8, 8, 3, groups=8), norm(8), nn.ReLU(), conv(8, C), norm()]
    return nn.Sequential(*first)


FORMS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Sequential(conv(kernel=3), norm(), nn.ReLU()),
    "grouped": lambda: nn.Sequential(conv(kernel=3, groups=2), norm()),
    "pointwise": lambda: nn.Sequential(nn.ReLU(), conv(), norm()),
    "depthwise": lambda: nn.Sequential(nn.ReLU(), *depthwise(5)),
    "separable": lambda: nn.Sequential(nn.ReLU(), *depthwise(3), nn.ReLU(), *depthwise(3)),
}
"""What keeps the size of an image."""


class Space(nn.Module):
    """A cell, choices by themselves and wired by code, and operations outside of all."""

    def __init__(self) -> None:
        super().__init__()
        names = random.sample(list(FORMS), 3)
        candidates = {name: (lambda source, node, build=FORMS[name]: build()) for name in names}
        choice = lambda: ag.LayerChoice([*(FORMS[name]() for name in names), nn.Identity()])  # noqa: E731
        self.stem = nn.Sequential(conv(2, C, 3), norm())
        self.choices = nn.ModuleList([choice() for _ in range(4)])
        self.inverted = ag.LayerChoice([inverted(), inverted(), nn.Identity()])
        self.cell = Cell(2, candidates, label="cell")
        self.last = nn.Sequential(conv(2 * C), norm())
        self.reduction = ag.LayerChoice([reduction(), reduction()])
        self.alone = nn.Sequential(reduction(), FORMS["separable"](), inverted())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.choices[0](x) + self.choices[1](x)
        y = self.choices[2](y) + x
        self.choices[3](y)  # which nothing depends on
        y = self.reduction(self.inverted(self.last(self.cell([x, y]))))
        return self.alone(y).mean((2, 3))


def changed(space: nn.Module) -> nn.Module:
    """Some BatchNorms that normalise with what they have tracked, from which biases are not taken out."""
    norms = [module for module in space.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in random.sample(norms, 2):
        module.eval()
    return space


def results(network: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    """Outputs of two passes, first and second derivatives, and buffers, also in evaluation."""
    torch.manual_seed(1)
    named = dict(network.named_parameters())
    inputs = [x.clone().requires_grad_(), *(p for p in named.values() if p.requires_grad)]
    network(x)
    y = network(inputs[0])
    first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True, allow_unused=True)
    second = torch.autograd.grad(
        sum(g.tanh().sum() for g in first if g is not None), inputs, allow_unused=True, materialize_grads=True
    )
    found = {"y": y} | {f"first {k}": g for k, g in enumerate(first)} | {f"second {k}": g for k, g in enumerate(second)}
    found |= {f"buffer {name}": buffer.clone() for name, buffer in network.named_buffers()}
    training = {module: module.training for module in network.modules()}
    found["evaluated"] = network.eval()(x)
    for module, was in training.items():
        module.training = was
    found["again"] = network(x)
    return found


def agree(fast: dict[str, Tensor | None], plain: dict[str, Tensor | None]) -> None:
    assert [name for name, value in fast.items() if value is None] == [n for n, value in plain.items() if value is None]
    for name, value in plain.items():
        if value is not None:
            difference = (fast[name] - value).abs().max()
            assert difference <= 1e-9 * (1.0 + value.abs().max()), name


IMAGES = torch.randn(4, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("seed", range(8))
def test_any_supernet_with_biases_gives_what_the_plain_path_gives(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AFFINE, "norms", seed % 4 == 0)
    random.seed(seed)
    torch.manual_seed(seed)
    space = Space().double()
    if seed % 2:
        changed(space)
    nets = [ag.Supernet(copy.deepcopy(space), fast=fast, seed=1) for fast in (True, False)]
    agree(*(results(net, IMAGES) for net in nets))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("seed", range(4))
def test_any_derived_network_with_biases_gives_what_the_plain_path_gives(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)
    space = Space().double()
    plain = ag.derive(space, ag.random_architecture(space, seed=seed)).double()
    fast = copy.deepcopy(plain)
    with accelerated(fast):
        agree(results(fast, IMAGES), results(plain, IMAGES))


@pytest.mark.parametrize("name", FORMS)
def test_forms_with_biases_are_known(name: str) -> None:
    random.seed(0)
    branch = branch_of(FORMS[name]())
    assert branch is not None
    assert branch.form == {"grouped": "convolution", "pointwise": "convolution"}.get(name, name)
    assert branch.biases_cancel()


def test_a_cell_with_biases_is_one_program(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []
    evaluate = native_cell.evaluate

    def watched(*given: object) -> list[Tensor] | None:
        output = evaluate(*given)  # type: ignore[arg-type]
        found.append(output is not None)
        return output

    monkeypatch.setattr(native_cell, "evaluate", watched)
    monkeypatch.setitem(AFFINE, "norms", False)
    candidates = {name: (lambda source, node, build=FORMS[name]: build()) for name in ("depthwise", "separable")}
    random.seed(0)
    net = ag.Supernet(Both(Cell(2, candidates, label="cell")))
    net(torch.randn(4, C, 8, 8)).sum().backward()
    assert found == {"kernels": [True], "stages": [False]}.get(backend, [])


class Both(nn.Module):
    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        return self.cell([x, x])


def test_a_bias_that_is_no_parameter_is_not_known() -> None:
    layer = nn.Conv2d(C, C, 1)
    del layer._parameters["bias"]
    layer.bias = torch.ones(C)  # type: ignore[assignment]
    assert branch_of(nn.Sequential(layer, nn.BatchNorm2d(C))) is None
