"""Pointwise convolution, BatchNorm and mixing weight in one, against the three after each other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archgrad.fast import pointwise
from archgrad.fast.depthwise import Geometry
from archgrad.fast.native import library
from archgrad.fast.pointwise import Term, blend, project_each
from archgrad.fast.sums import added, joined, weighted_total

EPS = 1e-5


@pytest.fixture(params=["kernels", "folded", "kept"])
def way(request, monkeypatch):
    if request.param == "kernels":
        request.getfixturevalue("built")
        return request.param
    monkeypatch.setattr(library, "is_built", lambda: False)
    limit = 1000 if request.param == "folded" else 0
    monkeypatch.setattr(pointwise, "FOLDED_UP_TO", {False: limit, True: limit})
    return request.param


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def inputs(terms: int, c_in: int, c_out: int, height: int, width: int) -> tuple[Tensor, ...]:
    """(scale, shift, *features, *projections), all differentiable."""
    features = [random(2, c_in, height, width).to(memory_format=torch.channels_last) for _ in range(terms)]
    projections = [random(c_out, c_in) for _ in range(terms)]
    return tuple(x.requires_grad_() for x in (random(terms, c_out), random(c_out), *features, *projections))


def ours(given: tuple[Tensor, ...], fixed: tuple[Tensor, Tensor] | None, relu: bool) -> Tensor:
    scale, shift, *rest = given
    terms = [Term(x, p) for x, p in zip(rest[: len(scale)], rest[len(scale) :], strict=True)]
    return blend(terms, scale, eps=EPS, shift=shift, fixed=fixed, relu=relu)[0]


def theirs(given: tuple[Tensor, ...], fixed: tuple[Tensor, Tensor] | None, relu: bool) -> Tensor:
    scale, shift, *rest = given
    total = shift.view(1, -1, 1, 1)
    for k in range(len(scale)):
        u = F.conv2d(rest[k], rest[len(scale) + k][:, :, None, None])
        mean, variance = (None, None) if fixed is None else (fixed[0][k], fixed[1][k])
        total = total + scale[k].view(1, -1, 1, 1) * F.batch_norm(u, mean, variance, training=fixed is None, eps=EPS)
    return torch.relu(total) if relu else total


@pytest.mark.parametrize("fixed", [False, True], ids=["batch", "fixed"])
@pytest.mark.parametrize("relu", [False, True], ids=["sum", "relu"])
@given(
    terms=st.integers(1, 3),
    c_in=st.integers(1, 5),
    c_out=st.integers(1, 5),
    height=st.integers(2, 6),
    width=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=20)
def test_sum_and_gradients_equal_the_plain_composition(terms, c_in, c_out, height, width, seed, fixed, relu):
    torch.manual_seed(seed)
    x = inputs(terms, c_in, c_out, height, width)
    statistics = (random(terms, c_out), random(terms, c_out).abs() + 0.5) if fixed else None
    for limit in (0, 1000):
        before, pointwise.FOLDED_UP_TO = pointwise.FOLDED_UP_TO, {False: limit, True: limit}
        try:
            a, b = ours(x, statistics, relu), theirs(x, statistics, relu)
        finally:
            pointwise.FOLDED_UP_TO = before
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
        upstream = torch.randn_like(b)
        gradients = zip(torch.autograd.grad(a, x, upstream), torch.autograd.grad(b, x, upstream), strict=True)
        for d, e in gradients:
            # A channel of variance near zero has gradients of the order of 1 / sqrt(eps).
            torch.testing.assert_close(d, e, rtol=1e-8, atol=1e-10 * max(1.0, float(e.abs().max())))


@pytest.mark.parametrize("relu", [False, True], ids=["sum", "relu"])
@pytest.mark.parametrize("fixed", [False, True], ids=["batch", "fixed"])
def test_first_and_second_derivatives_agree_with_finite_differences(way, fixed, relu):
    torch.manual_seed(1)
    x = inputs(2, 2, 2, 2, 3)
    statistics = (random(2, 2), random(2, 2).abs() + 0.5) if fixed else None
    assert torch.autograd.gradcheck(lambda *x: ours(x, statistics, relu), x)
    assert torch.autograd.gradgradcheck(lambda *x: ours(x, statistics, relu), x)


@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
@pytest.mark.parametrize("fixed", [False, True], ids=["batch", "fixed"])
def test_each_by_itself_is_what_one_term_gives_and_agrees_with_finite_differences(way, fixed, relu):
    torch.manual_seed(1)
    scale, _, *rest = inputs(2, 2, 2, 2, 3)
    shift = random(2, 2).requires_grad_()
    statistics = (random(2, 2), random(2, 2).abs() + 0.5) if fixed else None

    def each(scale, shift, *rest):
        terms = [Term(x, p) for x, p in zip(rest[:2], rest[2:], strict=True)]
        return tuple(project_each(terms, scale, eps=EPS, shift=shift, fixed=statistics, relu=relu)[0])

    for k, y in enumerate(each(scale, shift, *rest)):
        own = None if statistics is None else (statistics[0][k : k + 1], statistics[1][k : k + 1])
        torch.testing.assert_close(y, ours((scale[k : k + 1], shift[k], rest[k], rest[2 + k]), own, relu))
    assert torch.autograd.gradcheck(each, (scale, shift, *rest))
    assert torch.autograd.gradgradcheck(each, (scale, shift, *rest))


def test_joined_parts_get_dense_gradients_and_can_be_differentiated_twice():
    parts = [random(2, c, 2, 3).requires_grad_() for c in (1, 2)]
    assert torch.autograd.gradcheck(lambda *x: joined(x), parts)
    assert torch.autograd.gradgradcheck(lambda *x: joined(x), parts)
    for gradient in torch.autograd.grad(joined(parts).square().sum(), parts):
        assert gradient.is_contiguous(memory_format=torch.channels_last)
    flat = [random(4, 2), random(4, 3)]
    assert torch.equal(joined(flat), torch.cat(flat, dim=1))


def test_moments_are_those_of_the_projected_pixels(way):
    torch.manual_seed(0)
    scale, _, a, b, p, q = inputs(2, 3, 4, 5, 2)
    _, moments = blend([Term(a, p), Term(b, q)], scale, eps=EPS)
    for k, (x, projection) in enumerate(((a, p), (b, q))):
        u = F.conv2d(x, projection[:, :, None, None])
        torch.testing.assert_close(moments.mean[k], u.mean((0, 2, 3)))
        torch.testing.assert_close(moments.variance[k], u.var((0, 2, 3), unbiased=False))
    assert moments.pixels == 2 * 5 * 2


def test_only_what_is_needed_gets_a_gradient(way):
    scale, shift, x, p = inputs(1, 2, 3, 4, 4)
    y = ours((scale, shift, x, p.detach()), None, True)
    d_scale, d_x = torch.autograd.grad(y.square().sum(), [scale, x], retain_graph=True)
    e_scale, e_x = torch.autograd.grad(theirs((scale, shift, x, p), None, True).square().sum(), [scale, x])
    torch.testing.assert_close(d_scale, e_scale)
    torch.testing.assert_close(d_x, e_x)


def test_a_second_derivative_needs_no_gradient_of_the_projections(way):
    scale, shift, x, p = inputs(1, 2, 3, 4, 4)
    found = []
    for function in (ours, theirs):
        y = function((scale, shift, x, p.detach()), None, False)
        (d_scale,) = torch.autograd.grad(y.square().sum(), [scale], create_graph=True)
        found.append(torch.autograd.grad(d_scale.square().sum(), [scale, x]))
    torch.testing.assert_close(*found)


def test_weighted_total_is_the_sum_and_can_be_differentiated_twice():
    torch.manual_seed(0)
    values = [random(2, 2, 3, 2).requires_grad_() for _ in range(3)]
    weights = random(3).requires_grad_()
    expected = sum(w * v for w, v in zip(weights, values, strict=True))
    torch.testing.assert_close(weighted_total(values, weights), expected)
    assert torch.autograd.gradcheck(lambda w, *v: weighted_total(v, w), (weights, *values))
    assert torch.autograd.gradgradcheck(lambda w, *v: weighted_total(v, w), (weights, *values))


def test_added_is_the_sum_and_can_be_differentiated_twice():
    torch.manual_seed(0)
    values = [torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    constant = torch.randn((), dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(added([*values, constant]), sum(values) + constant)
    assert added(values[:1]) is values[0]
    assert torch.autograd.gradcheck(lambda *x: added(x), (*values, constant))
    assert torch.autograd.gradgradcheck(lambda *x: added(x).square(), (*values, constant))


def test_added_has_the_widest_type_and_each_part_a_gradient_of_its_own():
    parts = [torch.ones(2, 2, dtype=dtype, requires_grad=True) for dtype in (torch.bfloat16, torch.float32)]
    total = added(parts)
    assert total.dtype == torch.float32
    gradients = torch.autograd.grad(total.sum(), parts)
    assert [g.dtype for g in gradients] == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("dilation", [1, 2])
def test_dense_convolutions_before_their_batchnorms(way, dilation):
    torch.manual_seed(0)
    geometry = Geometry((1, 1), (1, 1), (dilation, dilation))
    x, weight = random(2, 9, 6, 7).requires_grad_(), random(8, 9, 3, 3).requires_grad_()
    scale, shift = random(1, 8).requires_grad_(), random(8).requires_grad_()
    y, moments = blend([Term(x, weight, relu=True, wide=geometry)], scale, eps=EPS, shift=shift)
    z = F.conv2d(F.relu(x), weight, None, geometry.stride, geometry.padding, geometry.dilation)
    expected = F.batch_norm(z, None, None, scale[0], shift, training=True, eps=EPS)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(moments.mean[0], z.mean((0, 2, 3)), rtol=1e-10, atol=1e-10)
    towards = random(*y.shape)
    found, wanted = (torch.autograd.grad(out, (x, weight, scale, shift), towards) for out in (y, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)
