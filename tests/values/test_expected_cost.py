"""Laws of the cost of a space: exact for each network, and its mean is the mean over all networks."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.architecture import Architecture
from archgrad.discretize import decide
from archgrad.errors import OptionError
from archgrad.expected_cost import Cost
from archgrad.nested import tensors_in
from toys import relaxed

SHAPE = (1, 6, 6)
COSTS: tuple[Cost, ...] = ("multiply-adds", "parameters", "activations")


class Sizes(nn.Module):
    """Open widths, kernel and depth, in candidates and blocks, beside layers that nothing decides."""

    def __init__(self, *, shared_weights: bool = False) -> None:
        super().__init__()
        width, kernel = ag.ValueChoice([2, 3], label="width"), ag.ValueChoice([1, 3], label="kernel")
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.conv = ag.nn.Conv2d(4, width, kernel, padding=kernel // 2)
        self.norm = ag.nn.BatchNorm2d(width)
        wide = ag.nn.Conv2d(width, 2 * width, 1)
        deep = nn.Sequential(wide, ag.nn.Conv2d(2 * width, width, kernel, padding=kernel // 2))
        self.pick = ag.LayerChoice({"deep": deep, "skip": nn.Identity()}, label="pick")
        one = ag.nn.Conv2d(width, width, 1)
        blocks = one if shared_weights else lambda n: ag.nn.Conv2d(width, width, 1 + 2 * n, padding=n)
        self.blocks = ag.Repeat(blocks, range(3), label="depth", shared_weights=shared_weights)
        self.attention = ag.nn.MultiheadAttention(2 * width, ag.ValueChoice([1, 2], label="heads"), batch_first=True)
        self.widen = ag.nn.Linear(width, 2 * width)
        two = nn.Sequential(nn.Linear(36, 2), nn.Linear(2, 5))
        self.head = ag.LayerChoice({"linear": nn.Linear(36, 5), "two": two}, label="head")

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.pick(self.norm(self.conv(self.stem(x)))))
        x = self.widen(x.flatten(2).transpose(1, 2))
        x, _ = self.attention(x, x, x)
        return self.head(x.sum(2) @ x.new_ones(36, 36))


def made(**options: Any) -> Sizes:
    torch.manual_seed(0)
    return Sizes(**options)


def every_architecture(supernet: ag.Supernet) -> list[tuple[Architecture, dict[str, int]]]:
    found = []
    for places in itertools.product(*(range(len(row.names)) for row in supernet.rows.values())):
        at = dict(zip(supernet.rows, places, strict=True))
        one_hot = {label: [float(k == at[label]) for k, _ in enumerate(r.names)] for label, r in supernet.rows.items()}
        found.append((Architecture(decide(supernet.network, supernet.choices, one_hot)), at))
    return found


@pytest.mark.parametrize("cost", COSTS)
def test_the_mean_is_that_over_all_networks_and_each_costs_what_it_is_built_to_cost(cost: Cost) -> None:
    # E c = sum over all networks of (product over rows of p_r) c
    supernet = relaxed(made())
    for seed, alpha in enumerate(supernet.alphas.values()):
        alpha.data.copy_(torch.randn(alpha.shape, generator=torch.Generator().manual_seed(seed)))
    costs = ag.ExpectedCost(supernet, SHAPE, cost)
    assert costs.is_sum
    p = {label: torch.softmax(alpha.detach(), 0) for label, alpha in supernet.alphas.items()}
    every = every_architecture(supernet)
    mean = sum(
        torch.stack([p[label][k] for label, k in at.items()]).prod().item() * costs.of(architecture)
        for architecture, at in every
    )
    assert costs.expected(supernet).item() == pytest.approx(mean, rel=1e-12)
    for architecture, _ in every[::17]:
        network = ag.derive(supernet, architecture, keep_weights=True)
        assert costs.of(architecture) == COUNTS[cost](network)
        assert sum(costs.where(architecture).values()) == costs.of(architecture)
    everything = [costs.of(architecture) for architecture, _ in every]
    smallest, median, largest = costs.range()
    assert (smallest, largest) == (min(everything), max(everything))
    assert smallest < median < largest


def multiply_adds(network: nn.Module) -> int:
    return ag.cost.count_multiply_adds(network, SHAPE)


def activations(network: nn.Module) -> int:
    """Numbers that convolutions, linear layers and attentions return, noted in another way."""
    counts = []
    for part in network.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear, nn.MultiheadAttention)):
            part.register_forward_hook(lambda m, args, out: counts.append(next(tensors_in(out)).numel()))
    network.eval()(torch.zeros(1, *SHAPE, dtype=torch.float64))
    return sum(counts)


COUNTS = {"multiply-adds": multiply_adds, "parameters": ag.cost.count_parameters, "activations": activations}


def test_the_gradient_is_that_of_finite_differences() -> None:
    supernet = relaxed(made())
    costs = ag.ExpectedCost(supernet, SHAPE)
    costs.expected(supernet).backward()
    for alpha in supernet.alphas.values():
        for k in range(len(alpha)):
            ends = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    alpha[k] += step
                    ends.append(costs.expected(supernet).item())
                    alpha[k] -= step
            assert alpha.grad[k].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-3)


def test_blocks_that_share_weights_have_their_parameters_once_and_run_as_often_as_they_are_applied() -> None:
    space = made(shared_weights=True)
    for cost in ("multiply-adds", "parameters"):
        costs = ag.ExpectedCost(space, SHAPE, cost)
        for depth in range(3):
            choices = {"width": 3, "kernel": 3, "pick": "skip", "depth": depth, "heads": 1, "head": "two"}
            assert costs.of(choices) == COUNTS[cost](ag.derive(space, choices))


@pytest.mark.parametrize("name", ["nasbench-macro", "nasbench201"])
def test_spaces_that_come_with_archgrad_have_costs(name: str) -> None:
    space, shape = {
        "nasbench-macro": (ag.spaces.nasbench_macro(channels=4), (3, 8, 8)),
        "nasbench201": (ag.spaces.nasbench201(channels=2, cells=1), (3, 8, 8)),
    }[name]
    costs = ag.ExpectedCost(space, shape)
    found = ag.random_architecture(space, seed=1)
    assert costs.of(found) == ag.cost.count_multiply_adds(ag.derive(space, found), shape)


def test_cells_with_partial_channels_cost_what_is_derived_of_them() -> None:
    space, state = ag.spaces.darts_cifar(8, 3, nodes=2, partial_channels=4), torch.get_rng_state()
    macs, parameters = (ag.ExpectedCost(space, (3, 8, 8), cost) for cost in ("multiply-adds", "parameters"))
    assert torch.equal(torch.get_rng_state(), state)
    for seed in range(3):
        found = ag.random_architecture(space, seed=seed)
        network = ag.derive(space, found)
        assert macs.of(found) == ag.cost.count_multiply_adds(network, (3, 8, 8))
        assert parameters.of(found) == ag.cost.count_parameters(network)


def test_a_space_that_drops_layers_has_the_cost_of_the_network_itself() -> None:
    space = ag.spaces.tiny()
    costs = ag.ExpectedCost(space, (1, 8, 8), "parameters")
    assert not costs.is_sum
    for seed in range(4):
        found = ag.random_architecture(space, seed=seed)
        assert costs.of(found) == ag.cost.count_parameters(ag.derive(space, found))


def test_what_has_no_cost_is_refused() -> None:
    with pytest.raises(OptionError, match=r"cost must be one of multiply-adds, .*, but got cost='time'"):
        ag.ExpectedCost(made(), SHAPE, "time")
    with pytest.raises(OptionError, match=r"cannot take one input of shape \(3, 6, 6\)"):
        ag.ExpectedCost(made(), (3, 6, 6))
