"""Cells in few large operations, as they run beside the CPU; `test_cells` holds their numbers to the plain path's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import archgrad as ag
from archgrad.cell import Cell
from archgrad.fast import grouped_cell, path_names
from archgrad.fast.depthwise import Geometry
from archgrad.fast.grouped_layers import depthwise, normalise, project, stacked
from archgrad.operations import DilConv, PoolBN, SepConv
from archgrad.schedules import Progress


@pytest.fixture
def gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_names, "usual_path", lambda _: "grouped")


class OneCell(nn.Module):
    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cell([x, torch.tanh(x)])


def of_both(space: nn.Module, x: torch.Tensor, relaxation=ag.relaxation.Softmax) -> list[list[torch.Tensor]]:
    """Output and gradients, plain and fast."""
    found = []
    for fast in (False, True):
        supernet = ag.Supernet(space.double(), relaxation(), fast=fast, seed=1)
        supernet.progress = Progress(0, 50)
        generator = torch.Generator().manual_seed(0)
        for alpha in supernet.alphas.values():
            alpha.data.normal_(generator=generator)
        parameters = [*supernet.weights.values(), *supernet.alphas.values()]
        y = supernet(x)
        gradients = torch.autograd.grad(y.square().mean() + y[0].sum(), parameters, allow_unused=True)
        found.append([y, *(torch.zeros(()) if g is None or not g.any() else g for g in gradients)])
        found[-1] += list(supernet.network.buffers())
    return found


def assert_equal(plain: list[torch.Tensor], fast: list[torch.Tensor]) -> None:
    for a, b in zip(plain, fast, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("widest", [1, 4, 6])
def test_wide_groups_are_computed_in_pieces(widest, gathering, monkeypatch):
    monkeypatch.setattr(grouped_cell, "_WIDEST", widest)
    torch.manual_seed(0)
    assert_equal(*of_both(ag.spaces.darts_cifar(2, 3, nodes=3), torch.randn(3, 3, 8, 8, dtype=torch.float64)))


def test_partial_channels_are_known(gathering):
    torch.manual_seed(0)
    space = ag.spaces.darts_cifar(4, 3, nodes=3, partial_channels=2)
    assert_equal(*of_both(space, torch.randn(3, 3, 8, 8, dtype=torch.float64)))


def test_candidates_of_other_settings_stand_apart(gathering):
    torch.manual_seed(0)

    def convolution(source: int, node: int) -> nn.Module:
        operation = DilConv(3, 3, 3 if source else 5, 1) if node % 2 else SepConv(3, 3, 3, 1, affine=False)
        list(operation.op)[-1].eps = 1e-5 if source else 1e-2
        return operation

    space = OneCell(
        Cell(3, {"conv": convolution, "pool": lambda source, node: PoolBN("avg" if source else "max", 3, 1)}, label="c")
    )
    assert_equal(*of_both(space, torch.randn(3, 3, 6, 5, dtype=torch.float64)))


def test_what_works_in_place_and_stands_apart_leaves_its_input_alone(gathering):
    torch.manual_seed(0)
    build = {
        "apart": lambda source, node: nn.Sequential(
            nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()
        ),
        "skip": lambda source, node: nn.Identity(),
    }
    plain, fast = of_both(OneCell(Cell(2, build, n_inputs=2, label="c")), torch.randn(3, 4, 6, 6, dtype=torch.float64))
    for a, b in zip(plain, fast, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-10)


def test_the_last_node_alone_can_be_the_output(gathering):
    torch.manual_seed(0)
    space = OneCell(Cell(2, {"sep": lambda source, node: SepConv(2, 2, 3, 1)}, output="last", label="c"))
    assert_equal(*of_both(space, torch.randn(3, 2, 6, 5, dtype=torch.float64)))


@pytest.mark.parametrize("constant", [True, False])
def test_drawn_candidates_alone_run(constant, gathering):
    torch.manual_seed(0)

    def relaxation() -> ag.relaxation.Gumbel:
        return ag.relaxation.Gumbel(constant_gradient=constant)

    assert_equal(*of_both(ag.spaces.darts_cifar(2, 3), torch.randn(3, 3, 8, 8, dtype=torch.float64), relaxation))


def test_a_constant_batch_stays_finite_in_single_precision(gathering):
    torch.manual_seed(0)
    supernet = ag.Supernet(ag.spaces.darts_cifar(2, 2))
    loss = supernet(torch.ones(2, 3, 8, 8)).square().sum()
    for gradient in torch.autograd.grad(loss, list(supernet.weights.values()), allow_unused=True):
        assert gradient is None or gradient.isfinite().all()
    for name, buffer in supernet.network.named_buffers():
        assert buffer.isfinite().all(), name


def test_layers_side_by_side_are_the_layers():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    first = [nn.Conv2d(3, 3, 3, padding=2, dilation=2, groups=3, bias=False).double() for _ in range(4)]
    second = [nn.Conv2d(3, 5, 1, bias=False).double() for _ in range(4)]
    norms = [nn.BatchNorm2d(5).double() for _ in range(4)]
    for norm in norms:
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    scale = torch.randn(4, dtype=torch.float64)
    weights, matrices = stacked([[m.weight for m in first], [m.weight for m in second]], None)
    y, order = depthwise(x, weights, Geometry((1, 1), (2, 2), (2, 2)), "shared")
    y = project(y, matrices.flatten(2), order)
    y, seen = normalise(y, norms, scale)
    assert seen is not None
    parts = y.unflatten(1, (4, 5)).unbind(1)
    for k in range(4):
        expected = scale[k] * norms[k](second[k](first[k](x)))
        torch.testing.assert_close(parts[k], expected, rtol=1e-12, atol=1e-12)
    moved = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
    seen.track()
    for norm, (mean, variance) in zip(norms, moved, strict=True):
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(norm.running_var, variance, rtol=1e-12, atol=1e-12)


def test_one_layer_by_itself_has_the_gradients_of_its_batch_norm_on_a_pixel_each():
    x = torch.randn(8, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    weights, scale = torch.randn_like(x), torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    norm = nn.BatchNorm2d(3, affine=False).double()
    outputs = (normalise(x, [norm], scale)[0], scale * norm(x))
    found = [torch.autograd.grad((y * weights).sum(), [x, scale]) for y in outputs]
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)
