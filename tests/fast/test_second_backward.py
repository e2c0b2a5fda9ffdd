"""The gradients of a program, differentiated once more by the kernels: what that gives, and what it leaves out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from archgrad.fast.depthwise import Geometry
from archgrad.fast.native import Plan, Pool, Pooled, Program, Step, Unit, Weave, run_program, second_backward
from archgrad.fast.native.library import call

pytestmark = pytest.mark.usefixtures("built")

THREE, HALVING = Geometry((1, 1), (1, 1)), Geometry((2, 2), (1, 1))
POOLS = Plan(tuple(Unit(0, projected=False, pool=Pool(kind, 3, 1, 1)) for kind in ("max", "mean")))
FIRST_HALVES = Plan((Unit(0, THREE, relu=True), Unit(0, relu=True)), relu=True)
NODE = Plan(
    (Unit(0, THREE), Unit(1, wide=THREE, relu=True), *(Unit(k, projected=False) for k in (2, 3, 1))), summed=True
)
REDUCED = Plan((Unit(0, HALVING, relu=True), Unit(0, relu=True, factorized=True)), summed=True)
EVERY_UNIT = Program(
    1, (Step(POOLS, (0,)), Step(FIRST_HALVES, (0,)), Step(NODE, (3, 4, 1, 2)), Step(REDUCED, (5,))), (6,)
)
PASSING = Program(
    1,
    (
        Weave((0,), 2, mixes=False),
        Pooled((1,), Pool("max", 3, 1, 1)),
        Step(Plan((Unit(0, THREE, relu=True), Unit(1, projected=False)), summed=True), (1, 2)),
        Weave((3, 0), 2, weighted=True),
    ),
    (4,),
)


class Given:
    """What a program is given, of doubles."""

    def __init__(self, program: Program, weights: list[int], projections: list[tuple[int, ...]], mixing: int) -> None:
        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

        channels = projections[0][0]
        wide = 2 * channels if any(isinstance(step, Weave) for step in program.steps) else channels
        self.program = program
        self.mixing, self.x = random(mixing), random(2, wide, 6, 4)
        self.weights = [random(channels, 1, k, k) for k in weights]
        self.projections = [random(*shape) for shape in projections]
        self.all = [self.mixing, self.x, *self.weights, *self.projections]

    def output(self) -> Tensor:
        return run_program(self.program, [self.x], self.weights, self.projections, self.mixing)[0]

    def first(self, *by: Tensor) -> list[Tensor]:
        """Gradients that may be differentiated; the function is not quadratic in the output, nor alike everywhere."""
        y = self.output()
        towards = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        return list(torch.autograd.grad((y.sin() * towards).sum(), by or self.all, create_graph=True))


def every_unit() -> Given:
    torch.manual_seed(0)
    return Given(EVERY_UNIT, [3, 3, 3], [(2, 2, 1, 1)] * 3 + [(2, 2, 3, 3)] + [(2, 2, 1, 1)] * 2, 7)


def passing() -> Given:
    torch.manual_seed(0)
    return Given(PASSING, [3], [(2, 2, 1, 1)], 3)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What second passes ask of the kernels."""
    seen: list[tuple[str, Any]] = []

    def watched(name: str, jobs: Any, dtype: torch.dtype) -> None:
        seen.extend((name, job) for job in jobs)
        call(name, jobs, dtype)

    for module in ("tangents", "pushed", "pulled"):
        monkeypatch.setattr(f"archgrad.fast.native.{module}.call", watched)
    return seen


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets second derivatives be those of PyTorch's operations."""

    def instead(ran: Any, *given: Any, **options: Any) -> Any:
        return second_backward.composed_gradients(ran.aliased(), *given, **options)

    def switch() -> None:
        monkeypatch.setattr("archgrad.fast.native.program_function.differentiable_gradients", instead)

    return switch


@pytest.mark.parametrize("given", [every_unit, passing])
@pytest.mark.parametrize("first", ["all", "mixing", "x", "weights"])
def test_second_derivatives_are_those_of_the_operations(given, first, composed, passes):
    found = []
    for other in (False, True):
        operands = given()
        if other:
            composed()
        by = getattr(operands, first)
        gradients = operands.first(*(by if isinstance(by, list) else [by]))
        torch.manual_seed(1)
        directions = [torch.randn(g.shape, dtype=g.dtype) for g in gradients]
        passes.clear()
        found.append(torch.autograd.grad(gradients, operands.all, directions, materialize_grads=True))
        assert bool(passes) is not other
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("given", [every_unit, passing])
def test_second_derivatives_agree_with_finite_differences(given):
    operands = given()

    def as_one(mixing: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
        n = len(operands.weights)
        return run_program(operands.program, [x], rest[:n], rest[n:], mixing)[0]

    assert torch.autograd.gradgradcheck(as_one, operands.all, fast_mode=True)


@pytest.mark.parametrize("given", [every_unit, passing])
def test_third_derivatives_are_those_of_the_operations(given, composed):
    found = []
    for other in (False, True):
        operands = given()
        if other:
            composed()
        for _ in range(2):
            gradients = operands.first()
            gradients = torch.autograd.grad(sum(g.cos().sum() for g in gradients), operands.all, create_graph=True)
        found.append(torch.autograd.grad(sum(g.cos().sum() for g in gradients), operands.all))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


def test_only_what_the_engine_asks_for_is_computed(passes):
    operands = every_unit()
    gradients = operands.first(*operands.weights, *operands.projections)
    loss = sum(g.square().sum() for g in gradients)
    everything = torch.autograd.grad(loss, operands.all, retain_graph=True)
    backwards = [job for name, job in passes if name == "backpropagate"]
    assert any(job.d_weight for job in backwards)
    assert any(job.d_projection for job in backwards)
    passes.clear()
    (alone,) = torch.autograd.grad(loss, operands.mixing)
    backwards = [job for name, job in passes if name == "backpropagate"]
    assert backwards
    assert not any(job.d_weight or job.d_projection for job in backwards)
    torch.testing.assert_close(alone, everything[0], rtol=1e-12, atol=1e-12)


def test_an_engine_that_does_not_say_what_it_asks_for_gets_everything(monkeypatch, passes):
    operands = every_unit()
    expected = torch.autograd.grad(sum(g.square().sum() for g in operands.first()), operands.mixing)
    passes.clear()

    def silent(node: Any) -> bool:
        raise RuntimeError

    monkeypatch.setattr(torch._C, "_will_engine_execute_node", silent)
    found = torch.autograd.grad(sum(g.square().sum() for g in operands.first()), operands.mixing)
    assert any(job.d_weight for name, job in passes if name == "backpropagate")
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradients_that_are_not_differentiated_again_cost_no_second_pass(passes):
    operands = every_unit()
    kept = operands.first()
    assert not passes
    plain = torch.autograd.grad(operands.output().sum(), operands.all)
    assert len(kept) == len(plain)
    assert not passes
