"""What always runs: it learns with the weights, whatever else a method does, and the fast path knows it."""

from __future__ import annotations

import pytest
import torch

import archgrad as ag
from archgrad.always_on import AuxiliarySkip
from archgrad.methods import darts_minus
from archgrad.operations import FactorizedReduce
from archgrad.relaxation import Gumbel, Relaxation, Sigmoid, Softmax
from archgrad.schedules import Progress
from archgrad.testing import TabularSpace

DATA = (torch.randn(44, 4, generator=torch.Generator().manual_seed(0)), torch.arange(44) % 3)


@pytest.mark.parametrize("relaxation", [Softmax(), Gumbel(), Sigmoid()])
@pytest.mark.parametrize("edge_weights", [None, Softmax()])
def test_fast_and_plain_agree_whatever_runs_beside_it(relaxation: Relaxation, edge_weights: Relaxation | None) -> None:
    torch.manual_seed(0)
    space = ag.spaces.nasbench201(4, 1).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    found = []
    for fast in (True, False):
        parts = {"edge_weights": edge_weights, "always_on": AuxiliarySkip()}
        supernet = ag.Supernet(space, relaxation, seed=1, fast=fast, **parts).train()
        supernet.progress = Progress(1, 4)
        y = supernet(x)
        wrt = [*supernet.alphas.values(), *supernet.weights.values()]
        found.append([y, *torch.autograd.grad(y.square().sum(), wrt, allow_unused=True, materialize_grads=True)])
    for fast_value, plain_value in zip(*found, strict=True):
        torch.testing.assert_close(fast_value, plain_value, rtol=1e-8, atol=1e-9)


def test_the_edge_weight_multiplies_it_too() -> None:
    edge = ag.Supernet(
        ag.Cell(1, {"skip": lambda s, n: torch.nn.Identity()}, n_inputs=1, label="c"), edge_weights=Sigmoid()
    )
    x = torch.ones(1, 1, 1, 1)
    assert edge([x]).item() == 0.5  # sigmoid(0) x
    both = ag.Supernet(
        ag.Cell(1, {"skip": lambda s, n: torch.nn.Identity()}, n_inputs=1, label="c"),
        edge_weights=Sigmoid(),
        always_on=AuxiliarySkip(weight=3.0),
    )
    assert both([x]).item() == 2.0  # sigmoid(0) (x + 3 x)


def test_it_stays_where_candidates_are_pruned() -> None:
    supernet = ag.Supernet(TabularSpace(), always_on=AuxiliarySkip(weight=3.0))
    supernet.prune(1, {label: [1.0] + [0.0] * (len(row.names) - 1) for label, row in supernet.rows.items()})
    seen: list[torch.Tensor] = []
    supernet.network.first.candidates[2].register_forward_hook(lambda module, given, output: seen.append(output))
    supernet(torch.zeros(2, 4))
    assert len(seen) == 1
    assert supernet.probabilities()["first"] == [1.0, 0.0]


def test_an_optimizer_of_the_spaces_own_weights_gets_its_weights_too() -> None:
    space = ag.spaces.darts_cifar(2, 3, in_channels=1)
    own = torch.optim.SGD(space.parameters(), 0.1, momentum=0.9)
    data = (torch.randn(8, 1, 8, 8), torch.arange(8) % 10)
    result = ag.search(
        space, data, method=darts_minus, weights_optimizer=own, epochs=1, batch_size=4, device="cpu", quiet=True
    )
    reductions = [module for name, module in result.supernet.network.named_modules() if name.endswith("candidates.8")]
    beside = [module for module in reductions if isinstance(module, FactorizedReduce)]
    assert len(beside) == 2 * 2 * 4  # two cells that reduce, of four nodes with two inputs each
    for module in beside:
        assert "momentum_buffer" in own.state[module.conv_1.weight]
