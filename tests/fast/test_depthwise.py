"""The depthwise convolution against the library's own, to any order of derivative."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from archgrad.fast import accelerate
from archgrad.fast import depthwise as module
from archgrad.fast.depthwise import FastDepthwiseConv2d, Geometry, depthwise, fan_out

KINDS = ((3, 1, 1), (5, 1, 1), (7, 1, 1), (3, 2, 1), (5, 2, 1), (3, 1, 2), (5, 1, 2), (3, 2, 2), (5, 2, 2))
"""(kernel, stride, dilation)."""


def geometry(kernel: int, stride: int, dilation: int) -> Geometry:
    padding = dilation * (kernel - 1) // 2
    return Geometry((stride, stride), (padding, padding), (dilation, dilation))


def reference(x: torch.Tensor, w: torch.Tensor, g: Geometry) -> torch.Tensor:
    return F.conv2d(x, w, None, g.stride, g.padding, g.dilation, w.shape[0])


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@given(
    kind=st.sampled_from(KINDS),
    channels=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40)
def test_output_and_gradients_equal_the_library_s(kind, channels, height, width, channels_last, seed):
    torch.manual_seed(seed)
    g = geometry(*kind)
    x = random(2, channels, height, width)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    x.requires_grad_()
    w = random(channels, 1, kind[0], kind[0]).requires_grad_()
    ours, theirs = depthwise(x, w, g), reference(x, w, g)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    upstream = torch.randn_like(theirs)
    for a, b in zip(
        torch.autograd.grad(ours, (x, w), upstream), torch.autograd.grad(theirs, (x, w), upstream), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_first_and_second_derivatives_agree_with_finite_differences(kind):
    torch.manual_seed(0)
    g = geometry(*kind)
    x, w = random(1, 2, 5, 4).requires_grad_(), random(2, 1, kind[0], kind[0]).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: depthwise(x, w, g), (x, w))
    assert torch.autograd.gradgradcheck(lambda x, w: depthwise(x, w, g), (x, w))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w, g, y: module._Spread.apply(y, w, g, x.shape),
        lambda x, w, g, y: module._Tally.apply(x, y, g, w.shape),
    ],
    ids=["spread", "tally"],
)
@pytest.mark.parametrize("kind", [(3, 1, 2), (5, 1, 1), (3, 2, 1)])
def test_the_gradients_are_differentiable_twice_themselves(function, kind):
    torch.manual_seed(0)
    g = geometry(*kind)
    x, w = random(1, 1, 4, 5).requires_grad_(), random(1, 1, kind[0], kind[0]).requires_grad_()
    y = torch.randn_like(reference(x, w, g)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w, y: function(x, w, g, y), (x, w, y))
    assert torch.autograd.gradgradcheck(lambda x, w, y: function(x, w, g, y), (x, w, y))


def test_a_fan_of_convolutions_equals_one_after_the_other():
    torch.manual_seed(0)
    x = random(2, 3, 7, 6).to(memory_format=torch.channels_last).requires_grad_()
    kinds = [(3, 1, 1), (5, 1, 1), (3, 1, 2), (5, 1, 2), (5, 1, 1)]
    geometries = [geometry(*kind) for kind in kinds]
    weights = [random(3, 1, k, k).requires_grad_() for k, _, _ in kinds]
    fan = fan_out(x, weights, geometries)
    single = [reference(x, w, g) for w, g in zip(weights, geometries, strict=True)]
    upstream = [torch.randn_like(y) for y in single]
    ours = torch.autograd.grad(fan, [x, *weights], upstream)
    theirs = torch.autograd.grad(single, [x, *weights], upstream)
    for a, b in zip([*fan, *ours], [*single, *theirs], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_fan_of_convolutions_can_be_differentiated_twice():
    torch.manual_seed(0)
    x = random(1, 1, 4, 3).requires_grad_()
    weights = [random(1, 1, 3, 3).requires_grad_() for _ in range(2)]
    geometries = [geometry(3, 1, 1), geometry(3, 1, 2)]
    assert torch.autograd.gradcheck(lambda x, *w: fan_out(x, w, geometries), (x, *weights))
    assert torch.autograd.gradgradcheck(lambda x, *w: fan_out(x, w, geometries), (x, *weights))


def test_a_fan_leaves_unused_outputs_and_fixed_weights_out():
    x = random(1, 2, 4, 4).requires_grad_()
    used, unused, fixed = random(2, 1, 3, 3).requires_grad_(), random(2, 1, 3, 3).requires_grad_(), random(2, 1, 3, 3)
    first, _, third = fan_out(x, [used, unused, fixed], [geometry(3, 1, 1)] * 3)
    dx, d_used, d_unused = torch.autograd.grad(first.sum() + third.sum(), [x, used, unused], allow_unused=True)
    assert d_unused is None
    assert d_used.shape == used.shape
    torch.testing.assert_close(
        dx, torch.autograd.grad((reference(x, used, geometry(3, 1, 1)) + third.detach()).sum(), x)[0] + dx_of(fixed, x)
    )


def dx_of(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(reference(x, w, geometry(3, 1, 1)).sum(), x)[0]


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 4, 3, bias=False),
        nn.Conv2d(4, 8, 3, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="reflect", bias=False),
    ],
    ids=["dense", "multiplier", "reflect"],
)
def test_only_plain_depthwise_convolutions_have_a_geometry(convolution):
    assert Geometry.of(convolution) is None
    assert Geometry.of(nn.Conv2d(4, 4, 3, groups=4, dilation=2, bias=False)) == Geometry(dilation=(2, 2))


@pytest.mark.parametrize("later", [False, True])
def test_a_bias_is_added(later):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, padding=1, bias=not later)).double()
    x, bias = torch.randn(2, 4, 5, 5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    accelerate(network, "torch")
    assert isinstance(network[0], FastDepthwiseConv2d) == later
    network[0].bias = nn.Parameter(bias)
    torch.testing.assert_close(network(x), F.conv2d(x, network[0].weight, bias, padding=1, groups=4))
