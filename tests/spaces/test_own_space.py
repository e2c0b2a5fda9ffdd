"""A user's own space that is no image network: an MLP over a table, from the open choices to a trained network."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag
from archgrad.bilevel import FirstOrder, Unrolled
from archgrad.relaxation import Gumbel, Relaxation, Softmax
from archgrad.schedules import Progress
from toys import TabularSpace


def rings(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points in three rings around the origin of the first two features; the other two are noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 4, generator=generator)
    radius = x[:, :2].norm(dim=1)
    return x, (radius > 0.8).long() + (radius > 1.5).long()


def accuracy(network: nn.Module, samples: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        return (network.eval()(samples[0]).argmax(1) == samples[1]).float().mean().item()


@pytest.mark.parametrize("relaxation", [Softmax(), Gumbel()])
@pytest.mark.parametrize("step", [FirstOrder(), Unrolled(), Unrolled(hvp="exact")])
def test_it_is_searched_derived_and_trained(step: ag.bilevel.BilevelStep, relaxation: Relaxation) -> None:
    torch.manual_seed(0)
    space = TabularSpace(width=16)
    supernet = ag.Supernet(space, relaxation).train()
    weights = torch.optim.SGD(supernet.weights.values(), 0.1, momentum=0.9, weight_decay=3e-4)
    alphas = torch.optim.Adam(supernet.alphas.values(), 0.01, betas=(0.5, 0.999), weight_decay=1e-3)
    train, valid, test = rings(256, 0), rings(256, 1), rings(256, 2)
    start = {label: row.detach().clone() for label, row in supernet.alphas.items()}
    reports = []
    for i in range(60):
        part = slice(64 * (i % 4), 64 * (i % 4 + 1))
        batches = [(x[part], y[part]) for x, y in (train, valid)]
        reports.append(
            ag.search_step(
                supernet,
                *batches,
                step=step,
                weights_optimizer=weights,
                alphas_optimizer=alphas,
                progress=Progress(0, 50),
            )
        )
    assert reports[-1].train_loss < reports[0].train_loss
    assert all(not torch.equal(row, start[label]) for label, row in supernet.alphas.items())

    architecture = ag.Architecture.from_json(ag.discretize(supernet, space="rings").to_json())
    network = ag.derive(space, architecture)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(network.train()(train[0]), train[1]).backward()
        assert all(p.grad is not None for p in network.parameters())
        optimizer.step()
    assert accuracy(network, test) > 0.75  # the largest class has about 40 %


def test_the_search_prefers_what_the_data_needs() -> None:
    # y is x's sign pattern XOR: a linear path cannot learn it, a hidden layer can
    class Xor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            hidden = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
            self.path = ag.LayerChoice({"linear": nn.Linear(2, 2), "hidden": hidden}, label="path")

        def forward(self, x: Tensor) -> Tensor:
            return self.path(x)

    def batch(seed: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(128, 2, generator=torch.Generator().manual_seed(seed))
        return x, (x[:, 0] * x[:, 1] > 0).long()

    torch.manual_seed(0)
    supernet = ag.Supernet(Xor()).train()
    weights = torch.optim.Adam(supernet.weights.values(), 0.02)
    alphas = torch.optim.Adam(supernet.alphas.values(), 0.02)
    for i in range(150):
        ag.search_step(
            supernet,
            batch(2 * i),
            batch(2 * i + 1),
            step=FirstOrder(),
            weights_optimizer=weights,
            alphas_optimizer=alphas,
        )
    assert ag.discretize(supernet).choices["path"] == "hidden"
    assert supernet.probabilities()["path"][1] > 0.7
