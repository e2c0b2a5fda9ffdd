"""Networks whose outputs depend on no input are told from those that only look like it."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.dependence import depends_on_inputs
from archgrad.errors import OptionError
from archgrad.operations import DropPath, Zero


class ZeroTable(nn.Module):
    """A user's Zero for tables, which does not say what it is."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0


class Space(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = ag.LayerChoice({"none": ZeroTable(), "dense": nn.Linear(4, 4)}, label="body")
        self.join = ag.InputChoice(n_candidates=2, label="join")
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.join([self.body(x), x]))


class Tokens(nn.Module):
    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.embedding, self.head, self.cut = nn.Embedding(7, 4), nn.Linear(4, 2), cut

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        x = self.embedding(tokens["ids"]) * tokens["mask"][..., None]
        return self.head(x.mean(1) * (0 if self.cut else 1))


def deep(norm: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(60):
        layers += [nn.Linear(8, 8), *([nn.BatchNorm1d(8), nn.ReLU()] if norm else [nn.Tanh()])]
    return nn.Sequential(*layers)


def zero_head() -> nn.Module:
    head = nn.Linear(8, 3)
    nn.init.zeros_(head.weight)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), head)


@pytest.mark.parametrize(
    "network",
    [
        deep(norm=True),
        deep(norm=False),
        zero_head(),
        nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(0.9), nn.Linear(8, 1)),
        nn.Sequential(DropPath(0.9), nn.Linear(8, 2)),
    ],
    ids=[
        "deep with norms",
        "so deep that the signal is below the grain",
        "last layer of zeros",
        "dropout",
        "drop path",
    ],
)
def test_networks_that_only_look_constant(network: nn.Module) -> None:
    state = {name: value.clone() for name, value in network.state_dict().items()}
    before = torch.get_rng_state()
    assert depends_on_inputs(network.eval(), torch.randn(2, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), before)
    assert not network.training
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3), nn.Identity(), nn.Dropout(0.5)])
def test_networks_that_are_constant(norm: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 3), norm, Zero(1), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Flatten())
    assert not depends_on_inputs(network, torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("cut", [False, True])
def test_tokens_in_a_dict(cut: bool) -> None:
    tokens = {"ids": torch.arange(10).reshape(2, 5) % 7, "mask": torch.ones(2, 5, dtype=torch.bool)}
    assert depends_on_inputs(Tokens(cut), tokens) is not cut


def test_nothing_is_said_of_inputs_that_cannot_be_varied() -> None:
    assert depends_on_inputs(nn.Sequential(nn.Embedding(3, 2), nn.Flatten()), torch.ones(2, 4, dtype=torch.int64))


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(64, 4, generator=generator), torch.arange(64) % 3


def alphas(body: str) -> ag.Supernet:
    supernet = ag.Supernet(Space())
    with torch.no_grad():
        supernet.alphas["body"].copy_(torch.tensor([9.0, 0.0] if body == "none" else [0.0, 9.0]))
        supernet.alphas["join"].copy_(torch.tensor([9.0, 0.0]))
    return supernet


def run(body: str) -> ag.SearchResult:
    return ag.search(alphas(body), data(), epochs=1, batch_size=16, alphas_learning_rate=1e-9, quiet=True)


def test_a_search_whose_choices_cut_the_network_says_which() -> None:
    with pytest.warns(UserWarning, match=r"same outputs for every input.*: 'body' = none\. Retraining refuses"):
        result = run("none")
    with pytest.raises(OptionError, match="same outputs for every input"):
        ag.retrain(ag.derive(Space(), result.architecture), data(), epochs=1, batch_size=16, cutout=0, quiet=True)


def test_a_search_that_is_whole_says_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = run("dense")
    small: dict[str, Any] = {"epochs": 1, "batch_size": 16, "cutout": 0, "drop_path": 0.0, "quiet": True}
    assert ag.retrain(ag.derive(Space(), result.architecture), data(), **small).history
