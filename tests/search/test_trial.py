"""What does not go together is told before the first step, with what to give instead, and leaves nothing behind."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag
from archgrad.data import as_data
from archgrad.errors import OptionError
from archgrad.loss_checks import check_targets, evaluated
from archgrad.search import trial
from archgrad.search.search_options import SearchOptions
from archgrad.search.trial import try_out

REGRESSION = "give loss=F.mse_loss, and metrics="


def space(outputs: int = 3, *layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    choice = ag.LayerChoice({"plain": nn.Linear(4, outputs), "deep": nn.Sequential(nn.Linear(4, outputs))}, label="a")
    return nn.Sequential(choice, *layers)


def x(samples: int = 32) -> Tensor:
    return torch.randn(samples, 4, generator=torch.Generator().manual_seed(0))


def searched(targets: Any, outputs: int = 3, *layers: nn.Module, **options: Any) -> ag.SearchResult:
    return ag.search(
        space(outputs, *layers), (x(len(targets)), targets), epochs=1, batch_size=8, quiet=True, device="cpu", **options
    )


def trained(targets: Any, outputs: int = 3, *layers: nn.Module, **options: Any) -> ag.SearchResult:
    model = space(outputs, *layers)
    loss, metrics = options.pop("loss", F.cross_entropy), options.pop("metrics", lambda outputs, targets: {})
    data = as_data((x(len(targets)), targets))
    made = ag.DartsTrainer(
        model, loss, metrics, torch.optim.SGD, 1, data, batch_size=8, workers=0, quiet=True, device="cpu", **options
    )
    return made.fit()


WAYS = pytest.mark.parametrize("way", [searched, trained])


@WAYS
@pytest.mark.parametrize(
    ("targets", "outputs", "layers"),
    [
        (torch.rand(32), 3, ()),  # torch: expected target dtype to be Long
        (torch.rand(32), 1, (nn.Flatten(0),)),  # trains: the batch is taken for the classes of one sample
        (torch.rand(32, 1), 1, ()),  # trains: a loss of 0 whatever the outputs are
        (torch.randn(32, 3), 3, ()),  # trains to a loss of anything
        (torch.rand(32, 2), 3, ()),
        (torch.rand(32, 3) + 1, 3, ()),
        (torch.eye(3)[torch.arange(32) % 3] * 2 - 0.5, 3, ()),  # sums to 0.5
    ],
)
def test_values_under_a_loss_of_classes_are_refused(
    way: Callable[..., Any], targets: Tensor, outputs: int, layers: tuple[nn.Module, ...], tmp_path: Path
) -> None:
    for name, loss in (("a", F.cross_entropy), ("b", nn.CrossEntropyLoss()), ("c", partial(F.cross_entropy))):
        with pytest.raises(OptionError, match=REGRESSION):
            way(targets, outputs, *layers, loss=loss, run_dir=tmp_path / name)
        assert not (tmp_path / name).exists()


def test_regression_goes_with_a_loss_of_values() -> None:
    result = searched(torch.rand(32, 1), 1, loss=F.mse_loss, metrics=lambda o, t: {"error": (o - t).abs().mean()})
    assert result.history[0]["train_loss"] >= 0
    assert "valid_error" in result.history[0]


@WAYS
def test_probabilities_of_classes_are_soft_labels(way: Callable[..., Any]) -> None:
    soft = torch.rand(32, 3, generator=torch.Generator().manual_seed(1)).softmax(1)
    assert way(soft).history[0]["train_loss"] > 0
    with pytest.raises(OptionError, match=REGRESSION):
        way(soft, loss=F.nll_loss)  # which takes class numbers alone


def test_probabilities_are_looked_at_of_all_samples() -> None:
    soft = torch.full((32, 3), 1 / 3)
    soft[-1] = 5.0  # no sample that is passed through the network
    with pytest.raises(OptionError, match="do not sum to 1"):
        searched(soft, task="classification")


@WAYS
@pytest.mark.parametrize(
    ("loss", "returned"),
    [
        (nn.CrossEntropyLoss(reduction="none"), r"'CrossEntropyLoss' returned a tensor of shape \(4,\)"),
        (partial(F.cross_entropy, reduction="none"), r"'cross_entropy' returned a tensor of shape \(4,\)"),
        (lambda o, t: F.cross_entropy(o, t, reduction="none"), "returned a tensor of shape"),
        (lambda o, t: 0.5, "returned float"),
        (lambda o, t: None, "returned NoneType"),
    ],
)
def test_a_loss_that_is_not_one_tensor_of_one_number_is_refused(
    way: Callable[..., Any], loss: Any, returned: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=f"{returned}.* Take the batch's mean"):
        way(torch.arange(32) % 3, loss=loss, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@WAYS
@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(reduction="sum"),
        partial(F.cross_entropy, reduction="sum"),
        lambda o, t: F.cross_entropy(o, t, reduction="sum"),
        lambda o, t: sum(F.cross_entropy(a[None], b[None]) for a, b in zip(o, t, strict=True)),
    ],
)
def test_a_loss_that_adds_up_is_asked_about(way: Callable[..., Any], loss: Any) -> None:
    with pytest.warns(UserWarning, match="adds up over the samples of a batch.* reduction='mean'"):
        way(torch.arange(32) % 3, loss=loss)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        lambda o, t: F.cross_entropy(o, t) + 1.0,
        lambda o, t: F.cross_entropy(o[:8], t[:8]) if len(o) >= 4 else None,  # no half of a batch
    ],
)
def test_a_mean_is_not_asked_about(loss: Any) -> None:
    searched(torch.arange(32) % 3, loss=loss)  # warnings are errors here


@WAYS
@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (5, "reach from 0 to 4, which are 5 classes, but the network has 3 outputs.* Build it for 5 classes"),
        (4, "which are 4 classes, but the network has 3 outputs"),
    ],
)
def test_more_classes_than_outputs_are_told(
    way: Callable[..., Any], classes: int, message: str, tmp_path: Path
) -> None:
    targets = torch.arange(64).clamp(max=classes - 1).sort().values  # the highest stand last
    targets[:50] %= 3
    with pytest.raises(OptionError, match=message):
        way(targets, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Tokens(nn.Module):
    """(B, 4) to (B, 3, 4): classes of each place."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, None].expand(-1, -1, 4)


