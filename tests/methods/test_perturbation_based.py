"""Perturbation-based selection: what can be computed by hand, the paper's lengths, and runs that are broken off."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag
from archgrad.discretize import discretize
from archgrad.epoch_end import EpochEnd
from archgrad.errors import NonFiniteError, OptionError
from archgrad.methods import Method
from archgrad.optimizers import ExponentiatedGradient
from archgrad.relaxation import Dirichlet, Gumbel, Sigmoid, Simplex, SoftGumbel
from archgrad.schedules import Progress
from archgrad.selection import PerturbationBased
from archgrad.selection.measured import measured
from archgrad.selection.undecided import undecided
from archgrad.stopping import SkipCount
from archgrad.testing import MixedSpace, TabularSpace, Times
from toys import Scales, relaxed, softmax, vector

AT_ONCE = PerturbationBased(tune_epochs=0, criterion="loss")


def end_of(supernet: ag.Supernet, batches: list[tuple[Tensor, Tensor]], loss: Any) -> EpochEnd:
    def every() -> Iterator[tuple[Tensor, Tensor]]:
        return iter(batches)

    return EpochEnd(supernet, discretize(supernet), Progress(0, 2), loss, lambda: batches[-1], every)


def test_what_is_lost_without_each_candidate_follows_by_hand() -> None:
    supernet = relaxed(Scales(), {"first": [0.0, 1.0], "second": [0.5, 0.0]})
    (a, b), (_, d) = softmax([0.0, 1.0]), softmax([0.5, 0.0])
    targets = vector(6.0, 12.0)
    end = end_of(supernet, [(vector(1.0), targets[:1]), (vector(2.0), targets[1:])], F.mse_loss)
    AT_ONCE.settle(end, 0)
    found = {decision["choice"]: decision for decision in supernet.settled}
    assert [decision["choice"] for decision in supernet.settled] in (["first", "second"], ["second", "first"])

    def loss(factor: float) -> float:  # the mean of (factor - 6)^2 and 4 (factor - 6)^2
        return 2.5 * (factor - 6.0) ** 2

    # whichever is first sees the other's mixture, the second the other's decision; both keep what gives the 6
    second = 2.0 if found["first"] is supernet.settled[1] else 2.0 * d
    first = 3.0 if found["second"] is supernet.settled[1] else a + 3.0 * b
    assert found["first"]["loss_without"] == pytest.approx({"one": loss(3.0 * b * second), "three": loss(a * second)})
    assert found["second"]["loss_without"] == pytest.approx({"none": loss(2.0 * d * first), "two": loss(0.0)})
    assert (found["first"]["kept"], found["second"]["kept"]) == ("three", "two")
    assert float(supernet(vector(1.0)).detach()) == pytest.approx(6.0)


class Fan(nn.Module):
    """A cell of one node whose edges from four inputs carry 1, 2, 4 and 8 times x."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = ag.Cell(
            1, {"none": lambda s, n: Times(0.0), "times": lambda s, n: Times(2.0**s)}, n_inputs=4, label="cell"
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.cell([x] * 4)
        return output


@pytest.mark.parametrize("target", [12.0, 3.0])
def test_a_node_drops_the_edge_that_it_misses_least_until_two_are_left(target: float) -> None:
    supernet = relaxed(Fan())
    end = end_of(supernet, [(torch.ones(1, 1, dtype=torch.float64), vector(target).reshape(1, 1))], F.mse_loss)
    said: list[str] = []
    AT_ONCE.settle(end, 0, said.append)
    assert len(said) == len(supernet.settled) == 6
    assert said[4].startswith(f"cell/4: dropped {supernet.settled[4]['dropped']} (loss without it ")
    assert [j["kept"] for j in supernet.settled[:4]] == ["times"] * 4  # "none" is never derived
    drops = [(j["choice"], j["dropped"], j["loss_without"]) for j in supernet.settled[4:]]
    # 15 without 1, 2, 4 or 8; then without another one of what is left
    first, second = {12.0: ("1", "0"), 3.0: ("3", "2")}[target]
    left = 15.0 - 2.0 ** int(first)
    assert drops == [
        ("cell/4", first, pytest.approx({str(s): (15.0 - 2.0**s - target) ** 2 for s in range(4)})),
        ("cell/4", second, pytest.approx({str(s): (left - 2.0**s - target) ** 2 for s in range(4) if str(s) != first})),
    ]
    decision = discretize(supernet, scores=AT_ONCE.scores(supernet)).choices["cell"]["4"]
    assert sorted(edge.source for edge in decision) == {12.0: [2, 3], 3.0: [0, 1]}[target]
    assert float(supernet(torch.ones(1, 1, dtype=torch.float64)).detach()) == pytest.approx(target)


