"""Which weights a derived network has: the supernet's, or fresh ones."""

from __future__ import annotations

import copy

import pytest
import torch
from derived_networks import images
from torch import Tensor, nn

import archgrad as ag
from archgrad.cell import Cell
from archgrad.errors import SpaceError
from toys import Learnt, TabularSpace, relaxed, same_state

SURE = 80.0


def make_sure(supernet: ag.Supernet, architecture: ag.Architecture) -> None:
    """Set the alphas so that the mixtures are one-hot (to e^-80) on the architecture; edges that it drops take none."""
    with torch.no_grad():
        for row in supernet.alphas.values():
            row.zero_()
        for entry in supernet.choices:
            if entry.label not in architecture.choices:
                continue
            decision = architecture.choices[entry.label]
            if isinstance(entry.choice, Cell):
                for label in entry.choice.rows(entry.label):
                    source, node = label.removeprefix(f"{entry.label}/").split("->")
                    kept = [name for name, origin in decision[node] if origin == int(source)]
                    supernet.alphas[label][entry.choice.names.index(kept[0] if kept else "none")] = SURE
            elif isinstance(decision, str):
                supernet.alphas[entry.label][entry.choice.names.index(decision)] = SURE
            else:
                supernet.alphas[entry.label][list(decision)] = SURE


SPACES = {
    "darts_cifar": (lambda: ag.spaces.darts_cifar(2, 3, nodes=2), lambda: images()),
    "nasbench201": (lambda: ag.spaces.nasbench201(4, 1), lambda: images()),
    "tiny": (lambda: ag.spaces.tiny(4), lambda: images(channels=1)),
    "tabular": (TabularSpace, lambda: torch.randn(5, 4, generator=torch.Generator().manual_seed(0))),
}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("training", [False, True])
def test_with_its_weights_the_derived_network_computes_what_the_supernet_does_at_one_hot_mixtures(
    name: str, training: bool
) -> None:
    build, batch = SPACES[name]
    torch.manual_seed(0)
    supernet = ag.Supernet(build()).double()
    x = batch().double()
    supernet.train()
    for _ in range(2):  # so that the running statistics are not those of the start
        supernet(3.0 * x + 1.0)
    for seed in range(2):
        architecture = ag.random_architecture(supernet.network, seed=seed)
        make_sure(supernet, architecture)
        network = ag.derive(supernet, architecture, keep_weights=True)
        for module in (supernet, network):
            module.train(training)
        expected = copy.deepcopy(supernet)(x)
        assert torch.allclose(network(x), expected, rtol=1e-9, atol=1e-10)


def test_the_supernet_keeps_its_weights_to_itself() -> None:
    supernet = relaxed(TabularSpace())
    before = copy.deepcopy(supernet.state_dict())
    network = ag.derive(supernet, ag.discretize(supernet), keep_weights=True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert same_state(supernet, before)


def test_a_template_takes_the_supernets_weights_wherever_name_and_shape_agree() -> None:
    # same widths and class number: all but the affine parts of BatchNorm, which the supernet does not have
    supernet = ag.Supernet(ag.spaces.darts_cifar(2, 3, 5, nodes=2))
    architecture = ag.discretize(supernet)
    template = ag.spaces.darts_cifar(2, 3, 5, stage="retrain")
    network = ag.derive(template, architecture, keep_weights=True, supernet=supernet)
    theirs = ag.derive(supernet, architecture, keep_weights=True).state_dict()
    own = network.state_dict()
    kept = [name for name in own if name in theirs and theirs[name].shape == own[name].shape]
    assert all(torch.equal(own[name], theirs[name]) for name in kept)
    left = {name for name, _ in network.named_parameters()} - set(kept)
    convolutions = [name for name, p in network.named_parameters() if p.ndim == 4]
    assert set(convolutions) <= set(kept)
    assert left
    assert all(own[name].ndim == 1 for name in left)
    assert torch.equal(own["classifier.weight"], theirs["classifier.weight"])


def test_weights_of_other_shapes_stay_fresh() -> None:
    supernet = ag.Supernet(ag.spaces.darts_cifar(2, 3, 5, nodes=2))
    architecture = ag.discretize(supernet)
    template = ag.spaces.darts_cifar(4, 3, 7, stage="retrain")
    torch.manual_seed(1)
    fresh = ag.derive(template, architecture)
    torch.manual_seed(1)
    kept = ag.derive(template, architecture, keep_weights=True, supernet=supernet)
    assert torch.equal(kept.classifier.weight, fresh.classifier.weight)
    assert torch.equal(kept.stem[0].weight, fresh.stem[0].weight)


def test_without_keep_weights_a_supernets_network_is_new_and_seeded_by_the_global_generator() -> None:
    supernet = ag.Supernet(ag.spaces.tiny(4))
    with torch.no_grad():
        for parameter in supernet.weights.values():
            parameter.fill_(7.0)
    supernet.train()(images(channels=1))
    architecture = ag.discretize(supernet)
    networks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        networks.append(ag.derive(supernet, architecture))
    first, again, other = (network.state_dict() for network in networks)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
    assert all(bool((p != 7.0).all()) for p in networks[0].parameters())
    assert all(bool((v == 0).all()) for name, v in first.items() if name.endswith("running_mean"))
    assert all(bool((p == 7.0).all()) for p in supernet.weights.values())


def test_frozen_parameters_are_no_weights_and_stay() -> None:
    class OnFrozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).requires_grad_(False)
            self.choice = ag.LayerChoice([nn.Linear(3, 3), nn.Tanh()], label="c")

        def forward(self, x: Tensor) -> Tensor:
            return self.choice(self.backbone(x))

    supernet = ag.Supernet(OnFrozen())
    supernet.network.backbone[1].running_mean.fill_(3.0)
    network = ag.derive(supernet, ag.Architecture({"c": "0"}))
    assert torch.equal(network.backbone[0].weight, supernet.network.backbone[0].weight)
    assert bool((network.backbone[1].running_mean == 3.0).all())
    assert not torch.equal(network.choice.weight, supernet.network.choice["0"].weight)


def test_a_layer_that_cannot_be_renewed_is_named_with_the_ways_out() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x

    space = nn.Sequential(ag.LayerChoice({"bare": Bare(), "learnt": Learnt()}, label="c"))
    supernet = ag.Supernet(space)
    bare = ag.Architecture({"c": "bare"})
    with pytest.raises(SpaceError, match=r"'0' \(Bare\).*reset_parameters.*keep_weights=True"):
        ag.derive(supernet, bare)
    ag.derive(supernet, bare, keep_weights=True)
    ag.derive(space, bare)
    ag.derive(supernet, ag.Architecture({"c": "learnt"}))


def test_one_weight_in_two_places_stays_one() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = ag.LayerChoice([nn.Linear(2, 2)], label="c")
            self.b = nn.Linear(2, 2)
            self.b.weight = self.a["0"].weight

    supernet = ag.Supernet(Tied())
    network = ag.derive(supernet, ag.discretize(supernet), keep_weights=True)
    assert network.a.weight is network.b.weight
    assert torch.equal(network.b.weight, supernet.network.b.weight)
