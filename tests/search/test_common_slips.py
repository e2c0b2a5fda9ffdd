"""What people type first: names in the place of values, classes in the place of instances, results in that of parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import archgrad as ag
from archgrad.bilevel import Unrolled
from archgrad.cli import main
from archgrad.errors import ArchitectureError, DataError, OptionError, SpaceError
from archgrad.search.short_forms import MethodOptions


def test_names_that_the_command_line_takes_work_in_python(tmp_path: Path) -> None:
    result = ag.search(
        "tiny", "digits", step="first-order", relaxation="gumbel", epochs=1, run_dir=tmp_path / "run", quiet=True
    )
    assert type(result.supernet.relaxation) is ag.Gumbel
    space = ag.spaces.tiny()
    choices = result.architecture.to_dict()["choices"]
    for given in (result, tmp_path / "run", str(tmp_path / "run"), result.architecture.to_dict(), choices):
        network = ag.derive(space, given)
        expected = ag.derive(space, result.architecture)
        assert [name for name, _ in network.named_parameters()] == [name for name, _ in expected.named_parameters()]
    assert ag.Architecture.load(tmp_path / "run") == result.architecture


def test_a_space_by_name_gets_its_weights_from_the_seed() -> None:
    first, second = (ag.search("tiny", "digits", epochs=1, seed=3, batch_size=256, quiet=True) for _ in range(2))
    assert first.history == second.history
    assert first.architecture == second.architecture


def test_a_step_by_name_is_the_step_with_its_defaults() -> None:
    assert MethodOptions(step="unrolled").choose_method().step == Unrolled()
    with pytest.raises(OptionError, match=r"There is no step 'unroled'. Did you mean 'unrolled'"):
        MethodOptions(step="unroled").choose_method()
    with pytest.raises(OptionError, match="give the object itself"):
        MethodOptions(step="mine.py:Step").choose_method()


@pytest.mark.parametrize("option", [{"step": Unrolled}, {"relaxation": ag.Gumbel}, {"method": ag.Method}])
def test_a_class_in_the_place_of_an_instance_is_told(option: dict[str, type]) -> None:
    with pytest.raises(OptionError, match=r"but got the class \w+\. Give \w+\(\)"):
        ag.search(ag.spaces.tiny(), "digits", epochs=1, quiet=True, **option)  # type: ignore[arg-type]


def test_spaces_and_data_by_wrong_names_get_a_suggestion() -> None:
    with pytest.raises(SpaceError, match="Did you mean 'tiny'"):
        ag.search("tinny", "digits", epochs=1, quiet=True)
    with pytest.raises(SpaceError, match=r"got the class Linear. Give Linear\(...\)"):
        ag.search(__import__("torch").nn.Linear, "digits", epochs=1, quiet=True)
    with pytest.raises(DataError, match="Did you mean 'cifar10'"):
        ag.data.load("cifar-10")


def test_samples_and_batches_that_are_not_what_is_taken_are_told_what_is() -> None:
    ragged = [torch.zeros(length) for length in (3, 4, 5, 6, 7, 8, 9)]
    with pytest.raises(DataError, match=r"\(8,\) \(7 tensors\) and \(7,\)\. A list of samples is .* torch\.stack"):
        ag.search("tiny", (ragged, torch.arange(7)), quiet=True)
    with pytest.warns(UserWarning, match="Of the DataLoader"), pytest.raises(DataError, match=r"must be a pair"):
        ag.search("tiny", DataLoader(ragged), quiet=True)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match=r"needs the space as a module, but got 'tiny'. Give for example"):
        ag.derive("tiny", {"stem": "conv3"})  # type: ignore[arg-type]


def test_a_space_for_images_refuses_other_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    windows = tmp_path / "windows.npz"
    np.savez(windows, x=np.zeros((40, 2, 16), np.float32), y=np.arange(40) % 2)
    with pytest.raises(
        SpaceError, match=r"'tiny' is for images, and not .*which are series .*: take timeseries, or a space of your"
    ):
        ag.search("tiny", str(windows), quiet=True)
    assert main(["search", "--data", str(windows), "--out", str(tmp_path / "run")]) == 2
    assert "'darts-cifar' is for images" in capsys.readouterr().err


def test_what_is_no_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="holds no architecture"):
        ag.derive(ag.spaces.tiny(), tmp_path)
    with pytest.raises(ArchitectureError, match="but got int"):
        ag.derive(ag.spaces.tiny(), 3)


def test_exact_is_a_step_in_python_as_on_the_command_line() -> None:
    assert MethodOptions(step="exact").choose_method().step == Unrolled(hvp="exact")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"loss": nn.CrossEntropyLoss}, r"loss must be a value, but got the class CrossEntropyLoss. Give CrossEntropy"),
        (
            {"loss": "cross-entropi"},
            r"loss must be one of cross-entropy, .* or in Python a function .* 'cross-entropy'\?",
        ),
        ({"loss": 3}, r"loss must be a function of \(outputs, targets\), but got 3"),
        ({"metrics": 0.5}, r"metrics must be a function of \(outputs, targets\), but got 0.5"),
        ({"weights_optimizer": "adam"}, "weights_optimizer must be a function of the list of weights, but got 'adam'"),
    ],
)
def test_what_is_no_function_is_refused_before_anything_is_built(option: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ag.search("tiny", "digits", epochs=1, quiet=True, **option)


def test_a_result_in_the_place_of_a_network_is_told_what_to_derive() -> None:
    result = ag.search("tiny", "digits", epochs=1, batch_size=256, quiet=True)
    with pytest.raises(
        OptionError, match=r"must be a torch.nn.Module, but got SearchResult. Give what archgrad.derive"
    ):
        ag.retrain(result, "digits", quiet=True)  # type: ignore[arg-type]


def test_candidates_that_are_classes_are_told() -> None:
    with pytest.raises(SpaceError, match=r"but got '0': a class. Give ReLU\(...\)"):
        ag.LayerChoice([nn.ReLU, nn.Tanh])  # type: ignore[list-item]


class Windows(nn.Sequential):
    """A space whose parameters are called as those of spaces for images are."""

    def __init__(self, in_channels: int = 2, num_classes: int = 1) -> None:
        candidates = {"short": nn.Conv1d(in_channels, 4, 1), "long": nn.Conv1d(in_channels, 4, 3, padding=1)}
        super().__init__(
            ag.LayerChoice(candidates, label="kernel"),
            nn.AdaptiveMaxPool1d(1),
            nn.Flatten(),
            nn.Linear(4, num_classes),
        )


class Needy(Windows):
    """A space that must be told its channels."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)


