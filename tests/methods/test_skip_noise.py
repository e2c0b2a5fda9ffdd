"""The noise on skip connections: of what size, where, and when."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag
from archgrad.bilevel import Unrolled
from archgrad.errors import OptionError
from archgrad.methods import noisy_darts
from archgrad.skip_noise import noisy_skips


class Skips(nn.Module):
    """A choice between a skip connection and a layer, mixed by weights that are told apart by their outputs."""

    def __init__(self, name: str = "skip") -> None:
        super().__init__()
        self.choice = ag.LayerChoice({name: nn.Identity(), "square": nn.Linear(4, 4)})

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.choice(x)
        return result


def outputs(supernet: ag.Supernet, x: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    result: Tensor = supernet(x)
    return result


def test_the_noise_has_mean_zero_and_the_share_of_the_deviation_and_stands_on_skips_alone() -> None:
    supernet = ag.Supernet(Skips()).double().train()
    x = 3.0 * torch.randn(50_000, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 5.0
    plain = outputs(supernet, x)
    with noisy_skips(supernet, 0.2):
        noisy, again, other = outputs(supernet, x), outputs(supernet, x), outputs(supernet, x, seed=1)
        supernet.eval()
        assert torch.equal(outputs(supernet, x), plain)
        supernet.train()
    weight = supernet.probabilities()["choice"][0]
    noise = (noisy - plain) / weight
    assert noise.mean().item() == pytest.approx(0.0, abs=0.01)
    assert noise.std().item() == pytest.approx(0.2 * x.std().item(), rel=0.01)
    assert torch.equal(noisy, again)
    assert not torch.equal(noisy, other)
    assert torch.equal(outputs(supernet, x), plain)  # it is over
    with noisy_skips(supernet, 0.0):
        assert torch.equal(outputs(supernet, x), plain)


def test_a_derived_network_has_no_noise_of_the_search() -> None:
    supernet = ag.Supernet(Skips()).train()
    scores = {"choice": [1.0, 0.0]}
    x = torch.randn(8, 4)
    with noisy_skips(supernet, 0.2):
        network = ag.derive(supernet, ag.discretize(supernet, scores=scores))
        assert torch.equal(network.train()(x), x)
        assert not torch.equal(supernet.network.choice["skip"](x), x)  # it stays as it is


def test_the_noise_is_a_constant_to_the_gradient() -> None:
    supernet = ag.Supernet(Skips()).double().train()
    x = torch.randn(8, 4, dtype=torch.float64, requires_grad=True)
    with noisy_skips(supernet, 0.5):
        (noisy,) = torch.autograd.grad(outputs(supernet, x).sum(), x)
    (plain,) = torch.autograd.grad(outputs(supernet, x).sum(), x)
    torch.testing.assert_close(noisy, plain, rtol=1e-12, atol=0.0)


def test_passes_of_one_step_that_share_their_masks_share_the_noise() -> None:
    # The exact and the finite difference agree only if all passes of the training batch see one noise; roughly, since
    # std(x) moves with the weights in the second, and is a constant to the first.
    torch.manual_seed(0)
    supernet = ag.Supernet(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Skips(), nn.Linear(4, 3))).double().train()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.5)
    x, y = torch.randn(2, 8, 4, dtype=torch.float64), torch.arange(8) % 3
    found = []
    for step in (Unrolled(finite_difference_radius=1e-4), Unrolled(hvp="exact")):
        torch.manual_seed(3)
        with noisy_skips(supernet, 1.0):
            gradient = step.alphas_gradient(
                supernet, (x[0], y), (x[1], y), loss=F.cross_entropy, weights_optimizer=optimizer
            )
        found.append(torch.cat([g for g in gradient.gradients.values() if g is not None]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=1e-6)


def test_a_space_without_skip_connections_is_refused() -> None:
    data = (torch.randn(44, 4), torch.arange(44) % 3)
    with pytest.raises(OptionError, match="skip_noise needs a candidate that is called 'skip"):
        ag.search(Skips("id"), data, method=noisy_darts, batch_size=8, quiet=True)
    with pytest.raises(OptionError, match="skip_noise must be a finite number of at least 0"):
        ag.Method(skip_noise=-1.0)
    with pytest.raises(OptionError, match="skip_noise must be one number"):
        ag.Method(skip_noise=ag.schedules.Linear(0.2, 0.0))


def test_a_search_leaves_no_noise_behind() -> None:
    data = (torch.randn(44, 4), torch.arange(44) % 3)
    supernet = ag.search(Skips(), data, method=noisy_darts, batch_size=8, epochs=1, quiet=True, device="cpu").supernet
    x = torch.randn(8, 4)
    assert torch.equal(outputs(supernet.train(), x), outputs(supernet, x, seed=1))