def test_inputs_that_are_missed_least_are_dropped_and_the_others_are_taken_whole() -> None:
    class Inputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.join = ag.InputChoice(4, 2, label="join")

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.join([x, 2.0 * x, 4.0 * x, 8.0 * x])
            return output

    supernet = relaxed(Inputs(), {"join": [0.0] * 4})
    AT_ONCE.settle(end_of(supernet, [(vector(1.0), vector(12.0))], F.mse_loss), 0)
    # each with weight 1/2, and then each of three with 2/3
    assert [decision["loss_without"] for decision in supernet.settled] == [
        pytest.approx({"0": 5.0**2, "1": 5.5**2, "2": 6.5**2, "3": 8.5**2}),
        pytest.approx({"1": 4.0**2, "2": (16.0 / 3.0) ** 2, "3": 8.0**2}),
    ]
    architecture = discretize(supernet, scores=AT_ONCE.scores(supernet))
    assert architecture.choices["join"] == (2, 3)
    assert float(supernet(vector(1.0)).detach()) == pytest.approx(12.0)
    assert [decision["dropped"] for decision in architecture.provenance["settled"]] == ["0", "1"]


def test_lengths_are_the_papers() -> None:
    # the paper's cells: 14 operations and 3 nodes with more than two edges, in both cells at once; 5 epochs between
    darts = ag.Supernet(ag.spaces.darts_cifar(2, 3, 10))
    assert undecided(darts).rounds == 14 + 3
    assert PerturbationBased().further_epochs(darts) == 5 * 16
    assert PerturbationBased().further_epochs(ag.Supernet(ag.spaces.nasbench201(4, 1, 10))) == 5 * 5
    assert PerturbationBased(tune_epochs=0).further_epochs(darts) == 0


def test_every_decision_of_a_space_of_cells_is_taken_and_is_the_supernet_that_is_left() -> None:
    torch.manual_seed(0)
    space = ag.spaces.darts_cifar(channels=2, cells=3, num_classes=3, nodes=2).double()
    supernet = relaxed(space)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64)
    AT_ONCE.settle(end_of(supernet, [(images, torch.arange(6) % 3)], F.cross_entropy), 0)
    assert undecided(supernet).rounds == 0
    architecture = discretize(supernet, scores=AT_ONCE.scores(supernet))
    kept = {decision["choice"]: decision["kept"] for decision in supernet.settled if "kept" in decision}
    for label in ("normal", "reduce"):
        for node in ("2", "3"):
            assert len(architecture.choices[label][node]) == 2
            for name, source in architecture.choices[label][node]:
                assert kept[f"{label}/{source}->{node}"] == name
    derived = ag.derive(supernet, architecture, keep_weights=True)
    torch.testing.assert_close(derived(images), supernet(images))


@pytest.mark.parametrize("fast", [True, False])
def test_a_candidate_without_weight_is_left_out_of_the_sum_however_it_is_computed(fast: bool) -> None:
    torch.manual_seed(0)
    space = ag.spaces.darts_cifar(channels=2, cells=3, num_classes=3, nodes=2).double()
    supernet = ag.Supernet(space, fast=fast).double().train()
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    mixtures = supernet._relaxed({label: {} for label in supernet.rows})
    row = "normal/0->2"
    slots = mixtures[row].slots * torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    expected = ag.Supernet(space, fast=False).double().train()
    by_hand = expected.forward_at({**mixtures, row: ag.choices.Mixture(slots, mixtures[row].active)}, images)
    with supernet.without({row: [2]}):
        torch.testing.assert_close(supernet(images), by_hand, rtol=1e-9, atol=1e-10)
    assert supernet.switched_off == {}


DATA = (torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3)
METHOD = replace(ag.methods.darts_pt, selection=PerturbationBased(tune_epochs=1))


class BrokenError(Exception):
    """The end of a process."""


