"""Stages as one function: gradients that meet inside it, what it needs of its operands, and which cells it is for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from modifications import Block, Shortcut
from torch import Tensor, nn

import archgrad as ag
from archgrad.cell import Cell
from archgrad.errors import SpaceError
from archgrad.fast import native_cell
from archgrad.fast.activations import ACTIVATIONS
from archgrad.fast.depthwise import Geometry
from archgrad.fast.native import Affine, Plan, Pool, Pooled, Program, Step, Unit, Weave, run, run_program
from archgrad.fast.recognise import as_wide
from archgrad.operations import DilConv, PoolBN, SepConv
from archgrad.partial_channels import SplitStates
from archgrad.relaxation import Gumbel, Softmax
from archgrad.schedules import Progress
from archgrad.skip_noise import noisy_skips
from archgrad.spaces import darts_cifar, nasbench201

pytestmark = pytest.mark.usefixtures("built")

THREE, DILATED = Geometry((1, 1), (1, 1)), Geometry((1, 1), (2, 2), (2, 2))
# Images: 0 and 1 are given; 2 and 3 pools of 0, 4 and 5 convolutions of 1, 6 a node, 7 a convolution of it, 8 a node.
PROGRAM = Program(
    2,
    (
        Step(Plan(tuple(Unit(0, projected=False, pool=Pool(kind, 3, 1, 1)) for kind in ("max", "mean"))), (0,)),
        Step(Plan((Unit(0, THREE, relu=True), Unit(0, DILATED, relu=True)), relu=True), (1,)),
        Step(
            Plan(
                (
                    Unit(0, THREE),
                    Unit(1),
                    Unit(2, DILATED, relu=True),
                    Unit(3, projected=False),
                    Unit(2, projected=False),
                ),
                summed=True,
            ),
            (4, 5, 0, 3),
        ),
        Step(Plan((Unit(0, THREE, relu=True),), relu=True), (6,)),
        Step(
            Plan((Unit(0, THREE), Unit(1, relu=True), *(Unit(k, projected=False) for k in (1, 2, 3))), summed=True),
            (7, 6, 2, 1),
        ),
    ),
    (6, 8),
)
KERNELS = (3, 3, 3, 3, 3, 3)


class Operands:
    def __init__(self, channels: int = 2, size: tuple[int, int] = (4, 3), outputs: tuple[int, ...] = (6, 8)) -> None:
        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

        self.program = Program(2, PROGRAM.steps, outputs)
        self.inputs = [random(2, channels, *size) for _ in range(2)]
        self.weights = [random(channels, 1, k, k) for k in KERNELS]
        self.projections = [random(channels, channels, 1, 1) for _ in range(8)]
        self.mixing = random(10)
        self.all = [self.mixing, *self.inputs, *self.weights, *self.projections]

    def as_one(self, mixing: Tensor, *tensors: Tensor) -> Tensor:
        inputs, weights, projections = self.program.split(tensors)
        return run_program(self.program, inputs, weights, projections, mixing)[0]

    def by_stages(self) -> tuple[Tensor, Tensor, Tensor]:
        images, means, variances = list(self.inputs), [], []
        weights, matrices, mixing = iter(self.weights), iter(self.projections), iter(self.mixing.unbind())
        for plan, reads in self.program.steps:
            own_weights = [next(weights) for unit in plan.units if unit.geometry is not None]
            own_matrices = [next(matrices).flatten(1) for unit in plan.units if unit.projected]
            scale = self.mixing.new_ones(len(plan.normalised))
            if plan.summed:
                scale = torch.stack([next(mixing) for _ in plan.normalised])
            scale = scale.unsqueeze(1).expand(-1, images[0].shape[1])
            values = torch.stack([next(mixing) for _ in plan.values]) if plan.values else None
            outputs, found = run(plan, [images[i] for i in reads], own_weights, own_matrices, scale, mixing=values)
            images += outputs
            means.append(found[0])
            variances.append(found[1])
        return torch.cat([images[i] for i in self.program.outputs], 1), torch.cat(means), torch.cat(variances)


@pytest.mark.parametrize("outputs", [(6, 8), (8,), (6,)])
def test_stages_as_one_function_are_what_they_are_one_by_one(outputs):
    torch.manual_seed(0)
    operands = Operands(channels=5, size=(6, 7), outputs=outputs)
    found = run_program(operands.program, operands.inputs, operands.weights, operands.projections, operands.mixing)
    expected = operands.by_stages()
    torch.testing.assert_close(found, expected)
    towards = torch.randn_like(found[0])
    for y, ours in ((found[0], True), (expected[0], False)):
        gradients = torch.autograd.grad(y, operands.all, towards, allow_unused=True)
        dense = [torch.zeros_like(x) if g is None else g for x, g in zip(operands.all, gradients, strict=True)]
        if ours:
            kept = dense
    torch.testing.assert_close(kept, dense, rtol=1e-10, atol=1e-10)


def test_images_that_are_given_out_joined_and_apart():
    torch.manual_seed(0)
    joined = Operands()
    apart = Program(2, PROGRAM.steps, (6, 8), apart=(8, 4, 6))
    rest = joined.inputs, joined.weights, joined.projections, joined.mixing
    y, eighth, fourth, sixth, *_ = run_program(apart, *rest)
    assert torch.equal(y, torch.cat([sixth, eighth], dim=1))
    towards = [torch.randn_like(x) for x in (y, eighth, sixth)]
    found = torch.autograd.grad([y, eighth, sixth], joined.all, towards, allow_unused=True, retain_graph=True)
    whole = towards[0] + torch.cat([towards[2], towards[1]], dim=1)
    expected = torch.autograd.grad(run_program(joined.program, *rest)[0], joined.all, whole, allow_unused=True)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    only = torch.autograd.grad(fourth.sum(), joined.all, allow_unused=True)
    assert [k for k, g in enumerate(only) if g is not None] == [0, 2, 3, 9]  # mixing is one tensor of all steps


def test_first_and_second_derivatives_agree_with_finite_differences():
    torch.manual_seed(1)
    operands = Operands()
    assert torch.autograd.gradcheck(operands.as_one, operands.all, fast_mode=True)
    assert torch.autograd.gradgradcheck(operands.as_one, operands.all, fast_mode=True)


def affine_of(program: Program, channels: int = 2) -> list[Tensor]:
    """Scales, then shifts; of one unit without a row."""
    shapes = [(rows.stop - rows.start, channels) for rows in program.norm_parts]
    every = [torch.randn(shape if shape[0] > 1 else shape[1:], dtype=torch.float64) for shape in shapes * 2]
    return [x.requires_grad_() for x in every]


def with_affine(operands: Operands, mixing: Tensor, *rest: Tensor) -> Tensor:
    n = len(operands.program.norm_parts)
    scales, shifts, tensors = rest[:n], rest[n : 2 * n], rest[2 * n :]
    parts = [Affine(*pair) for pair in zip(scales, shifts, strict=True)]
    return run_program(operands.program, *operands.program.split(tensors), mixing, affine=parts)[0]


def test_derivatives_by_weights_of_batch_norms_agree_with_finite_differences():
    torch.manual_seed(1)
    operands = Operands()
    every = [operands.mixing, *affine_of(PROGRAM), *operands.all[1:]]
    assert [rows.stop - rows.start for rows in PROGRAM.norm_parts] == [1, 1, 1, 1, 3, 1, 2]
    assert torch.autograd.gradcheck(partial(with_affine, operands), every, fast_mode=True)
    assert torch.autograd.gradgradcheck(partial(with_affine, operands), every, fast_mode=True)


def test_scales_that_are_mixing_weights_are_what_mixing_weights_are():
    torch.manual_seed(0)
    operands = Operands(channels=5, size=(6, 7))
    scales, of_sums = [], {0: operands.mixing[:3], 1: operands.mixing[5:7]}
    for rows in PROGRAM.norm_parts:
        n = rows.stop - rows.start
        scales.append(of_sums.pop(min(of_sums)).unsqueeze(1).expand(-1, 5) if n > 1 else torch.ones(5).double())
    shifts = [torch.zeros(scale.shape).double() for scale in scales]
    y = with_affine(operands, operands.mixing, *scales, *shifts, *operands.all[1:])
    expected = operands.as_one(*operands.all)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    towards = torch.randn_like(y)
    found, wanted = (torch.autograd.grad(x, operands.all, towards) for x in (y, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_scales_and_shifts_that_outputs_do_not_depend_on_have_no_gradient():
    operands = Operands(outputs=(6,))
    affine = affine_of(PROGRAM)
    y = with_affine(operands, operands.mixing, *affine, *operands.all[1:])
    found = torch.autograd.grad(y.square().sum(), affine, allow_unused=True)
    # the first pool is read by the second node alone
    assert [g is not None for g in found] == [False, True, True, True, True, False, False] * 2


@pytest.mark.parametrize("chosen", ["mixing", "inputs", "weights", "projections"])
def test_only_what_is_needed_gets_a_gradient(chosen):
    torch.manual_seed(0)
    operands = Operands()
    wanted = operands.mixing if chosen == "mixing" else getattr(operands, chosen)
    everything = torch.autograd.grad(operands.as_one(*operands.all).square().sum(), wanted)
    for x in operands.all:
        x.requires_grad_(any(x is y for y in ([wanted] if chosen == "mixing" else wanted)))
    alone = torch.autograd.grad(operands.as_one(*operands.all).square().sum(), wanted)
    torch.testing.assert_close(alone, everything, rtol=1e-12, atol=1e-12)


def test_the_gradient_that_comes_in_is_left_as_it_is():
    """It may have other readers; those inside add to copies."""
    torch.manual_seed(0)
    operands = Operands(outputs=(6,))
    y = operands.as_one(*operands.all)
    towards = torch.randn_like(y).contiguous(memory_format=torch.channels_last)
    before = towards.clone()
    torch.autograd.grad(y, operands.all, towards, allow_unused=True)
    assert torch.equal(towards, before)


def test_tensors_may_be_kept_elsewhere_between_the_passes():
    torch.manual_seed(0)
    operands = Operands()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.contiguous().clone(), lambda x: x):
        found = operands.as_one(*operands.all)
    expected = operands.as_one(*operands.all)
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), operands.all),
        torch.autograd.grad(expected.square().sum(), operands.all),
    )


def by_parts(parts: int, *, weighted: bool) -> Program:
    """Two nodes, the first of half the size of its inputs: images 0 and 1 are whole, 2 and 3 what is read of them,
    4 what was mixed, 5 and 6 the inputs halved, 7 and 8 the first node and what is read of it, 9 to 11 the same."""
    halving = Geometry((2, 2), (1, 1))
    into_first = Plan((Unit(0, halving, relu=True), Unit(1, halving, relu=True)), summed=True)
    into_second = Plan((Unit(0, THREE), Unit(0, projected=False)), summed=True)
    steps = (
        *(Weave((k,), parts, mixes=False) for k in (0, 1)),
        Step(into_first, (2, 3)),
        *(Pooled((k,), Pool("max", 2, 2, over_edge=True)) for k in (0, 1)),
        Weave((4, 5, 6), parts, weighted=weighted),
        Step(into_second, (8,)),
        Weave((9, 5, 6, 7), parts, weighted=weighted),
    )
    return Program(2, steps, (7, 10))


def by_hand(program: Program, parts: int, mixing: Tensor, *tensors: Tensor) -> Tensor:
    """What a program of `by_parts` computes, from the definition of partial channels."""
    inputs, weights, projections = program.split(tensors)
    _, _, first, *_, second, last = program.steps
    to_first, q_first, to_second, q_second = mixing.split([2, 2, 2, 3] if last.weighted else [2, 0, 2, 0])
    split = SplitStates(inputs, parts, "The cell")
    ones = lambda n: mixing.new_ones(n, inputs[0].shape[1] // parts)  # noqa: E731
    matrices = [p.flatten(1) for p in projections]
    (y,), _ = run(first.plan, list(split.read), weights[:2], matrices[:2], to_first.unsqueeze(1) * ones(2))
    split.enter(y, q_first if last.weighted else [None] * 2)
    (y,), _ = run(
        second.plan, [split.read[2]], weights[2:], matrices[2:], to_second[:1, None] * ones(1), mixing=to_second[1:]
    )
    split.enter(y, q_second if last.weighted else [None] * 3)
    return torch.cat(split.whole[2:], 1)


@pytest.mark.parametrize(("parts", "own", "size"), [(2, 3, (5, 4)), (3, 2, (4, 3)), (4, 2, (7, 6))])
@pytest.mark.parametrize("weighted", [True, False])
def test_states_pass_by_as_partial_channels_say(parts, own, size, weighted):
    torch.manual_seed(0)
    program = by_parts(parts, weighted=weighted)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    tensors = [random(9 if weighted else 4), *(random(2, parts * own, *size) for _ in range(2))]
    tensors += [random(own, 1, 3, 3) for _ in range(3)] + [random(own, own, 1, 1) for _ in range(3)]

    def as_one(mixing: Tensor, *others: Tensor) -> Tensor:
        inputs, weights, projections = program.split(others)
        return run_program(program, inputs, weights, projections, mixing)[0]

    found, expected = as_one(*tensors), by_hand(program, parts, *tensors)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    towards = torch.randn_like(found)
    gradients = [torch.autograd.grad(y, tensors, towards) for y in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)
    twice = [
        torch.autograd.grad(
            sum(g.sin().sum() for g in torch.autograd.grad(y, tensors, towards, create_graph=True)), tensors
        )
        for y in (as_one(*tensors), by_hand(program, parts, *tensors))
    ]
    torch.testing.assert_close(*twice, rtol=1e-9, atol=1e-9)
    alone = [x.detach().requires_grad_(k == 1) for k, x in enumerate(tensors)]
    torch.testing.assert_close(torch.autograd.grad(as_one(*alone), alone[1], towards)[0], gradients[0][1])


@pytest.fixture
def wholes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each cell that was evaluated was one function."""
    seen: list[bool] = []
    evaluate = native_cell.evaluate

    def watched(*arguments: Any) -> Tensor | None:
        output = evaluate(*arguments)
        seen.append(output is not None)
        return output

    monkeypatch.setattr(native_cell, "evaluate", watched)
    return seen