def test_a_space_is_told_only_what_its_data_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.randn(40, 2, 8)
    windows, values = (x, torch.arange(40) % 3), (x, torch.randn(40, 1))
    short = {"epochs": 1, "batch_size": 8, "quiet": True}
    shapes = dict(ag.search(Windows, windows, **short).supernet.weights)  # type: ignore[arg-type]
    assert [tuple(weight.shape) for weight in shapes.values() if weight.dim() > 1] == [(4, 2, 1), (4, 2, 3), (3, 4)]
    loss = {"loss": nn.functional.mse_loss, "metrics": nn.functional.l1_loss}
    shapes = dict(ag.search(Windows, values, **short, **loss).supernet.weights)  # type: ignore[arg-type]
    assert [tuple(weight.shape) for weight in shapes.values() if weight.dim() > 1] == [(4, 2, 1), (4, 2, 3), (1, 4)]
    with pytest.raises(
        SpaceError, match=r"built from num_classes, sensors alone, which is what .* functools.partial with in_ch"
    ):
        ag.search(Needy, windows, **short)  # type: ignore[arg-type]

    data = tmp_path / "windows.npz"
    np.savez(data, x=x.numpy(), y=windows[1].numpy())
    command = ["search", "--space", f"{__file__}:Needy", "--data", str(data), "--epochs", "1", "--batch-size", "8"]
    assert main([*command, "--out", str(tmp_path / "without")]) == 2
    assert "needs in_channels, but" in (told := capsys.readouterr().err)
    assert "type --space.in-channels" in told
    assert main([*command, "--space.in-channels", "2", "--out", str(tmp_path / "with")]) == 0


def test_a_test_set_of_another_shape_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    targets = torch.arange(40) % 3
    train, test = (ag.data.TensorSamples(torch.randn(40, channels, 8), targets) for channels in (2, 1))
    network = ag.derive(Windows(2, 3), {"kernel": "short"})
    with pytest.raises(OptionError, match="cannot take a batch of the test set, though one of the training set"):
        ag.retrain(network, ag.Data.from_datasets(train, test), epochs=1, run_dir=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_slips_in_small_things_are_told() -> None:
    with pytest.raises(SpaceError, match=r"got one module, ReLU\. Give for example"):
        ag.LayerChoice(nn.ReLU())  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="called with one argument, an EpochState"):
        ag.search("tiny", "digits", epochs=1, quiet=True, on_epoch=lambda: None)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="Did you mean 'darts'"):
        ag.search("tiny", "digits", epochs=1, quiet=True, method="drts")
    with pytest.raises(DataError, match=r"for the weights is too small\. One batch takes 5000 .* but the data has 718"):
        ag.search("tiny", "digits", epochs=1, quiet=True, batch_size=5000, device="cpu")
