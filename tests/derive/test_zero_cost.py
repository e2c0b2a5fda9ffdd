"""Scores without training: closed forms on small networks, and what they leave alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag
from archgrad.errors import OptionError
from archgrad.zero_cost import gradient_norm, naswot, snip, synflow


def linear(*rows: list[list[float]]) -> nn.Sequential:
    """A linear network with these matrices."""
    layers = []
    for matrix in rows:
        layer = nn.Linear(len(matrix[0]), len(matrix), bias=False).double()
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(matrix))
        layers.append(layer)
    return nn.Sequential(*layers)


def batch(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_scores_of_the_gradient_on_one_linear_layer() -> None:
    # L = mean of (w.x - y)^2 with w = (1, -2); for x = (1, 0), y = 0 and x = (1, 3), y = -4 the errors are 1 and -1:
    # dL/dw = 2 * (1 * (1, 0) - 1 * (1, 3)) / 2 = (0, -3)
    network, inputs, targets = linear([[1.0, -2.0]]), batch([1.0, 0.0], [1.0, 3.0]), batch([0.0], [-4.0])
    assert gradient_norm(network, inputs, targets, loss=F.mse_loss) == pytest.approx(3.0)
    assert snip(network, inputs, targets, loss=F.mse_loss) == pytest.approx(abs(1.0 * 0.0) + abs(-2.0 * -3.0))


def test_synaptic_flow_of_a_linear_network_is_its_depth_times_the_flow() -> None:
    first, second, third = [[1.0, -2.0], [0.5, 3.0]], [[-1.0, 1.0], [2.0, -0.5]], [[1.0, -4.0]]
    # |first| 1 = (3, 3.5); |second| of that = (6.5, 7.75); |third| of that = 37.5
    assert synflow(linear(first), torch.zeros(4, 2)) == pytest.approx(6.5)
    assert synflow(linear(first, second, third), torch.zeros(4, 2)) == pytest.approx(3 * 37.5)


def test_synaptic_flow_leaves_batch_norm_out_and_counts_a_bias_once() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), (2.0, -1.0, 7.0, 7.0, -3.0, -5.0), strict=True):
            parameter.fill_(value)
    # each of 2 hidden units has 2 + 2 + 1 (bias); 3 times both and 5 (bias): R = 35. Weights flow twice, the hidden
    # biases twice as well, the last bias once: 2 * 30 + 5, but a hidden bias itself is one of the two: 24 + 6 + 30 + 5
    assert synflow(network, torch.randn(3, 2)) == pytest.approx(24.0 + 6.0 + 30.0 + 5.0)


def test_the_kernel_of_naswot_counts_the_units_that_agree() -> None:
    network = nn.Sequential(linear([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), nn.ReLU())
    inputs = batch([1.0, -3.0], [-1.0, 3.0], [1.0, 1.0])
    # on: 100, 011, 111; agreements: 0 of the first two, 1 of first and third, 2 of second and third
    kernel = batch([3.0, 0.0, 1.0], [0.0, 3.0, 2.0], [1.0, 2.0, 3.0])
    assert naswot(network, inputs) == pytest.approx(math.log(torch.linalg.det(kernel).item()))
    twice = nn.Sequential(network, linear([[1.0, 0.0, 0.0]]), nn.ReLU(inplace=True))  # on: 1, 0, 1
    more = batch([1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0])
    assert naswot(twice, inputs) == pytest.approx(math.log(torch.linalg.det(kernel + more).item()))
    assert naswot(network, inputs[[0, 0]]) == -math.inf
    with pytest.raises(OptionError, match="naswot looks at ReLU modules, but none ran in Sequential"):
        naswot(linear([[1.0]]), batch([1.0], [2.0]))


SCORES: dict[str, Callable[[nn.Module, Tensor, Tensor], float]] = {
    "gradient norm": gradient_norm,
    "snip": snip,
    "synflow": lambda network, inputs, targets: synflow(network, inputs),
    "naswot": lambda network, inputs, targets: naswot(network, inputs),
}


@pytest.mark.parametrize("name", SCORES)
def test_derived_networks_are_ranked_and_stay_as_they_are(name: str) -> None:
    space = ag.spaces.nasbench201(channels=4, cells=1, num_classes=3)
    torch.manual_seed(0)
    inputs, targets = torch.randn(6, 3, 8, 8), torch.arange(6) % 3
    found = []
    for seed in range(3):
        network = ag.derive(space, ag.random_architecture(space, seed=seed)).eval()
        before: dict[str, Any] = {key: value.clone() for key, value in network.state_dict().items()}
        random = torch.get_rng_state()
        found.append(SCORES[name](network, inputs, targets))
        assert SCORES[name](network, inputs, targets) == found[-1]
        assert torch.equal(torch.get_rng_state(), random)
        assert not network.training
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())
    assert all(map(math.isfinite, found))
    assert len(set(found)) == 3


def test_a_network_that_is_cut_has_no_flow() -> None:
    assert synflow(nn.Sequential(nn.Linear(2, 2), nn.Threshold(1e9, 0.0)), torch.zeros(2, 2)) == 0.0
