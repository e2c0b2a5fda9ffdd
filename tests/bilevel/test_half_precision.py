"""In half precision, what is a difference of two gradients is no less exact than a gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag
from archgrad.bilevel import BilevelStep, FirstOrder, Flat, Unrolled, search_step
from archgrad.weights_rules import LayerAlignment, WeightsRule


class Layers(nn.Module):
    """Two smooth layers that decide together."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(self._layer() for _ in range(2)), nn.Linear(16, 4))

    @staticmethod
    def _layer() -> ag.LayerChoice:
        candidates = {f"width{width}": nn.Sequential(nn.Linear(16, width), nn.Tanh(), nn.Linear(width, 16))
                      for width in (4, 16)}  # fmt: skip
        return ag.LayerChoice({**candidates, "skip": nn.Identity()}, label="layer")

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def gradients(step: BilevelStep, rules: tuple[WeightsRule, ...], *, half: bool) -> list[Tensor]:
    """Return what the alphas and the weights move by in one step of SGD of rate 1."""
    torch.manual_seed(0)
    supernet = ag.Supernet(Layers(), seed=0).train()
    batches = [(torch.randn(64, 16), torch.arange(64) % 4) for _ in range(2)]
    weights, alphas = list(supernet.weights.values()), list(supernet.alphas.values())
    before = [p.detach().clone() for p in (*alphas, *weights)]
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        search_step(
            supernet, *batches, step=step, weights_rules=rules, grad_clip=0.0,
            weights_optimizer=torch.optim.SGD(weights, 1.0), alphas_optimizer=torch.optim.SGD(alphas, 1.0),
            weights_first=True,
        )  # fmt: skip
    return [old - new.detach() for old, new in zip(before, (*alphas, *weights), strict=True)]


def alphas_of(step: BilevelStep) -> Callable[[bool], list[Tensor]]:
    return lambda half: gradients(step, (), half=half)[:1]


def term_of(rule: WeightsRule) -> Callable[[bool], list[Tensor]]:
    """What the rule adds to the weights' gradient."""

    def term(half: bool) -> list[Tensor]:
        pairs = zip(*(gradients(FirstOrder(), rules, half=half)[1:] for rules in ((rule,), ())), strict=True)
        return [with_rule - without for with_rule, without in pairs]

    return term


@pytest.mark.parametrize(
    "found",
    [alphas_of(Flat(rho=1.0)), alphas_of(Unrolled(finite_difference_radius=1e-3)), term_of(LayerAlignment(0.5))],
    ids=["flat", "unrolled", "alignment"],
)
def test_a_difference_of_gradients_is_taken_in_single_precision(found: Callable[[bool], list[Tensor]]) -> None:
    half, single = (torch.cat([part.flatten() for part in found(half)]) for half in (True, False))
    assert F.mse_loss(half, single).sqrt() < 0.03 * single.square().mean().sqrt()