def test_cells_of_known_operations_are_whole(wholes):
    x = torch.randn(2, 3, 8, 8)
    ag.Supernet(darts_cifar(4, 3), fast=True)(x)
    assert wholes == [True] * 3
    wholes.clear()
    drawn = ag.Supernet(darts_cifar(4, 3), Gumbel(), fast=True)
    drawn.progress = Progress(0, 50)
    drawn(x)
    assert wholes == [False] * 3  # candidates that did not run reach the output
    wholes.clear()
    for options in ({}, {"edge_weights": Softmax()}):
        ag.Supernet(darts_cifar(8, 3, partial_channels=4), fast=True, **options)(x)
    assert wholes == [True] * 6


@pytest.mark.parametrize("parts", [1, 2])
def test_cells_of_nasbench201_are_whole_and_are_those_of_the_plain_path(wholes, parts):
    torch.manual_seed(0)
    space = nasbench201(4, 1, partial_channels=parts).double()
    assert_twice_the_same(space, torch.randn(3, 3, 8, 7, dtype=torch.float64))
    assert wholes == [True] * 6


DENSE = {
    "of 3 pixels": ({"kernel_size": 3, "padding": 1}, True),
    "of 5 pixels, dilated": ({"kernel_size": 5, "padding": 4, "dilation": 2}, True),
    "of 3 x 1 pixels": ({"kernel_size": (3, 1), "padding": (1, 0)}, True),
    "of 2 groups": ({"kernel_size": 3, "padding": 1, "groups": 2}, True),
    "with a bias": ({"kernel_size": 3, "padding": 1, "bias": True}, True),
    "around the edges": ({"kernel_size": 3, "padding": 1, "padding_mode": "circular"}, False),
}


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("size", [(1, 1), (7, 6)])
def test_dense_convolutions_that_cells_know_and_those_that_look_alike(wholes, name, size):
    torch.manual_seed(0)
    given, whole = DENSE[name]

    def build(source: int, node: int) -> nn.Module:
        return nn.Sequential(
            nn.ReLU(), nn.Conv2d(4, 4, **{"bias": False, **given}), nn.BatchNorm2d(4, affine=False, momentum=0.3)
        )

    pool = lambda source, node: nn.AvgPool2d(3, 1, 1, count_include_pad=False)  # noqa: E731
    space = Chain(conv=build, skip=lambda source, node: nn.Identity(), pool=pool)
    assert_twice_the_same(space.double(), torch.randn(3, 4, *size, dtype=torch.float64))
    assert wholes == [whole] * 2


