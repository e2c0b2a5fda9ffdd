"""A batch that is cut into parts gives what the whole batch gives, where nothing looks across samples."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import archgrad as ag
from archgrad.bilevel import BilevelStep, FirstOrder, Unrolled
from archgrad.schedules import Progress


class Smooth(nn.Module):
    """No BatchNorm: each sample's loss stands alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = ag.LayerChoice({"tanh": nn.Tanh(), "linear": nn.Linear(5, 5)}, label="layer")
        self.join = ag.InputChoice(n_candidates=3, n_chosen=2, label="join")
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.join([x, self.layer(x), x.sin()]))


def stepped(step: BilevelStep, accumulation: int, relaxation: ag.relaxation.Relaxation) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    supernet = ag.Supernet(Smooth().double(), relaxation, seed=1).train()
    weights = torch.optim.SGD(supernet.weights.values(), 0.1, momentum=0.9, weight_decay=1e-3)
    alphas = torch.optim.Adam(supernet.alphas.values(), 0.01)
    x, y = torch.randn(2, 7, 5, dtype=torch.float64), torch.randint(0, 3, (2, 7))
    for _ in range(2):
        report = ag.search_step(
            supernet,
            (x[0], y[0]),
            (x[1], y[1]),
            step=step,
            weights_optimizer=weights,
            alphas_optimizer=alphas,
            accumulation=accumulation,
            progress=Progress(0, 2),
        )
    assert report.train_outputs.shape == (7, 3)
    assert report.valid_outputs.shape == (7, 3)
    return {
        "train_loss": torch.tensor(report.train_loss),
        "valid_loss": torch.tensor(report.valid_loss),
        **supernet.state_dict(),
    }


@pytest.mark.parametrize("step", [FirstOrder(), Unrolled(), Unrolled(hvp="exact")])
@pytest.mark.parametrize("accumulation", [2, 3, 7, 9])  # of 7 samples: unequal, single, more than there are
@pytest.mark.parametrize("relaxation", ["softmax", "gumbel"])
def test_parts_add_up_to_the_whole(step: BilevelStep, accumulation: int, relaxation: str) -> None:
    made = {"softmax": ag.relaxation.Softmax, "gumbel": ag.relaxation.Gumbel}[relaxation]
    whole = stepped(step, 1, made())
    parts = stepped(step, accumulation, made())
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-7, atol=1e-10, msg=name)
