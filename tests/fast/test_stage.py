"""A stage by the compiled kernels, against the same computed from PyTorch's operations."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archgrad.fast.depthwise import Geometry
from archgrad.fast.native import Plan, Pool, Unit, library, run, takes, understands
from archgrad.fast.native.composed import compose_stage
from archgrad.fast.native.native_passes import POOLS
from instruction_sets import EXAMPLES, LEVEL, run_with_level, with_threads

pytestmark = pytest.mark.usefixtures("built")

CONVOLUTIONS = {
    "3": (3, Geometry((1, 1), (1, 1))),
    "5": (5, Geometry((1, 1), (2, 2))),
    "7": (7, Geometry((1, 1), (3, 3))),
    "3, dilated": (3, Geometry((1, 1), (2, 2), (2, 2))),
    "5, dilated": (5, Geometry((1, 1), (4, 4), (2, 2))),
}
HALVING = {
    "3": (3, Geometry((2, 2), (1, 1))),
    "5": (5, Geometry((2, 2), (2, 2))),
    "7": (7, Geometry((2, 2), (3, 3))),
    "3, dilated": (3, Geometry((2, 2), (2, 2), (2, 2))),
    "5, dilated": (5, Geometry((2, 2), (4, 4), (2, 2))),
}


class Stage:
    """Random arguments for a plan, and what they give in both ways."""

    def __init__(
        self,
        plan: Plan,
        kernels: list[int],
        *,
        channels: int = 3,
        outputs: int = 4,
        size: tuple[int, int] = (5, 6),
        fixed: bool = False,
        dtype: torch.dtype = torch.float64,
        window: int = 3,
    ) -> None:
        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=dtype, requires_grad=True)

        terms, values = len(plan.normalised), len(plan.values)
        self.plan = plan
        self.inputs = [random(2, channels, *size) for _ in range(1 + max(unit.input for unit in plan.units))]
        self.weights = [random(channels, 1, k, k) for k in kernels]
        shapes = [(window, window) if unit.wide else () for unit in plan.units if unit.projected]
        self.projections = [random(outputs, channels, *shape) for shape in shapes]
        self.scale = random(terms, outputs) if terms else None
        self.shift = random(1 if plan.summed else terms, outputs) if terms else None
        self.mixing = random(values) if values else None
        self.fixed = None
        if fixed and terms:
            self.fixed = (torch.randn(terms, outputs, dtype=dtype), torch.rand(terms, outputs, dtype=dtype) + 0.5)

    @property
    def arguments(self) -> list[Tensor]:
        given = [*self.inputs, *self.weights, *self.projections, self.scale, self.shift, self.mixing]
        return [x for x in given if x is not None]

    def by_kernels(self) -> list[Tensor]:
        return run(
            self.plan, self.inputs, self.weights, self.projections, self.scale,
            shift=self.shift, fixed=self.fixed, mixing=self.mixing,
        )[0]  # fmt: skip

    def by_operations(self) -> list[Tensor]:
        arguments = [self.scale, self.shift, self.mixing, *self.inputs, *self.weights, *self.projections]
        return compose_stage(self.plan, arguments, self.fixed)

    def function(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """By the kernels, as a function of `arguments`, for gradcheck."""
        n, w, p = len(self.inputs), len(self.weights), len(self.projections)
        inputs, weights, projections = arguments[:n], arguments[n : n + w], arguments[n + w : n + w + p]
        rest = iter(arguments[n + w + p :])
        scale, shift, mixing = (None if x is None else next(rest) for x in (self.scale, self.shift, self.mixing))
        found, _ = run(self.plan, inputs, weights, projections, scale, shift=shift, fixed=self.fixed, mixing=mixing)
        return tuple(found)

    def check(self, tolerance: float) -> None:
        """Outputs and the gradients by all arguments are the same."""
        found, expected = self.by_kernels(), self.by_operations()
        towards = [torch.randn_like(y) for y in expected]
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(
            torch.autograd.grad(found, self.arguments, towards),
            torch.autograd.grad(expected, self.arguments, towards),
            rtol=tolerance,
            atol=10 * tolerance,
        )


def leaving(convolutions: dict[str, tuple[int, Geometry]]) -> tuple[Plan, list[int]]:
    """What leaves a state: everything reads one input."""
    units = [Unit(0, geometry, relu=True) for _, geometry in convolutions.values()]
    return Plan(tuple(units), relu=True), [k for k, _ in convolutions.values()]


def entering(*, with_values: bool) -> tuple[Plan, list[int]]:
    """What enters a node: convolutions of both kinds, projections alone, values, in any order and of shared inputs."""
    units = [
        Unit(0, CONVOLUTIONS["3"][1]),
        Unit(1),
        Unit(2, CONVOLUTIONS["3, dilated"][1], relu=True),
        Unit(1, relu=True),
        Unit(2, CONVOLUTIONS["5, dilated"][1], relu=True),
        Unit(0, CONVOLUTIONS["5"][1]),
        Unit(1, relu=True, wide=CONVOLUTIONS["3"][1]),
        Unit(2, wide=CONVOLUTIONS["3, dilated"][1]),
    ]
    if with_values:
        units.insert(0, Unit(2, projected=False))
        units.insert(3, Unit(3, projected=False))
        units.append(Unit(0, projected=False))
    return Plan(tuple(units), summed=True), [3, 3, 5, 5]


def halving(*, summed: bool) -> tuple[Plan, list[int]]:
    """What enters a node of a reduction cell; the same input is read before, between and after the convolutions."""
    units = [
        Unit(0, relu=True, factorized=True),
        Unit(0, HALVING["3, dilated"][1], relu=True),
        Unit(1, HALVING["5, dilated"][1], relu=True),
        Unit(1, relu=True, factorized=True),
        Unit(0, factorized=True),
        Unit(0, HALVING["5"][1], relu=True),
    ]
    return Plan(tuple(units), relu=not summed, summed=summed), [3, 5, 5]


@given(
    convolutions=st.sampled_from([CONVOLUTIONS, HALVING]),
    channels=st.integers(1, 20),
    outputs=st.integers(1, 20),
    height=st.integers(2, 12),
    width=st.integers(2, 12),
    fixed=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=EXAMPLES)
def test_what_leaves_a_state_is_that_of_operations(convolutions, channels, outputs, height, width, fixed, seed):
    torch.manual_seed(seed)
    plan, kernels = leaving(convolutions)
    Stage(plan, kernels, channels=channels, outputs=outputs, size=(height, width), fixed=fixed).check(1e-9)


@given(
    with_values=st.booleans(),
    channels=st.integers(1, 20),
    height=st.integers(2, 12),
    width=st.integers(2, 12),
    fixed=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=EXAMPLES)
def test_what_enters_a_node_is_that_of_operations(with_values, channels, height, width, fixed, seed):
    torch.manual_seed(seed)
    plan, kernels = entering(with_values=with_values)
    outputs = channels if with_values else channels + 1
    Stage(plan, kernels, channels=channels, outputs=outputs, size=(height, width), fixed=fixed).check(1e-9)


@given(
    channels=st.integers(1, 20),
    half=st.integers(1, 10),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    summed=st.booleans(),
    fixed=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=EXAMPLES)
def test_factorized_reductions_beside_convolutions(channels, half, height, width, summed, fixed, seed):
    torch.manual_seed(seed)
    plan, kernels = halving(summed=summed)
    size = (max(height, 2), width) if not fixed else (height, width)
    Stage(plan, kernels, channels=channels, outputs=2 * half, size=size, fixed=fixed).check(1e-9)


def dense(geometry: Geometry, *, relu: bool, summed: bool) -> Plan:
    units = Unit(0, relu=relu, wide=geometry), Unit(0, wide=geometry), Unit(1, wide=geometry)
    return Plan(units, relu=not summed, summed=summed)


@given(
    channels=st.integers(1, 40),
    outputs=st.integers(1, 40),
    height=st.integers(2, 40),
    width=st.integers(2, 20),
    relu=st.booleans(),
    summed=st.booleans(),
    fixed=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=EXAMPLES)
def test_dense_convolutions_of_3_pixels_are_those_of_operations(
    channels, outputs, height, width, relu, summed, fixed, seed
):
    torch.manual_seed(seed)
    plan = dense(CONVOLUTIONS["3"][1], relu=relu, summed=summed)
    Stage(plan, [], channels=channels, outputs=outputs, size=(height, width), fixed=fixed).check(1e-9)


@given(
    channels=st.integers(1, 40),
    outputs=st.integers(1, 40),
    window=st.integers(1, 5),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 8),
    height=st.integers(10, 20),
    width=st.integers(10, 20),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=EXAMPLES)
def test_other_dense_convolutions_are_those_of_operations(
    channels, outputs, window, stride, dilation, padding, height, width, seed
):
    torch.manual_seed(seed)
    geometry = Geometry((stride, stride), (min(padding, dilation * (window - 1)),) * 2, (dilation,) * 2)
    assert understands(geometry, (window, window))
    plan = dense(geometry, relu=True, summed=True)
    Stage(plan, [], channels=channels, outputs=outputs, size=(height, width), window=window).check(1e-9)


@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    channels=st.integers(1, 20),
    height=st.integers(4, 12),
    width=st.integers(4, 12),
    ties=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=EXAMPLES)
def test_pools_are_those_of_operations(kernel, stride, channels, height, width, ties, seed):
    torch.manual_seed(seed)
    kinds = [Pool(kind, kernel, stride, padding) for kind in POOLS for padding in {0, kernel // 2}]
    for kind in kinds:
        plan = Plan((Unit(0, projected=False, pool=kind), Unit(0, projected=False, pool=kind)))
        stage = Stage(plan, [], channels=channels, outputs=channels, size=(height, width))
        if ties:
            stage.inputs[0].data.round_()
        stage.check(1e-9)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_every_padding(kernel, stride, dilation):
    torch.manual_seed(0)
    for padding in range(dilation * (kernel - 1) + 1):
        geometry = Geometry((stride, stride), (padding, padding), (dilation, dilation))
        assert understands(geometry, (kernel, kernel))
        for size in ((10, 11), (12, 10)):
            Stage(Plan((Unit(0, geometry, relu=True),)), [kernel], size=size).check(1e-9)
            Stage(Plan((Unit(0, relu=True, wide=geometry),)), [], window=kernel, size=size).check(1e-9)


def test_values_alone():
    plan = Plan((Unit(1, projected=False), Unit(0, projected=False), Unit(1, projected=False)), summed=True)
    Stage(plan, []).check(1e-12)


@pytest.mark.parametrize("channels", [8, 16, 24, 36])
def test_single_precision(channels):
    torch.manual_seed(0)
    for plan, kernels in (
        leaving(CONVOLUTIONS), leaving(HALVING), entering(with_values=True), halving(summed=True)
    ):  # fmt: skip
        Stage(plan, kernels, channels=channels, outputs=channels, size=(16, 16), dtype=torch.float32).check(5e-3)


@pytest.mark.parametrize("channels", [3, 16])
def test_stages_that_no_cache_holds(channels):
    """What they write goes past the caches, line by line where pixels fill lines."""
    torch.manual_seed(0)
    size = (128, 130) if channels == 16 else (300, 301)
    for plan, kernels in (leaving(CONVOLUTIONS), entering(with_values=True), halving(summed=True)):
        outputs = channels + channels % 2 if plan.units[0].factorized else channels
        Stage(plan, kernels, channels=channels, outputs=outputs, size=size).check(1e-9)


@pytest.mark.parametrize("fixed", [False, True], ids=["batch", "fixed"])
@pytest.mark.parametrize("kind", ["leaving", "entering", "halving"])
def test_first_and_second_derivatives_agree_with_finite_differences(kind, fixed):
    torch.manual_seed(1)
    chosen = {name: CONVOLUTIONS[name] for name in ("3", "3, dilated")}
    plan, kernels = {
        "leaving": lambda: leaving(chosen),
        "entering": lambda: entering(with_values=True),
        "halving": lambda: halving(summed=True),
    }[kind]()
    stage = Stage(plan, kernels, channels=2, outputs=2, size=(3, 3), fixed=fixed)
    assert torch.autograd.gradcheck(stage.function, stage.arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(stage.function, stage.arguments, fast_mode=True)


def test_first_and_second_derivatives_of_pools_agree_with_finite_differences():
    torch.manual_seed(1)
    units = [Unit(0, projected=False, pool=Pool(kind, 3, 2, 1)) for kind in POOLS]
    stage = Stage(Plan(tuple(units)), [], channels=2, outputs=2, size=(4, 3))
    assert torch.autograd.gradcheck(stage.function, stage.arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(stage.function, stage.arguments, fast_mode=True)


def test_only_what_is_needed_gets_a_gradient():
    torch.manual_seed(0)
    plan, kernels = entering(with_values=True)
    stage = Stage(plan, kernels, channels=4, outputs=4)
    for chosen in ([stage.scale, stage.mixing], stage.weights, [stage.inputs[2]], stage.projections):
        for x in stage.arguments:
            x.requires_grad_(any(x is y for y in chosen))
        found = torch.autograd.grad(stage.by_kernels()[0].square().sum(), chosen)
        torch.testing.assert_close(found, torch.autograd.grad(stage.by_operations()[0].square().sum(), chosen))


def test_tensors_may_be_kept_elsewhere_between_the_passes():
    """Hooks that move saved tensors away bring them back in another memory format."""
    torch.manual_seed(0)
    for plan, kernels in (leaving(CONVOLUTIONS), entering(with_values=True)):
        stage = Stage(plan, kernels, channels=4, outputs=4)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x.contiguous().clone(), lambda x: x):
            found = stage.by_kernels()
        towards = [torch.randn_like(y) for y in found]
        torch.testing.assert_close(
            torch.autograd.grad(found, stage.arguments, towards),
            torch.autograd.grad(stage.by_operations(), stage.arguments, towards),
        )


def test_an_output_that_nothing_reads_has_no_say():
    torch.manual_seed(0)
    plan, kernels = leaving(CONVOLUTIONS)
    stage = Stage(plan, kernels)
    for differentiable in (False, True):
        found, expected = (
            torch.autograd.grad(f()[1].square().sum(), stage.inputs, create_graph=differentiable)
            for f in (stage.by_kernels, stage.by_operations)
        )
        torch.testing.assert_close(found, expected)


def test_what_is_not_a_number_is_not_hidden():
    pools = tuple(Unit(0, projected=False, pool=Pool(kind, 3, 1, 1)) for kind in ("max", "mean"))
    stage = Stage(Plan(pools), [], outputs=3)
    stage.inputs[0].data[0, 0, 2, 2] = float("nan")
    assert all(y.isnan().any() for y in stage.by_kernels())
    plan, kernels = leaving(CONVOLUTIONS)
    stage = Stage(plan, kernels)
    stage.inputs[0].data[0, 0, 2, 2] = float("nan")
    assert all(y.isnan().any() for y in stage.by_kernels())


@pytest.mark.parametrize("channels", [3, 16])
def test_statistics_far_from_zero_and_from_the_first_pixels_are_precise(channels):
    torch.manual_seed(0)
    x = 50 + torch.randn(4, channels, 24, 24)
    x[:, :, 0] -= 4
    ones = torch.ones(2, channels)
    _, found = run(Plan((Unit(0), Unit(0))), [x], [], [torch.eye(channels), 3 * torch.eye(channels)], ones)
    for mean, variance, factor in zip(*found, (1, 3), strict=True):
        exact = torch.var_mean(factor * x.double(), (0, 2, 3), correction=0)
        torch.testing.assert_close((variance.double(), mean.double()), exact, rtol=2e-5, atol=0)


def test_threads_do_not_change_the_result():
    torch.manual_seed(0)
    plan, kernels = leaving(CONVOLUTIONS)
    stage = Stage(plan, kernels)

    def compute():
        outputs = stage.by_kernels()
        return [*outputs, *torch.autograd.grad(sum(y.square().sum() for y in outputs), stage.arguments)]

    first, *others = with_threads(compute)
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(LEVEL is not None, reason="this is the process of another level")
@pytest.mark.parametrize("level", ["default", "avx2"])
def test_the_instruction_sets_agree(level):
    """The others than this machine's best are tried in a process that is told to use no more."""
    done = run_with_level(level, __file__)
    assert done.returncode == 0, done.stdout