def convolved(kernel: int = 3, stride: int = 1, *, relu: bool = True, **options: Any) -> nn.Sequential:
    padding = options.get("dilation", 1) * (kernel // 2)
    convolution = nn.Conv2d(4, 4, kernel, stride, padding, **options)
    norm = nn.BatchNorm2d(4, momentum=0.3)
    nn.init.uniform_(norm.weight, 0.5, 1.5), nn.init.normal_(norm.bias)
    return nn.Sequential(convolution, norm, *([nn.ReLU()] if relu else []))


@pytest.mark.parametrize("size", [(7, 6), (8, 9)])
def test_choices_that_halve_images_and_end_in_a_relu_are_whole(wholes, size):
    torch.manual_seed(0)
    operations = [
        convolved(3, 2),
        convolved(5, 2, relu=False, dilation=2, bias=False),
        nn.Sequential(nn.ReLU(), *convolved(1, 2)),
        nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1, groups=4), *convolved(1)),
        nn.Sequential(convolved(5, 2, groups=4), convolved(1)),
        convolved(3, 2, relu=False, groups=4),
        nn.Sequential(convolved(3, 2), convolved(3), convolved(1, relu=False)),
        nn.Sequential(convolved(3), convolved(5, 2)),
        nn.Sequential(nn.MaxPool2d((3, 3), 2, 1), nn.BatchNorm2d(4)),
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(3, 2, (1, 1), count_include_pad=False),
    ]
    space = nn.Sequential(ag.LayerChoice(operations), nn.Flatten()).double()
    assert_twice_the_same(space, torch.randn(3, 4, *size, dtype=torch.float64))
    assert wholes == [True] * 2


