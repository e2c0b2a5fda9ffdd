"""Laws of the operations of the published spaces, written out on tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.errors import SpaceError
from archgrad.operations import (
    DARTS_OPERATIONS,
    DARTS_PRIMITIVES,
    DropPath,
    FactorizedReduce,
    Pool,
    PoolBN,
    ReLUConvBN,
    SepConv,
    Zero,
)


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_candidates_of_the_papers_edges_are_in_the_authors_order() -> None:
    assert DARTS_PRIMITIVES == (
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    )
    assert set(DARTS_PRIMITIVES) <= set(DARTS_OPERATIONS)


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (1, 1), (2, 3), (5, 8)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", DARTS_OPERATIONS)
def test_every_operation_gives_the_ceiling_of_size_over_stride(name: str, stride: int, size: tuple[int, int]) -> None:
    operation = DARTS_OPERATIONS[name](4, stride, True).double().eval()
    output = operation(image(2, 4, *size))
    assert output.shape == (2, 4, -(-size[0] // stride), -(-size[1] // stride))
    assert bool(torch.isfinite(output).all())


@pytest.mark.parametrize("name", DARTS_OPERATIONS)
@pytest.mark.parametrize("affine", [True, False])
def test_every_norm_follows_the_affine_option_and_no_convolution_has_a_bias(name: str, affine: bool) -> None:
    for stride in (1, 2):
        operation = DARTS_OPERATIONS[name](4, stride, affine)
        norms = [m for m in operation.modules() if isinstance(m, nn.BatchNorm2d)]
        assert all(m.affine is affine for m in norms)
        assert all(m.bias is None for m in operation.modules() if isinstance(m, nn.Conv2d))


def test_no_connection_is_zero_with_a_gradient_of_zero() -> None:
    x = image(2, 3, 5, 5).requires_grad_()
    y = Zero(2)(x)
    assert y.shape == (2, 3, 3, 3)
    assert bool((y == 0).all())
    (gradient,) = torch.autograd.grad(y.sum(), [x])
    assert bool((gradient == 0).all())


def test_the_average_pool_leaves_the_padding_out_of_the_count() -> None:
    # a constant image stays constant at its border too
    ones = torch.ones(1, 1, 4, 4)
    assert torch.equal(Pool("avg", 1)(ones), ones)
    assert torch.equal(Pool("avg", 2)(ones), ones[..., ::2, ::2])


def test_pools_of_the_search_network_end_in_a_norm_without_parameters() -> None:
    pool = PoolBN("max", 4, 1)
    assert list(pool.parameters()) == []
    assert torch.allclose(pool(image(8, 4, 6, 6).float()).mean((0, 2, 3)), torch.zeros(4), atol=1e-6)


def test_the_skip_is_an_identity_unless_it_is_strided() -> None:
    assert isinstance(DARTS_OPERATIONS["skip_connect"](4, 1, True), nn.Identity)
    assert isinstance(DARTS_OPERATIONS["skip_connect"](4, 2, True), FactorizedReduce)


@pytest.mark.parametrize("size", [(8, 8), (6, 4)])
def test_the_factorized_reduction_reads_even_and_odd_pixels(size: tuple[int, int]) -> None:
    # the authors: convolutions with stride 2 of relu(x) and of relu(x) shifted by one pixel, joined, normalised
    layer = FactorizedReduce(3, 4).double().train()
    x = image(2, 3, *size)
    read = F.relu(x)
    halves = [
        F.conv2d(read, layer.conv_1.weight, stride=2),
        F.conv2d(read[:, :, 1:, 1:], layer.conv_2.weight, stride=2),
    ]
    expected = F.batch_norm(torch.cat(halves, 1), None, None, layer.bn.weight, layer.bn.bias, training=True)
    assert torch.allclose(layer(x), expected, rtol=1e-12)


@pytest.mark.parametrize("size", [(7, 8), (8, 7), (5, 5), (1, 1), (1, 4)])
def test_an_odd_size_reads_zero_beyond_its_end(size: tuple[int, int]) -> None:
    layer = FactorizedReduce(3, 4).double().eval()
    x = image(2, 3, *size)
    read = F.pad(F.relu(x), (0, 2, 0, 2))
    height, width = -(-size[0] // 2), -(-size[1] // 2)
    halves = [
        F.conv2d(read, layer.conv_1.weight, stride=2),
        F.conv2d(read[:, :, 1:, 1:], layer.conv_2.weight, stride=2),
    ]
    expected = layer.bn(torch.cat([half[:, :, :height, :width] for half in halves], 1))
    assert torch.allclose(layer(x), expected, rtol=1e-12)


def test_the_factorized_reduction_needs_even_channels() -> None:
    with pytest.raises(SpaceError, match="even number of output channels, but got 5"):
        FactorizedReduce(4, 5)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8])
def test_the_factorized_reduction_of_few_channels_in_channels_last_keeps_to_its_memory(channels: int) -> None:
    # A strided pointwise convolution of up to 4 channels in channels_last overflows a buffer in oneDNN (torch 2.14);
    # the heap is then corrupt and the process ends sooner or later. Here its gradient must equal the contiguous one.
    torch.manual_seed(0)  # after BatchNorm this gradient is a difference of large numbers
    layer = FactorizedReduce(channels, 4)
    x = image(2, channels, 8, 8).float()
    gradients = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        layer.to(memory_format=memory_format)
        for _ in range(20):
            loss = layer(x.contiguous(memory_format=memory_format)).square().sum()
            gradients.append(torch.autograd.grad(loss, list(layer.parameters())))
    for a, b in zip(gradients[0], gradients[-1], strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("build", "kernels"),
    [
        (lambda: SepConv(4, 4, 3, 2), [(3, 2, 4), (1, 1, 1), (3, 1, 4), (1, 1, 1)]),
        (lambda: SepConv(4, 4, 7, 1), [(7, 1, 4), (1, 1, 1), (7, 1, 4), (1, 1, 1)]),
        (lambda: DARTS_OPERATIONS["dil_conv_5x5"](4, 2, True), [(5, 2, 4), (1, 1, 1)]),
        (lambda: ReLUConvBN(4, 4, 1), [(1, 1, 1)]),
    ],
)
def test_convolutions_have_the_published_kernels_strides_and_groups(
    build: Callable[[], nn.Module], kernels: list[tuple[int, int, int]]
) -> None:
    found = [m for m in build().modules() if isinstance(m, nn.Conv2d)]
    assert [(m.kernel_size[0], m.stride[0], m.groups) for m in found] == kernels


def test_a_dilated_convolution_is_dilated_by_two() -> None:
    (depthwise, _) = (m for m in DARTS_OPERATIONS["dil_conv_3x3"](4, 1, True).modules() if isinstance(m, nn.Conv2d))
    assert depthwise.dilation == (2, 2)
    assert depthwise.padding == (2, 2)


class TestDropPath:
    def test_whole_samples_are_zero_or_scaled_by_one_over_the_kept_share(self) -> None:
        torch.manual_seed(0)
        path = DropPath(0.2).train()
        x = image(4000, 2, 1, 3)
        ratio = path(x) / x
        flat = ratio.flatten(1)
        assert torch.allclose(flat, flat[:, :1].expand(-1, 6), rtol=1e-12)
        kept = flat[:, 0] > 0
        assert torch.allclose(flat[kept], torch.full((int(kept.sum()), 6), 1.25, dtype=torch.float64), rtol=1e-12)
        # standard error sqrt(.2 * .8 / 4000) = 0.0063
        assert kept.double().mean().item() == pytest.approx(0.8, abs=0.025)

    def test_evaluation_and_a_rate_of_zero_change_nothing(self) -> None:
        x = image(3, 2)
        assert DropPath(0.9).eval()(x) is x
        assert DropPath(0.0).train()(x) is x

    def test_a_rate_of_one_drops_every_sample(self) -> None:
        assert torch.equal(DropPath(1.0).train()(image(3, 2)), torch.zeros(3, 2, dtype=torch.float64))

    def test_the_gradient_is_scaled_as_the_value_is(self) -> None:
        torch.manual_seed(0)
        x = image(6, 2).requires_grad_()
        y = DropPath(0.5).train()(x)
        (gradient,) = torch.autograd.grad(y.sum(), [x])
        assert torch.allclose(gradient * x, y)

    def test_repr_shows_the_rate(self) -> None:
        assert "p=0.3" in repr(DropPath(0.3))