def test_class_numbers_of_places_are_looked_at_as_well() -> None:
    targets = torch.arange(128).reshape(32, 4) % 3
    targets[5, 2] = -100  # ignored
    searched(targets, 3, Tokens(), metrics=lambda o, t: {})
    with pytest.raises(OptionError, match=r"ignore_index=-7 of the loss 'CrossEntropyLoss'"):
        searched(targets, 3, Tokens(), loss=nn.CrossEntropyLoss(ignore_index=-7))
    targets[5, 2] = -1
    with pytest.raises(OptionError, match=r"at least 0, but the targets have -1.*ignore_index"):
        searched(targets, 3, Tokens())
    searched(targets, 3, Tokens(), loss=nn.CrossEntropyLoss(ignore_index=-1), metrics=lambda o, t: {})
    targets[5, 2] = 3
    with pytest.raises(OptionError, match="Build it for 4 classes"):
        searched(targets, 3, Tokens())


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "message"),
    [
        (F.cross_entropy, torch.zeros(8), torch.zeros(8).long(), "takes outputs of shape"),
        (
            F.cross_entropy,
            torch.zeros(8, 3),
            torch.zeros(8, 3).long(),
            "one-hot targets give targets.float",
        ),
        (F.cross_entropy, torch.zeros(8, 3, 5), torch.zeros(8).long(), r"class numbers of shape \(8, 5\)"),
        (F.cross_entropy, (torch.zeros(8, 3),), torch.zeros(8).long(), "the network returns tuple"),
        (F.mse_loss, torch.zeros(8, 1), torch.zeros(8), r"the shape \(8, 1\) and its targets \(8,\).*targets\[:, None"),
        (nn.L1Loss(), torch.zeros(8), torch.zeros(8, 1), "Bring the targets to the outputs' shape"),
        (nn.BCEWithLogitsLoss(), torch.zeros(8), torch.zeros(8).long(), r"Give targets.float\(\)"),
        (nn.HuberLoss(), torch.zeros(8), torch.zeros(8).long(), r"Give targets.float\(\)"),
    ],
)
def test_shapes_and_types_are_told_wherever_the_loss_is_taken(
    loss: Any, outputs: Any, targets: Tensor, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        evaluated(loss, outputs, targets)


def test_a_single_step_tells_the_same() -> None:
    def step(targets: Tensor, network: nn.Module, loss: Any = F.cross_entropy) -> None:
        supernet, batch = ag.Supernet(network), (x(8), targets)
        optimizers = {
            "weights_optimizer": torch.optim.SGD(supernet.weights.values(), lr=0.1),
            "alphas_optimizer": torch.optim.Adam(supernet.alphas.values()),
        }
        ag.bilevel.search_step(supernet, batch, batch, step=ag.FirstOrder(), loss=loss, **optimizers)

    with pytest.raises(OptionError, match=REGRESSION):
        step(torch.rand(8), space(1, nn.Flatten(0)))
    with pytest.raises(OptionError, match="returned a tensor of shape"):
        step(torch.rand(8), space(1, nn.Flatten(0)), nn.MSELoss(reduction="none"))
    with pytest.raises(OptionError, match="which are 4 classes"):
        step(torch.arange(8) % 4, space(3))
    with pytest.raises(OptionError, match="at least 0"):
        step(torch.arange(8) % 3 - 1, space(3))


def test_retraining_refuses_a_network_of_other_outputs_than_the_task_has() -> None:
    with pytest.raises(OptionError, match=r"values of the targets' shape \(2,\) or \(2, 1\).*Build it for 1 output"):
        ag.retrain(nn.Linear(4, 3), (x(), torch.rand(32)), epochs=1, quiet=True)
    with pytest.raises(OptionError, match="logits of shape \\(2, 2\\), one column a label"):
        ag.retrain(nn.Linear(4, 3), (x(), torch.ones(32, 2)), epochs=1, quiet=True)
    with pytest.raises(OptionError, match="Build it for 4 classes"):
        ag.retrain(nn.Linear(4, 3), (x(), torch.arange(32) % 4), epochs=1, quiet=True)


class Forgetful(nn.Module):
    """Draws random numbers and writes into its buffers, one of which it makes in its first pass."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "first"):
            self.register_buffer("first", x.detach().mean())
        self.calls = self.calls + 1
        return F.dropout(self.norm(x), 0.5, self.training)


@pytest.mark.parametrize("relaxation", [ag.Softmax(), ag.Gumbel()])
def test_the_look_leaves_no_trace(relaxation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = torch.arange(32) % 3
    looked = searched(targets, 3, Forgetful(), relaxation=relaxation)
    monkeypatch.setattr(sys.modules["archgrad.search.prepared"], "try_out", lambda *arguments, **options: None)
    plain = searched(targets, 3, Forgetful(), relaxation=relaxation)
    assert looked.history == plain.history
    for a, b in zip(looked.supernet.state_dict().values(), plain.supernet.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert float(looked.supernet.network[1].calls) == 4  # two steps of two passes


def test_the_look_leaves_the_supernet_as_it_is() -> None:
    supernet = ag.Supernet(space(3, Forgetful()), ag.Gumbel()).train()
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    random, draws = torch.get_rng_state(), supernet.generator.get_state()
    data = as_data((x(), torch.arange(32) % 3))
    options = SearchOptions(supernet, data, epochs=1)
    try_out(supernet, data, options, options.task_for(data).task)
    assert supernet.progress is None
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(supernet.generator.get_state(), draws)
    assert supernet.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())
    assert trial._SAMPLES >= 2  # or BatchNorm refuses


def test_targets_of_another_loss_are_left_alone() -> None:
    check_targets(lambda o, t: o.sum(), torch.zeros(4, 3), torch.full((4,), 99))


# --- metrics ----------------------------------------------------------------------------------------------------------


def top(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs.argmax(1) == targets).float().mean())


def scaled(outputs: Tensor, targets: Tensor, factor: float) -> Tensor:
    return factor * (outputs.argmax(1) == targets).float().mean()


class Named:
    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets).float().mean()


@WAYS
@pytest.mark.parametrize(
    ("metrics", "name"),
    [
        (top, "top"),
        (partial(scaled, factor=2.0), "scaled"),
        (lambda o, t: 0.5, "metric"),
        (Named(), "metric"),
        (lambda o, t: torch.full((1,), 0.25), "metric"),
    ],
)
def test_a_metric_that_is_one_number_is_taken(way: Callable[..., Any], metrics: Any, name: str) -> None:
    row = way(torch.arange(32) % 3, metrics=metrics).history[0]
    assert 0 <= row[f"train_{name}"] <= 2
    assert 0 <= row[f"valid_{name}"] <= 2


@WAYS
@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (lambda o, t: torch.zeros(2), r"but returned a tensor of shape \(2,\). Return the mean over the batch"),
        (lambda o, t: "high", "but returned str"),
        (lambda o, t: None, "but returned NoneType"),
        (lambda o, t: {"loss": 0.5}, "must not return 'loss'"),
        (lambda o, t: {"hits": o.argmax(1) == t}, "'hits': Tensor"),
    ],
)
def test_metrics_that_are_no_numbers_are_told(way: Callable[..., Any], metrics: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        way(torch.arange(32) % 3, metrics=metrics)
