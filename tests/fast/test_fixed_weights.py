"""The alphas' pass, in which weights are fixed, in wide cells: products are kept there instead of folded."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import archgrad as ag

pytestmark = pytest.mark.usefixtures("backend")


@pytest.mark.parametrize("channels", [4, 20, 40])
@pytest.mark.parametrize("seed", range(3))
def test_alphas_gradient_with_fixed_weights_equals_the_plain_path(channels: int, seed: int) -> None:
    torch.manual_seed(seed)
    space = ag.spaces.darts_cifar(channels, 1, 3, in_channels=1, nodes=2).double()
    x, y = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.randint(0, 3, (6,))
    found = []
    for fast in (False, True):
        supernet = ag.Supernet(space, fast=fast).train()
        for weight in supernet.weights.values():
            weight.requires_grad_(False)
        # Memory that is reused holds NaN, so that a kernel which reads what it should not shows it.
        junk = [
            torch.full((size,), float("nan"), dtype=torch.float64) for size in (8, 16, 32, 64, 80) for _ in range(40)
        ]
        del junk
        loss = F.cross_entropy(supernet(x), y)
        found.append(torch.autograd.grad(loss, list(supernet.alphas.values())))
    for plain, fast_one in zip(*found, strict=True):
        torch.testing.assert_close(fast_one, plain, rtol=1e-8, atol=1e-11)
