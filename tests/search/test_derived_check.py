"""A space of which a derived network is another than the supernet at its values is told of before it is searched."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.search.derived_check import other_network_warning


class Joined(nn.Module):
    """Two branches of one width that are joined; `joined` says how their channels are counted."""

    def __init__(self, joined: Callable[[ag.ValueChoice], object]) -> None:
        super().__init__()
        width = ag.ValueChoice([2, 4], label="width")
        self.left, self.right = ag.nn.Linear(3, width), ag.nn.Linear(3, width)
        self.head = ag.nn.Linear(joined(width), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(x), self.right(x)], 1).tanh())


class Averaged(nn.Module):
    """A mean over the channels, of which the narrow ones have zeros while the space is open."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.head = ag.nn.Linear(3, ag.ValueChoice([2, 4], label="width")), nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.line(x).mean(1, keepdim=True))


class Positioned(nn.Module):
    """A table that stays as wide as the widest."""

    def __init__(self) -> None:
        super().__init__()
        width = ag.ValueChoice([2, 4], label="width")
        self.line, self.head = ag.nn.Linear(3, width), ag.nn.Linear(width, 2)
        self.position = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.line(x) + self.position)


class Noisy(Averaged):
    """Something else each time, of which nothing can be told."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.randn(len(x), 2)


def told(space: nn.Module) -> str | None:
    torch.manual_seed(0)
    return other_network_warning(ag.Supernet(space), lambda: torch.randn(4, 3))


def test_channels_that_are_counted_otherwise_than_they_lie_are_told() -> None:
    message = told(Joined(lambda width: 2 * width))
    assert message is not None
    assert message.startswith("The network that is derived with width=2 computes something else than the space does")
    assert told(Joined(lambda width: width + width)) is None


def test_code_that_reads_all_channels_is_told() -> None:
    assert "something else" in str(told(Averaged()))


def test_a_network_that_cannot_be_run_is_told_with_its_error() -> None:
    assert "width=2 cannot take the data: The size of tensor a (2) must match" in str(told(Positioned()))


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: ag.spaces.mobile(width=4, stages=1, in_channels=1), (2, 1, 8, 8)),
        (lambda: ag.spaces.tabular(in_features=5, width=8), (2, 5)),
        (lambda: ag.spaces.darts_cifar(2, 3), (2, 3, 8, 8)),  # of cells, of which nothing is told
    ],
    ids=["mobile", "tabular", "darts_cifar"],
)
def test_spaces_that_come_with_archgrad_are_what_they_give(build: Callable[[], nn.Module], shape: tuple[int]) -> None:
    assert other_network_warning(ag.Supernet(build()), lambda: torch.randn(shape)) is None


def test_nothing_is_told_of_networks_that_draw_and_the_look_leaves_no_trace() -> None:
    torch.manual_seed(0)
    supernet = ag.Supernet(nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), Noisy()))
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    random, draws = torch.get_rng_state(), supernet.generator.get_state()
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    assert other_network_warning(supernet, lambda: inputs) is None
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(supernet.generator.get_state(), draws)
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())
    assert all(module.training for module in supernet.modules())


def test_a_search_warns_of_it() -> None:
    data = (torch.randn(16, 3), torch.arange(16) % 2)
    options = {"epochs": 1, "batch_size": 4, "quiet": True}
    with pytest.warns(UserWarning, match="width \\+ width in the place of 2 \\* width"):
        ag.search(Joined(lambda width: 2 * width), data, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ag.search(Joined(lambda width: width + width), data, **options)
