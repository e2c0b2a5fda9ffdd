"""The relaxation of DrNAS, against closed forms of the Dirichlet distribution."""

from __future__ import annotations

import pytest
import torch

from archgrad.choices import AlphaRow
from archgrad.relaxation import Dirichlet
from archgrad.relaxation.dirichlet import concentration

ROW = AlphaRow(("a", "b", "c"))


@pytest.mark.parametrize("alphas", [(0.0, 0.0, 0.0), (2.0, 0.5, -2.0), (-4.0, -5.0, -6.0)])
def test_samples_have_the_mean_and_the_variance_of_the_distribution(alphas: tuple[float, ...]) -> None:
    alpha, generator = torch.tensor(alphas, dtype=torch.float64), torch.Generator().manual_seed(0)
    samples = torch.stack([Dirichlet().draw(alpha, ROW, None, generator)["sample"] for _ in range(4000)])
    c = concentration(alpha)
    mean = c / c.sum()
    variance = mean * (1.0 - mean) / (c.sum() + 1.0)
    assert (samples.mean(0) - mean).abs().max() < 4.0 * (variance / 4000).sqrt().max()
    torch.testing.assert_close(samples.var(0), variance, rtol=0.15, atol=2e-3)


def test_the_mean_of_pathwise_gradients_is_the_gradient_of_the_mean() -> None:
    alpha = torch.tensor([1.0, 0.3, -0.7], dtype=torch.float64, requires_grad=True)
    values, generator = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), torch.Generator().manual_seed(0)
    found = []
    for _ in range(4000):
        mixture = Dirichlet().mix(alpha, ROW, Dirichlet().draw(alpha, ROW, None, generator))
        found.append(torch.autograd.grad((mixture.weights * values).sum(), [alpha])[0])
    (expected,) = torch.autograd.grad((Dirichlet().expected(alpha, ROW) * values).sum(), [alpha])
    spread = torch.stack(found).std(0) / 4000**0.5
    assert bool(((torch.stack(found).mean(0) - expected).abs() < 4.0 * spread).all())