def test_a_default_device_elsewhere_changes_nothing(wholes):
    torch.manual_seed(0)
    net = ag.Supernet(nn.Sequential(ag.LayerChoice([convolved(3, relu=False, groups=4), convolved()])), fast=True)
    x = torch.randn(3, 4, 6, 5)
    expected = net(x)
    with torch.device("meta"):
        torch.testing.assert_close(net(x), expected, rtol=0, atol=0)
    assert wholes == [True] * 2


def test_choices_that_add_their_input_are_whole(wholes):
    torch.manual_seed(0)
    operations = [
        Shortcut(nn.ReLU(), *convolved(3, relu=False)),
        Shortcut(*convolved(5, groups=4), *convolved(1)),
        Shortcut(*convolved(3), *convolved(3, relu=False)),
        nn.Identity(),
    ]
    space = nn.Sequential(ag.LayerChoice(operations), nn.Flatten()).double()
    assert_twice_the_same(space, torch.randn(3, 4, 6, 5, dtype=torch.float64))
    assert wholes == [True] * 2


OTHERS: dict[str, Callable[[], list[nn.Module]]] = {
    "1x7 and 7x1": lambda: [nn.ReLU(), across((1, 5)), across((5, 1)), convolved()[1]],
    "with biases that padding moves": lambda: [across((1, 5), bias=True), across((5, 1), bias=True), convolved()[1]],
    "a ReLU behind it": lambda: [across((1, 5)), across((5, 1)), *convolved()[1:]],
    "wider between": lambda: [nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 4, 1, bias=False), convolved()[1]],
    "an activation between": lambda: [across((3, 3), bias=True), nn.Tanh(), *convolved(1, relu=False)],
    "a ReLU between": lambda: [across((3, 3), bias=True), nn.ReLU(), *convolved(1, relu=False)],
    "no norm": lambda: [nn.ReLU(), across((3, 3), bias=True)],
    "no norm, separable": lambda: [across((3, 3), groups=4, bias=True), across((1, 1), bias=True), nn.ReLU()],
    "no norm, a ReLU behind": lambda: [across((3, 3)), nn.ReLU()],
    "groups": lambda: [*convolved(3, groups=2), *convolved(3, relu=False, groups=2)],
    "two norms": lambda: [*convolved(3, relu=False, groups=4), *convolved(1, relu=False)],
    "depthwise, of another form": lambda: [nn.ReLU(), across((5, 1), groups=4, bias=True), *convolved(1, relu=False)],
    "stages and a norm by itself": lambda: [*convolved(3), across((5, 1)), *convolved()[1:], *convolved(3)],
}


