"""Looking ahead leaves no trace: weights bit for bit, buffers, dropout masks and the stream of random numbers."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from bilevel_problems import gradient, relative_error, table_batch
from torch import Tensor, nn
from torch.optim import SGD, Adam

import archgrad as ag
from archgrad.bilevel import FirstOrder, Unrolled
from toys import relaxed, same_state

BOTH = [Unrolled(hvp="finite-difference"), Unrolled(hvp="exact")]
TRAIN, VALID = table_batch(0), table_batch(1)


class Replaces(nn.Module):
    """Keeps a running mean by putting a new tensor in the place of its buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("lazy", None)

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        self.seen += 1
        self.lazy = x.detach().sum()
        return torch.tanh(x - self.mean)


class Stateful(nn.Module):
    """Every kind of buffer beside a choice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 8))
        self.norm = nn.BatchNorm1d(8)
        self.average = nn.BatchNorm1d(8, momentum=None)
        self.untracked = nn.BatchNorm1d(8, track_running_stats=False)
        self.frozen = nn.BatchNorm1d(8).eval()
        self.own = Replaces()
        self.choice = ag.LayerChoice(
            {"dense": nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), "tanh": nn.Tanh()}, label="choice"
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        return self.head(self.frozen(self.untracked(self.average(self.choice(self.own(x))))))


def stateful() -> ag.Supernet:
    torch.manual_seed(0)
    supernet = relaxed(Stateful(), {"choice": [0.2, -0.4]}).train()
    supernet.network.frozen.eval()
    return supernet


@pytest.mark.parametrize("step", BOTH)
@pytest.mark.parametrize("kind", [SGD, Adam])
def test_weights_alphas_and_all_buffers_are_bit_for_bit_as_before(
    step: Unrolled, kind: type[torch.optim.Optimizer]
) -> None:
    supernet = stateful()
    before = copy.deepcopy(supernet.state_dict())
    identities = {name: id(p) for name, p in supernet.named_parameters()}
    gradient(step, supernet, kind(supernet.weights.values(), lr=0.1), TRAIN, VALID, F.cross_entropy)  # type: ignore[call-arg]
    after = supernet.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {name: id(p) for name, p in supernet.named_parameters()} == identities
    assert supernet.network.own.lazy is None
    assert supernet.network.norm.track_running_stats
    assert supernet.network.untracked.track_running_stats is False
    assert not supernet.network.frozen.training


def test_the_look_ahead_normalises_with_the_statistics_of_its_batch() -> None:
    # Frozen statistics must not mean evaluation mode: both ways must give one gradient, that of training mode.
    torch.manual_seed(0)
    space = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), ag.LayerChoice([nn.Tanh(), nn.Softplus()]), nn.Linear(8, 3)
    )
    tracking = relaxed(space).train()
    space[1] = nn.BatchNorm1d(8, track_running_stats=False)
    batch_only = relaxed(space).train()
    for name, weight in batch_only.weights.items():
        weight.data.copy_(tracking.weights[name])
    found = [
        gradient(Unrolled(), s, SGD(s.weights.values(), 0.1), TRAIN, VALID, F.cross_entropy)
        for s in (tracking, batch_only)
    ]
    assert relative_error(found[0], found[1]) < 1e-12


@pytest.mark.parametrize(("step", "passes"), [(FirstOrder(), 2), *((step, 1) for step in BOTH)])
def test_statistics_move_once_for_each_pass_on_the_live_weights(step: ag.bilevel.BilevelStep, passes: int) -> None:
    # first order: the validation pass and the weights' pass; unrolled: the weights' pass alone
    supernet = stateful()
    ag.search_step(
        supernet,
        TRAIN,
        VALID,
        step=step,
        weights_optimizer=SGD(supernet.weights.values(), 0.1),
        alphas_optimizer=Adam(supernet.alphas.values()),
    )
    network = supernet.network
    assert int(network.norm.num_batches_tracked) == passes
    assert int(network.average.num_batches_tracked) == passes
    assert int(network.own.seen) == passes
    assert int(network.frozen.num_batches_tracked) == 0


@pytest.mark.parametrize("step", BOTH)
@pytest.mark.parametrize("fast", [True, False])
def test_the_statistics_of_cells_stay_too(step: Unrolled, fast: bool) -> None:
    supernet = ag.Supernet(ag.spaces.nasbench201(4, 1).double(), fast=fast).train()
    before = copy.deepcopy(supernet.state_dict())
    batch = (torch.randn(3, 3, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2]))
    gradient(step, supernet, SGD(supernet.weights.values(), 0.1), batch, batch, F.cross_entropy)
    assert same_state(supernet, before)


def test_an_error_in_a_look_ahead_pass_leaves_everything_as_it_was() -> None:
    supernet = stateful()
    before = copy.deepcopy(supernet.state_dict())
    broken = (torch.randn(6, 5, dtype=torch.float64), TRAIN[1])
    with pytest.raises(RuntimeError):
        gradient(Unrolled(), supernet, SGD(supernet.weights.values(), 0.1), TRAIN, broken, F.cross_entropy)
    assert same_state(supernet, before)
    assert supernet.network.norm.track_running_stats
    assert all(p.requires_grad for p in [*supernet.weights.values(), *supernet.alphas.values()])
    supernet(TRAIN[0])


class WithDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 16)
        self.choice = ag.LayerChoice([nn.Linear(16, 16), nn.Tanh()], label="choice")
        self.head = nn.Linear(16, 3)
        self.masks: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.nn.functional.dropout(torch.ones(len(x), 16, dtype=x.dtype), 0.5, self.training)
        self.masks.append(mask)
        return self.head(torch.tanh(self.choice(torch.tanh(self.stem(x)) * mask)))


def with_dropout() -> ag.Supernet:
    torch.manual_seed(0)
    return relaxed(WithDropout(), {"choice": [0.2, -0.4]}).train()


def test_the_training_passes_of_the_finite_difference_see_the_same_dropout_masks() -> None:
    supernet = with_dropout()
    torch.manual_seed(1)
    found = gradient(Unrolled(), supernet, SGD(supernet.weights.values(), 0.3), TRAIN, VALID, F.cross_entropy)
    train, valid, plus, minus = supernet.network.masks
    assert torch.equal(plus, train)
    assert torch.equal(minus, train)
    assert not torch.equal(valid, train)
    torch.manual_seed(1)
    exact = gradient(
        Unrolled(hvp="exact"), supernet, SGD(supernet.weights.values(), 0.3), TRAIN, VALID, F.cross_entropy
    )
    assert relative_error(found, exact) < 1e-3  # with other masks they would have nothing in common


@pytest.mark.parametrize("step", BOTH)
def test_the_random_stream_goes_on_as_after_one_training_and_one_validation_pass(step: Unrolled) -> None:
    supernet = with_dropout()
    torch.manual_seed(1)
    supernet(TRAIN[0])
    supernet(VALID[0])
    expected = torch.get_rng_state()
    torch.manual_seed(1)
    gradient(step, supernet, SGD(supernet.weights.values(), 0.3), TRAIN, VALID, F.cross_entropy)
    assert torch.equal(torch.get_rng_state(), expected)


def test_a_step_draws_anew_for_the_weights_own_pass() -> None:
    supernet = with_dropout()
    ag.search_step(
        supernet,
        TRAIN,
        VALID,
        step=Unrolled(),
        weights_optimizer=SGD(supernet.weights.values(), 0.1),
        alphas_optimizer=Adam(supernet.alphas.values()),
    )
    train, valid, _, _, weights_pass = supernet.network.masks
    assert not torch.equal(weights_pass, train)
    assert not torch.equal(weights_pass, valid)


@pytest.mark.parametrize("step", BOTH)
def test_equal_seeds_give_equal_steps(step: Unrolled) -> None:
    states = []
    for _ in range(2):
        supernet = with_dropout()
        weights = SGD(supernet.weights.values(), 0.1, momentum=0.9)
        alphas = Adam(supernet.alphas.values(), 0.1)
        for _ in range(2):
            ag.search_step(supernet, TRAIN, VALID, step=step, weights_optimizer=weights, alphas_optimizer=alphas)
        states.append(supernet.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