def test_what_the_kernels_leave_to_operations():
    x = torch.zeros(1, 2, 3, 3)
    assert takes(x)
    assert not takes(x.half())
    assert not takes(x, x.double())
    assert not takes(x[:0])
    assert not takes(x.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not takes(x)
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False):
        assert not takes(x)  # it could not see them
    assert understands(Geometry((2, 2), (1, 1)), (3, 3))
    assert not understands(Geometry((1, 2), (1, 1)), (3, 3))
    assert not understands(Geometry((1, 1), (1, 1)), (3, 5))
    assert not understands(Geometry((3, 3), (1, 1)), (3, 3))
    assert not understands(Geometry((1, 1), (3, 3)), (3, 3))  # beyond what reads the image


def test_kernels_that_cannot_be_loaded_are_done_without(monkeypatch):
    """As on a machine without a compiler, which may lack OpenMP's library, too."""

    def fails(path):
        raise OSError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(library.ctypes, "CDLL", fails)
    library._library.cache_clear()
    try:
        assert not library.is_built()
        assert library.why_missing() == "cannot be loaded (libgomp.so.1: cannot open shared object file)"
    finally:
        monkeypatch.undo()
        library._library.cache_clear()
    assert library.why_missing() == ""


def test_a_build_of_other_sources_is_not_used(monkeypatch):
    monkeypatch.setattr(library, "_INTERFACE", -1)
    library._library.cache_clear()
    try:
        with pytest.warns(UserWarning, match="Install archgrad again"):
            assert not library.is_built()
        assert library.why_missing() == "were built from other sources"
    finally:
        monkeypatch.undo()
        library._library.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert library.is_built()
