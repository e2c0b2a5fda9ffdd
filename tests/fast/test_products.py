"""Products of many pixels with small matrices, the detours against the plain product."""

from __future__ import annotations

import pytest
import torch

from archgrad.fast import products
from archgrad.fast.products import column_sums, gram, times_small


@pytest.fixture(params=["few", "many"])
def pixels(request, monkeypatch):
    monkeypatch.setattr(products, "_MANY", 32 if request.param == "many" else 10_000)
    torch.manual_seed(0)
    return 48


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_sums_over_pixels(pixels, dtype):
    a, b = torch.randn(pixels, 3).to(dtype), torch.randn(pixels, 5).to(dtype)
    expected = a.double().t() @ b.double()
    found = gram(a, b)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(column_sums(a).double(), a.double().sum(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [48, 49], ids=["whole-blocks", "a-rest"])
def test_sums_of_a_view_and_of_a_number_of_pixels_that_blocks_do_not_divide(monkeypatch, rows):
    monkeypatch.setattr(products, "_MANY", 32)
    a = torch.randn(rows, 6, dtype=torch.float64)[:, ::2]
    torch.testing.assert_close(gram(a, a), a.t() @ a)
    torch.testing.assert_close(column_sums(a), a.sum(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_bias", [False, True])
def test_times_a_small_matrix(pixels, dtype, with_bias):
    a, small = torch.randn(pixels, 3, dtype=dtype), torch.randn(3, 5, dtype=dtype).t()
    bias = torch.randn(5, dtype=dtype) if with_bias else None
    expected = a @ small.t() + (bias if with_bias else 0)
    found = times_small(a, small, bias)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous()