def across(kernel: tuple[int, int], *, bias: bool = False, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(4, 4, kernel, padding=(kernel[0] // 2, kernel[1] // 2), bias=bias, groups=groups)


def separable(activation: Callable[[], nn.Module]) -> list[nn.Module]:
    def half() -> list[nn.Module]:
        return [activation(), nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), *convolved(1, relu=False)]

    return [*half(), *half()]


class FunctionBlock(nn.Module):
    """The same, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, _ = convolved(3, bias=False)
        self.conv2, self.bn2, _ = convolved(3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out = out + identity
        return F.relu(out)


def test_blocks_with_an_activation_behind_the_sum_are_whole(wholes):
    torch.manual_seed(0)
    operations = [
        FunctionBlock(),
        Block(nn.SiLU(), nn.ReLU(), *convolved(3, relu=False)),
        Block(nn.ReLU(), *convolved(3)),
        Block(nn.LeakyReLU(0.1), across((1, 3), bias=True)),
        nn.Sequential(*convolved(1, relu=False)),
    ]
    space = nn.Sequential(ag.LayerChoice(operations), nn.Flatten()).double()
    assert_twice_the_same(space, torch.randn(3, 4, 6, 5, dtype=torch.float64))
    assert wholes == [True] * 2


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("adds", [False, True])
def test_chains_that_pytorch_computes_parts_of_are_whole(wholes, name, adds):
    torch.manual_seed(0)
    kind = Shortcut if adds else nn.Sequential
    operations = [
        kind(*OTHERS[name]()),
        nn.Sequential(*separable(nn.ReLU)),
        nn.Sequential(*convolved(3)),
        nn.Identity(),
    ]
    space = nn.Sequential(ag.LayerChoice(operations), nn.Flatten()).double()
    assert_twice_the_same(space, torch.randn(3, 4, 6, 5, dtype=torch.float64))
    assert wholes == [True] * 2


def made(kind: type[nn.Module]) -> nn.Module:
    return kind(0.3) if kind in (nn.LeakyReLU, nn.ELU, nn.CELU) else kind()


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_of_every_kind_are_part_of_a_program(wholes, kind):
    torch.manual_seed(0)
    operations = [
        nn.Sequential(*separable(lambda: made(kind))),
        nn.Sequential(*convolved(3, relu=False), made(kind)),
        Shortcut(made(kind), *convolved(3, relu=False), made(kind), *convolved(1, relu=False)),
        nn.Sequential(*separable(nn.ReLU)),
        nn.AvgPool2d(3, 1, 1),
    ]
    space = nn.Sequential(ag.LayerChoice(operations), nn.Flatten()).double()
    assert_twice_the_same(space, 2 * torch.randn(3, 4, 6, 5, dtype=torch.float64))
    assert wholes == [True] * 2


def test_dense_convolutions_that_a_library_does_as_well_are_left_to_it():
    settings = {1: {}, 2: {"dilation": 2, "padding": 2}}
    known = [
        as_wide(nn.Conv2d(n, n, 3, **{"padding": 1, **settings[d]})) is not None for n in (16, 17) for d in settings
    ]
    assert known == [True, True, True, False]


def assert_twice_the_same(space: nn.Module, x: Tensor) -> None:
    """Output, first and second derivatives and statistics of the fast path are those of the plain one."""
    found = []
    for fast in (False, True):
        net = ag.Supernet(copy.deepcopy(space), fast=fast, seed=1)
        wanted = [*net.alphas.values(), *net.weights.values()]
        y = net(x)
        first = torch.autograd.grad(y.square().sum(), wanted, create_graph=True, materialize_grads=True)
        twice = torch.autograd.grad(sum(g.sin().sum() for g in first), wanted, materialize_grads=True)
        once = torch.autograd.grad(net(x).square().sum(), wanted, materialize_grads=True)
        found.append([y, *first, *twice, *once, *net.network.buffers()])
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-10)


def test_cells_with_anything_else_are_not(wholes):
    x = torch.randn(2, 3, 8, 8)
    net = ag.Supernet(darts_cifar(4, 3), fast=True)
    candidates = net.network.cells[1].graph.edges[0].candidates
    handle = next(m for m in candidates if isinstance(m, SepConv)).register_forward_hook(lambda *_: None)
    net(x)
    assert wholes == [True, False, True]
    handle.remove()
    next(m for m in candidates if isinstance(m, DilConv)).op[3].eval()
    next(m for m in net.network.cells[2].graph.modules() if isinstance(m, PoolBN))[1].eps = 1e-3
    wholes.clear()
    net(x)
    assert wholes == [True, False, False]
    wholes.clear()
    net.eval()(x)
    assert wholes == [False] * 3
    with torch.autocast("cpu", torch.bfloat16):
        net.train()(x)
    assert wholes == [False] * 6


def test_noise_on_skip_connections_is_that_of_the_plain_path(wholes):
    torch.manual_seed(0)
    space = darts_cifar(4, 3, nodes=2).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    found = []
    for fast in (False, True):
        net = ag.Supernet(space, fast=fast, seed=1)
        wanted = [*net.alphas.values(), *net.weights.values()]
        with noisy_skips(net, 0.5):
            torch.manual_seed(2)
            y = net(x)
            first = torch.autograd.grad(y.square().sum(), wanted, create_graph=True, materialize_grads=True)
            twice = torch.autograd.grad(sum(g.sin().sum() for g in first), wanted, materialize_grads=True)
            torch.manual_seed(2)
            again = torch.autograd.grad(net(x).square().sum(), wanted, materialize_grads=True)
        found.append([y, *first, *twice, *again, *net.network.buffers(), torch.get_rng_state()])
    assert wholes == [True] * 6
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-8, atol=1e-9)
    wholes.clear()
    with noisy_skips(net, 0.1), torch.no_grad():  # another noise in the same places
        torch.manual_seed(2)
        noisy = net(x)
        skip = net.network.cells[1].graph.edges[0]["skip_connect"]
        watched = skip.register_forward_hook(lambda *_: None)
        torch.manual_seed(2)
        torch.testing.assert_close(net(x), noisy, rtol=1e-10, atol=1e-10)
        watched.remove()
        skip.eval()
        net(x)
    assert wholes == [True, True, True, True, False, True, True, False, True]  # the cell of that skip


class Chain(nn.Module):
    """A cell of two nodes, behind one input."""

    def __init__(self, **candidates: object) -> None:
        super().__init__()
        self.cell = Cell(2, candidates, n_inputs=1, label="c")

    def forward(self, x: Tensor) -> Tensor:
        return self.cell([x])


@pytest.mark.parametrize("drawn", [("skip", "sep", "sep"), ("sep", "skip", "skip"), ("skip", "skip", "skip")])
def test_nodes_without_a_normalisation(wholes, drawn):
    torch.manual_seed(0)
    separable = lambda source, node: SepConv(2, 2, 3, 1, affine=False)  # noqa: E731
    space = Chain(skip=lambda source, node: nn.Identity(), sep=separable).double()
    plain, fast = (ag.Supernet(space, Gumbel(constant_gradient=False), seed=1, fast=fast) for fast in (False, True))
    for net in (plain, fast):
        net.progress = Progress(0, 50)
        for row, name in zip(net.alphas.values(), drawn, strict=True):
            row.data.copy_(torch.tensor([100.0, 0.0] if name == "skip" else [0.0, 100.0]))
    x = torch.randn(3, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    outputs = [net(x) for net in (plain, fast)]
    torch.testing.assert_close(outputs[1], outputs[0])
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in outputs]
    torch.testing.assert_close(gradients[1], gradients[0])
    assert wholes == ["sep" in drawn]


class Halving(nn.Module):
    """A space whose candidates disagree about the size."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell(
            1,
            {"one": lambda source, node: SepConv(2, 2, 3, 1), "two": lambda source, node: SepConv(2, 2, 3, 2)},
            n_inputs=1,
            label="c",
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.cell([x])


def test_sizes_that_do_not_fit_are_an_error_and_not_a_read_beyond_the_end():
    with pytest.raises((SpaceError, RuntimeError, ValueError), match=r"shape|size"):
        ag.Supernet(Halving(), fast=True)(torch.randn(2, 2, 6, 6))
    values = Plan((Unit(0, projected=False), Unit(1, projected=False)), summed=True)
    images = [torch.randn(1, 2, 4, 4), torch.randn(1, 2, 3, 4)]
    with pytest.raises(ValueError, match=r"equal shapes, but got \(C, H, W\) of \(2, 4, 4\), \(2, 3, 4\)"):
        run(values, images, [], [], None, mixing=torch.ones(2))
