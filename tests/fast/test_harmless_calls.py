"""Views and masks where the memory format of images does not matter, and where it does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag


class Squeezed(nn.Module):
    """Weighs channels by what all pixels say, as it is usually written."""

    def __init__(self) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(4, 2), nn.ReLU(inplace=True), nn.Linear(2, 4), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = self.avg_pool(x).view(b, c)
        y = self.fc(y).view(b, c, 1, 1)
        return x * y.expand_as(x)


class Body(nn.Module):
    """A choice, and a head in which there is something to call."""

    def __init__(self, size: int | tuple[int, int] = 1) -> None:
        super().__init__()
        block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), Squeezed())
        self.choice = ag.LayerChoice([block, nn.Identity()], label="c")
        self.pool = nn.AdaptiveAvgPool2d(size)
        self.convolution = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 3)


class Usual(Body):
    def forward(self, x: Tensor) -> Tensor:
        out = self.pool(self.choice(x))
        return self.fc(out.view(out.size(0), -1))


class AtOnce(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.choice(x)).view(x.shape[0], -1))


class ByFunctions(Body):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.adaptive_max_pool2d(self.choice(x), (1, 1)))
        return self.fc(F.dropout(x.view(len(x), -1), 0.3, self.training))


class Dropped(Body):
    def forward(self, x: Tensor) -> Tensor:
        x = self.choice(x)
        if self.training:
            x = self.pool(x)
            y = torch.flatten(x, 1)
            return self.fc(F.dropout(F.relu(y), p=0.3, training=self.training))
        y = F.dropout(self.pool(x).flatten(1), 0.5, self.training)
        return self.fc(y)


class Unused(Body):
    """Parts whose result is not viewed may be anything."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(self.choice(x))
        x = self.pool(x)
        return self.fc(x.view(-1, 4))


@pytest.mark.parametrize("kind", [Usual, AtOnce, ByFunctions, Dropped, Unused])
def test_networks_in_which_it_does_not_matter_get_channels_last(kind: type[Body]) -> None:
    net = agree(kind())
    assert net.channels_last
    assert net.path._code.keeps_to_itself


class OfAnImage(Body):
    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(self.choice(x))
        return self.fc(x.view(len(x), 4, -1).mean(2))


class GivenAnew(Body):
    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x)
        y = self.choice(x) + y
        return self.fc(y.view(len(x), 4, -1).mean(2))


class InALoop(Body):
    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x)
        for _ in range(2):
            z = y.view(len(y), 4, -1).mean(2)
            y = self.choice(x)
        return self.fc(z)


class InABranch(Body):
    def forward(self, x: Tensor) -> Tensor:
        y = self.choice(x)
        if not self.training:
            y = self.pool(y)
        return self.fc(y.view(len(y), 4, -1).mean(2))


class InAComprehension(Body):
    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x)
        x = x + y
        return self.fc(sum([y.view(len(y), 4, -1).mean(2) for y in [self.choice(x), x]]))


class Masked(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.dropout(self.choice(x), 0.5, self.training).mean((2, 3)))


class ByAMethod(Body):
    def global_pool(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.global_pool(self.choice(x))
        return self.fc(x.view(len(x), 4, -1).mean(2))


class Kept(Body):
    """Pools less."""

    def __init__(self) -> None:
        super().__init__((2, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(self.choice(x))
        return self.fc(y.view(len(y), 4, -1).mean(2))


@pytest.mark.parametrize("kind", [OfAnImage, GivenAnew, InALoop, InABranch, InAComprehension, Masked, ByAMethod, Kept])
def test_networks_in_which_it_may_matter_do_not(kind: type[Body]) -> None:
    assert not agree(kind()).channels_last


def test_a_pool_that_changes_is_seen() -> None:
    net = agree(Usual())
    net.network.pool = nn.AdaptiveAvgPool2d((1, 4))
    net.network.fc = nn.Linear(16, 3).double()
    assert not net.channels_last
    assert net(torch.randn(2, 4, 6, 6, dtype=torch.float64)).shape == (2, 3)
    net.network.pool = nn.AdaptiveAvgPool2d(1)
    assert net.channels_last
    net.network.pool.output_size = (1, 4)
    assert not net.channels_last


def agree(space: nn.Module) -> ag.Supernet:
    """Hold the fast path to the plain one, and return it."""
    plain, fast = (ag.Supernet(space.double(), fast=fast) for fast in (False, True))
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    for training in (True, False):
        found = []
        for net in (plain, fast):
            torch.manual_seed(0)
            y = net.train(training)(x)
            wanted = [*net.weights.values(), *net.alphas.values()]
            found.append([y, *torch.autograd.grad(y.square().sum(), wanted, materialize_grads=True)])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-10)
    return fast