class Breaking:
    """A loss that fails at its n-th call."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise BrokenError
        return F.cross_entropy(outputs, targets)


def searched(method: Method = METHOD, **options: Any) -> ag.SearchResult:
    torch.manual_seed(0)
    return ag.search(
        TabularSpace(), DATA, method=method, epochs=2, batch_size=8, device="cpu", quiet=True,
        **{"learning_rate": 0.1, **options},
    )  # fmt: skip


@pytest.mark.parametrize("criterion", ["accuracy", "loss"])
def test_a_run_that_is_broken_off_anywhere_ends_with_the_same_bits(tmp_path: Path, criterion: Any) -> None:
    method = replace(METHOD, selection=replace(METHOD.selection, criterion=criterion))
    counting = Breaking(-1)
    whole = searched(method, loss=counting)
    calls = -1 - counting.left
    assert len(whole.history) == 2 + 3
    assert len(whole.architecture.provenance["settled"]) >= 4
    # in an epoch of tuning, amid the measurements after it (which call the loss), and shortly before the end
    for number, call in enumerate((calls // 2, calls // 2 + 4, calls - 3)):
        options: dict[str, Any] = {"run_dir": tmp_path / f"{criterion}{number}", "checkpoint_steps": 1}
        with pytest.raises(BrokenError):
            searched(method, loss=Breaking(call), **options)
        again = searched(method, resume=True, **options)
        assert again.architecture.to_json() == whole.architecture.to_json()
        assert again.history == whole.history
        for name, value in whole.supernet.state_dict().items():
            assert torch.equal(value, again.supernet.state_dict()[name])


@pytest.mark.parametrize(("schedule", "rates"), [("cosine", [0.1, 0.0505, 0.01, 0.00775, 0.00325]), ("constant", None)])
def test_the_weights_are_tuned_from_a_share_of_their_rate_with_a_fresh_state(schedule: Any, rates: Any) -> None:
    momenta: list[bool] = []

    def watched(parameters: Any) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9)
        optimizer.register_step_pre_hook(lambda *_: momenta.append(bool(optimizer.state)))
        return optimizer

    result = searched(schedule=schedule, weights_optimizer=watched)
    found = [row["learning_rate"] for row in result.history]
    assert found == pytest.approx(rates or [0.1, 0.1, 0.01, 0.01, 0.01])
    steps = len(momenta) // len(found)
    assert [i for i, there in enumerate(momenta) if not there] == [0, 2 * steps]


@pytest.mark.parametrize("relaxation", [Dirichlet(), SoftGumbel()])
def test_measurements_share_their_random_draws(relaxation: Any) -> None:
    space = TabularSpace(chosen=1)
    supernet = ag.Supernet(space, relaxation, seed=1).double()
    supernet.progress = Progress(0, 2)
    inputs = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    end = end_of(supernet, [(inputs, torch.arange(6) % 3)] * 2, F.cross_entropy)
    selection = PerturbationBased(tune_epochs=0, criterion="loss")
    nothing: dict[str, tuple[int, ...]] = {}
    assert measured(end, "loss", without=nothing) == measured(end, "loss", without=nothing)
    selection.settle(end, 0)
    assert undecided(supernet).rounds == 0
    ag.derive(space.double(), discretize(supernet, scores=selection.scores(supernet)))(inputs)


def test_nested_choices_and_cells_are_settled_side_by_side() -> None:
    supernet = relaxed(MixedSpace())
    inputs = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = copy.deepcopy(supernet.state_dict())
    selection = PerturbationBased(tune_epochs=3, criterion="loss")
    end = end_of(supernet, [(inputs, torch.arange(6))], F.cross_entropy)
    for tuned in range(4):
        selection.settle(end, tuned)
    # after 0 and 3 epochs of tuning, one edge of the cell and one layer choice each
    assert [decision["tuned_epochs"] for decision in supernet.settled] == [0, 0, 3, 3]
    assert sum(decision["choice"].startswith("cell/") for decision in supernet.settled) == 2
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"relaxation": Gumbel()}, "Gumbel runs those alone that it draws"),
        ({"relaxation": Sigmoid()}, "a single candidate has its alpha as weight with Sigmoid"),
        ({"relaxation": Simplex(), "alphas_optimizer": ExponentiatedGradient()}, "as weight with Simplex"),
        ({"stopping": SkipCount()}, "settles choices after the last epoch, but SkipCount may end the search before"),
    ],
)
def test_what_it_cannot_go_with_is_refused_with_the_reason(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Method(selection=PerturbationBased(), **parts)


@pytest.mark.parametrize(
    ("option", "said"),
    [({"tune_epochs": -1}, "tune_epochs"), ({"tune_rate": 0.0}, "tune_rate"), ({"criterion": "error"}, "criterion")],
)
def test_options_out_of_range_are_refused(option: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        PerturbationBased(**option)


def test_a_criterion_that_cannot_be_measured_says_what_to_take() -> None:
    supernet = relaxed(Scales())
    with pytest.raises(OptionError, match=r"criterion='accuracy' needs .* Take criterion='loss'"):
        PerturbationBased(tune_epochs=0).settle(end_of(supernet, [(vector(1.0), vector(1.0))], F.mse_loss), 0)
    with pytest.raises(NonFiniteError, match="validation loss is nan"):
        AT_ONCE.settle(end_of(supernet, [(vector(float("nan")), vector(1.0))], F.mse_loss), 0)
