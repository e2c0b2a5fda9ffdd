"""Inverted residuals by the compiled kernels, against the same computed from PyTorch's operations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archgrad.fast.depthwise import Geometry
from archgrad.fast.native import Blend, Inverted, InvertedOperands, blend_inverted
from archgrad.fast.native.inverted import compose_inverted
from instruction_sets import EXAMPLES, LEVEL, run_with_level, with_threads

pytestmark = pytest.mark.usefixtures("built")


class Sum:
    """Random arguments for a sum of blocks, each (M, k), and what they give in both ways."""

    def __init__(
        self,
        *blocks: tuple[int, int],
        channels: int = 3,
        outputs: int = 4,
        size: tuple[int, int] = (5, 6),
        stride: int = 1,
        dilation: int = 1,
        padding: int | None = None,
        expands: bool = True,
        affine: bool = True,
        limit: float | None = None,
        fixed: tuple[bool, bool, bool] = (False, False, False),
        keeps_input: bool = False,
        n_values: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=dtype, requires_grad=True)

        def line(n: int) -> tuple[Tensor, Tensor] | tuple[None, None]:
            return (random(n), random(n)) if affine else (None, None)

        self.x = random(3, channels, *size)
        self.operands, described, self.fixed = [], [], []
        for hidden, kernel in blocks:
            hidden = hidden if expands else channels
            reach = dilation * (kernel - 1) // 2 if padding is None else padding
            geometry = Geometry((stride, stride), (reach, reach), (dilation, dilation))
            described.append(Inverted(geometry, expands, (1e-5, 1e-3, 1e-4), limit))
            first = (random(hidden, channels, 1, 1), *line(hidden)) if expands else (None, None, None)
            second = random(hidden, 1, kernel, kernel), *line(hidden)
            self.operands.append(InvertedOperands(*first, *second, random(outputs, hidden, 1, 1)))
            given = [(torch.randn(n, dtype=dtype), torch.rand(n, dtype=dtype) + 0.5) for n in (hidden, hidden, outputs)]
            self.fixed.append([pair if is_fixed else None for pair, is_fixed in zip(given, fixed, strict=True)])
            out = geometry.output_size(size, (kernel, kernel))
        self.blend = Blend(tuple(described), keeps_input)
        self.scale, self.shift = random(len(blocks), outputs), random(outputs) if affine else None
        self.values = [random(3, outputs, *out) for _ in range(n_values)]
        self.mixing = random(n_values + keeps_input) if n_values + keeps_input else None

    @property
    def every(self) -> list[Tensor | None]:
        operands = [tensor for own in self.operands for tensor in own]
        return [self.scale, self.shift, self.mixing, self.x, *self.values, *operands]

    @property
    def arguments(self) -> list[Tensor]:
        return [t for t in self.every if t is not None]

    def by_kernels(self) -> Tensor:
        return self._blend(self.every)[0]

    def statistics(self) -> list:
        return self._blend(self.every)[1]

    def by_operations(self) -> Tensor:
        return compose_inverted(self.blend, self.every, len(self.values), self.fixed)

    def function(self, *arguments: Tensor) -> Tensor:
        """By the kernels, as a function of `arguments`, for gradcheck."""
        given = iter(arguments)
        return self._blend([None if t is None else next(given) for t in self.every])[0]

    def _blend(self, every: list[Tensor | None]) -> tuple[Tensor, list]:
        scale, shift, mixing, x, *rest = every
        values, flat = rest[: len(self.values)], rest[len(self.values) :]
        operands = [InvertedOperands(*flat[k : k + 7]) for k in range(0, len(flat), 7)]
        return blend_inverted(
            self.blend, x, operands, scale, shift=shift, fixed=self.fixed, values=values, mixing=mixing
        )

    def check(self, tolerance: float = 1e-10) -> None:
        """Output and the gradients by all arguments are the same."""
        found, expected = self.by_kernels(), self.by_operations()
        towards = torch.randn_like(expected)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        ours, theirs = (torch.autograd.grad(y, self.arguments, towards) for y in (found, expected))
        largest = max(g.abs().max().item() for g in theirs)  # beside it, what is zero but for rounding is noise
        torch.testing.assert_close(ours, theirs, rtol=10 * tolerance, atol=tolerance * max(largest, 1))


@given(
    hidden=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    kernel=st.sampled_from([1, 3, 5, 7]),
    channels=st.integers(1, 20),
    outputs=st.integers(1, 20),
    height=st.integers(2, 19),
    width=st.integers(2, 19),
    stride=st.integers(1, 2),
    affine=st.booleans(),
    limit=st.sampled_from([None, 6.0, 0.5]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=2 * EXAMPLES)
def test_blocks_are_those_of_operations(
    hidden, kernel, channels, outputs, height, width, stride, affine, limit, seed
) -> None:
    torch.manual_seed(seed)
    shape = {"channels": channels, "outputs": outputs, "size": (height, width), "stride": stride}
    Sum(*((m, kernel) for m in hidden), **shape, affine=affine, limit=limit, n_values=seed % 3).check()


@given(
    channels=st.integers(1, 20),
    kernel=st.sampled_from([3, 5, 7]),
    height=st.integers(2, 12),
    width=st.integers(2, 12),
    expands=st.booleans(),
    n_values=st.integers(0, 2),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=EXAMPLES)
def test_the_input_and_other_values_are_added(channels, kernel, height, width, expands, n_values, seed) -> None:
    torch.manual_seed(seed)
    shape = {"channels": channels, "outputs": channels, "size": (height, width), "expands": expands}
    Sum((7, 3), (9, kernel), **shape, keeps_input=True, n_values=n_values).check()


@given(
    fixed=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    expands=st.booleans(),
    affine=st.booleans(),
    stride=st.integers(1, 2),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=EXAMPLES)
def test_statistics_may_be_given(fixed, expands, affine, stride, seed) -> None:
    torch.manual_seed(seed)
    fixed = fixed if expands else (False, *fixed[1:])
    Sum((18, 3), (7, 5), expands=expands, affine=affine, stride=stride, fixed=fixed, limit=6.0).check()


@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_every_padding_of_the_depthwise_convolution(kernel, stride, dilation) -> None:
    torch.manual_seed(0)
    for padding in range(dilation * (kernel - 1) + 1):
        for size in ((10, 11), (12, 10)):
            Sum((5, kernel), stride=stride, dilation=dilation, padding=padding, size=size).check()


@pytest.mark.parametrize("channels", [8, 16, 24, 36])
def test_single_precision(channels) -> None:
    torch.manual_seed(0)
    for stride in (1, 2):
        shape = {"channels": channels, "outputs": channels, "size": (16, 16), "stride": stride}
        Sum((3 * channels, 3), (6 * channels, 5), **shape, dtype=torch.float32, keeps_input=stride == 1).check(5e-4)


def test_gammas_of_zero_have_gradients() -> None:
    torch.manual_seed(0)
    blocks = Sum((18, 3), (7, 5))
    for own in blocks.operands:
        own.gamma.data[::2] = 0
        own.depthwise_gamma.data[::3] = 0
    blocks.check()


@pytest.mark.parametrize("fixed", [False, True], ids=["batch", "fixed"])
@pytest.mark.parametrize("stride", [1, 2])
def test_first_and_second_derivatives_agree_with_finite_differences(fixed, stride) -> None:
    torch.manual_seed(1)
    shape = {"channels": 2, "outputs": 2, "size": (4, 3), "stride": stride}
    blocks = Sum((3, 3), **shape, fixed=(fixed,) * 3, keeps_input=stride == 1, n_values=1)
    assert torch.autograd.gradcheck(blocks.function, blocks.arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(blocks.function, blocks.arguments, fast_mode=True)


@pytest.mark.parametrize(
    "chosen",
    [("scale", "mixing"), ("x",), ("shift",), ("values",), *((name,) for name in InvertedOperands._fields)],
    ids="-".join,
)
def test_only_what_is_needed_gets_a_gradient(chosen) -> None:
    torch.manual_seed(0)
    blocks = Sum((18, 3), (7, 5), outputs=3, keeps_input=True, n_values=1)
    wanted = []
    for name in chosen:
        if name in InvertedOperands._fields:
            wanted += [getattr(own, name) for own in blocks.operands]
        else:
            wanted += blocks.values if name == "values" else [getattr(blocks, name)]
    for t in blocks.arguments:
        t.requires_grad_(any(t is other for other in wanted))
    found, expected = (
        torch.autograd.grad(y.square().sum(), wanted) for y in (blocks.by_kernels(), blocks.by_operations())
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_tensors_may_be_kept_elsewhere_between_the_passes() -> None:
    torch.manual_seed(0)
    blocks = Sum((18, 3), (7, 5), outputs=3, keeps_input=True, n_values=1)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.contiguous().clone(), lambda x: x):
        found = blocks.by_kernels()
    found, expected = (torch.autograd.grad(y.square().sum(), blocks.arguments) for y in (found, blocks.by_operations()))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-8)


def test_inputs_in_any_memory_format() -> None:
    torch.manual_seed(0)
    for change in (
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
        lambda x: x[:1].expand_as(x),
    ):
        blocks = Sum((18, 3), (7, 5))
        blocks.x = change(blocks.x.detach()).requires_grad_()
        for k, own in enumerate(blocks.operands):
            moved = {name: change(getattr(own, name).detach()).requires_grad_() for name in ("weight", "projection")}
            blocks.operands[k] = own._replace(**moved)
        blocks.check()


def test_statistics_are_those_of_the_images_between() -> None:
    torch.manual_seed(0)
    blocks = Sum((18, 3), (7, 5))
    for own, (first, second, last), block in zip(
        blocks.operands, blocks.statistics(), blocks.blend.blocks, strict=True
    ):
        image = torch.nn.functional.conv2d(blocks.x, own.expansion)
        for (mean, variance), then in ((first, own.weight), (second, own.projection), (last, None)):
            exact = torch.var_mean(image, (0, 2, 3), correction=0)
            torch.testing.assert_close((variance, mean), exact, rtol=1e-10, atol=1e-10)
            if then is None:
                continue
            eps, (gamma, beta), groups = (block.eps[0], own[1:3], then.shape[0])
            if then is own.projection:
                eps, (gamma, beta), groups = block.eps[1], own[4:6], 1
            image = torch.nn.functional.batch_norm(image, None, None, gamma, beta, True, eps=eps).relu()
            padding = block.geometry.padding if groups > 1 else 0
            image = torch.nn.functional.conv2d(image, then, padding=padding, groups=groups)


def test_statistics_far_from_zero_are_precise() -> None:
    # the first convolution takes the difference of channels that have nearly all in common
    torch.manual_seed(0)
    blocks = Sum((4, 3), channels=4, size=(24, 24), dtype=torch.float32)
    common = torch.randn(3, 1, 24, 24, dtype=torch.float64)
    x = 50 + common + 0.01 * torch.randn(3, 4, 24, 24, dtype=torch.float64)
    blocks.x = x.float()
    own = torch.tensor([[1.0, -1, 0, 0], [0, 1, -1, 0], [0, 0, 1, -1], [1, 0, 0, 0]])
    blocks.operands[0] = blocks.operands[0]._replace(expansion=own[:, :, None, None])
    mean, variance = blocks.statistics()[0][0]
    exact = torch.var_mean(torch.nn.functional.conv2d(blocks.x.double(), own.double()[:, :, None, None]), (0, 2, 3))
    torch.testing.assert_close(mean.double(), exact[1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(variance.double(), exact[0], rtol=1e-3, atol=0)


def test_threads_do_not_change_the_result() -> None:
    torch.manual_seed(0)
    blocks = Sum((18, 3), (7, 5), outputs=3, keeps_input=True)

    def compute() -> list[Tensor]:
        y = blocks.by_kernels()
        return [y, *torch.autograd.grad(y.square().sum(), blocks.arguments)]

    first, *others = with_threads(compute)
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-11, atol=1e-11)


@pytest.mark.skipif(LEVEL is not None, reason="this is the process of another level")
@pytest.mark.parametrize("level", ["default", "avx2"])
def test_inverted_residuals_with_the_other_instruction_sets(level) -> None:
    done = run_with_level(level, __file__)
    assert done.returncode == 0, done.stdout
