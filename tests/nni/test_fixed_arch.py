"""Inside `fixed_arch` a model is built as the plain network that `derive` makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import archgrad as ag
import archgrad.nni as nni
from archgrad.errors import ArchitectureError, OptionError, SpaceError
from archgrad.nni_hub_format import format_hub

nn = nni.retiarii.nn.pytorch
fixed_arch = nni.retiarii.fixed_arch


@nni.retiarii.model_wrapper
class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LayerChoice([nn.Linear(4, 4), nn.Identity()])

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@nni.retiarii.model_wrapper
class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LayerChoice({"relu": nn.ReLU(inplace=True), "linear": nn.Linear(4, 4)})
        self.inner = Inner()
        self.last = nn.LayerChoice([nn.Linear(4, 4), nn.Identity()], label="last")
        self.join = nn.InputChoice(3, 2)
        self.cell = nn.Cell([lambda node, op, source: nn.Linear(4, 4), nn.Tanh()], 2, 2, 2, label="cell")

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        joined = self.join([x, first, self.last(self.inner(first))])
        return self.cell(joined, x)


CHOICES: dict[str, Any] = {
    "model_1": "relu",
    "model_2_1": "1",
    "last": "0",
    "model_3": [0, 1],
    "cell": {"2": [["0", 0], ["1", 1]], "3": [["1", 2], ["0", 0]]},
}


@pytest.mark.parametrize("lists", [False, True])
def test_the_network_is_the_one_that_derive_makes(lists: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    derived = ag.derive(Net(), ag.Architecture(CHOICES))
    exported = format_hub(CHOICES, lists=lists)
    file = tmp_path / "exported.json"
    file.write_text(json.dumps(exported))
    for given in (exported, file, str(file), ag.Architecture(CHOICES)):
        with fixed_arch(given):
            fixed = Net()
        assert fixed.state_dict().keys() == derived.state_dict().keys()
        fixed.load_state_dict(derived.state_dict())
        x = torch.randn(3, 4)
        assert torch.equal(fixed(x), derived(x))
    assert isinstance(Net().first, ag.LayerChoice)


def test_an_index_stands_for_a_name_as_in_nni_2_3() -> None:
    with fixed_arch({**CHOICES, "model_1": 1}):
        assert isinstance(Net().first, torch.nn.Linear)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"last": "2"}, "no candidate '2'"),
        ({"model_3": [0, 7]}, "takes 2 of inputs"),
        ({"model_3": "both"}, "takes 2 of inputs"),
        ({"last": None}, "no decision for 'last'"),
        ({"cell": {"2": [["0", 0]]}}, "2 nodes"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with fixed_arch({**CHOICES, **change}), pytest.raises((ArchitectureError, SpaceError), match=message):
        Net()


def test_an_unlabelled_choice_outside_a_wrapped_model_asks_for_a_label() -> None:
    with fixed_arch(CHOICES), pytest.raises(ArchitectureError, match="has no label"):
        nn.LayerChoice([torch.nn.Identity()])


class Sized(nni.nas.nn.pytorch.ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        width = nn.ValueChoice([2, 4], label="width")
        self.first = nn.Linear(4, width)
        self.blocks = nn.Repeat(lambda place: nn.Sequential(nn.Linear(width, width), nn.ReLU()), (1, 3))
        self.last = nni.nas.nn.pytorch.MutableLinear(width, 2)
        self.drop = nn.Dropout(nni.choice("rate", [0.25, 0.5]))

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.last(self.blocks(self.first(x))))


def test_open_numbers_are_plain_numbers_of_plain_layers() -> None:
    choices = {"width": 2, "model/1": 3, "rate": 0.25}
    derived = ag.derive(Sized(), ag.Architecture(choices))
    with fixed_arch(choices):
        fixed = Sized()
    shapes = {name: value.shape for name, value in fixed.state_dict().items()}
    assert shapes == {name: value.shape for name, value in derived.state_dict().items()}
    assert shapes["blocks.2.0.weight"] == (2, 2)
    assert fixed.drop.p == 0.25
    assert {type(module) for module in fixed.modules()} - {Sized} == {
        torch.nn.Linear, torch.nn.Sequential, torch.nn.ReLU, torch.nn.Dropout,
    }  # fmt: skip
    assert isinstance(fixed.first, nn.Linear)
    assert isinstance(Sized().first, nn.Linear)
    assert not isinstance(fixed.drop, nn.Linear)
    assert ag.Supernet(Sized())(torch.randn(3, 4)).shape == (3, 2)


def test_what_is_fixed_is_known_inside_and_forgotten_after() -> None:
    current_model = nni.nas.space.current_model
    with fixed_arch(CHOICES):
        assert current_model() == CHOICES
    assert current_model() is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.LayerChoice([torch.nn.Identity()], prior=[1.0]), "prior"),
        (lambda: nn.InputChoice(3, None), "n_chosen=None"),
        (lambda: nn.Cell([torch.nn.Identity()], 2, merge_op="loose_end"), "merge_op must be 'all'"),
        (lambda: nn.Repeat(torch.nn.Identity(), 1.5), "depth must be"),
        (lambda: nn.Repeat([torch.nn.Identity()], 2), "a block for each repetition"),
        (lambda: nn.ValueChoice([1, 2], prior=[0.5, 0.5]), "prior"),
        (
            lambda: nni.retiarii.evaluator.pytorch.Classification(max_epochs=1, val_check_interval=2),
            "val_check_interval",
        ),
        (lambda: nni.retiarii.evaluator.pytorch.Classification(), "max_epochs"),
        (lambda: nni.retiarii.experiment.pytorch.RetiariiExeConfig("remote"), "'local'"),
        (lambda: nni.retiarii.experiment.pytorch.RetiariiExeConfig(execution_engine="py"), "'oneshot'"),
        (lambda: nni.retiarii.strategy.DARTS(unrolled=True), "no option 'unrolled'"),
    ],
)
def test_what_has_no_meaning_here_is_refused_with_what_to_do(make: Any, message: str) -> None:
    with pytest.raises((OptionError, SpaceError), match=message):
        make()


def test_settings_of_trials_are_said_to_have_no_effect() -> None:
    config = nni.retiarii.experiment.pytorch.RetiariiExeConfig("local")
    config.experiment_name = "mine"
    with pytest.warns(UserWarning, match="trial_concurrency concerns trials"):
        config.trial_concurrency = 2
    with pytest.warns(UserWarning, match="use_active_gpu concerns trials"):
        config.training_service.use_active_gpu = True
