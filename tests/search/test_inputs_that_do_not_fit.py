"""Inputs, targets and test sets that a network cannot take are told before the first step, by search and retraining."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag
from archgrad.errors import ArchgradError, DataError, OptionError

LABELS = torch.arange(24) % 3


def layer(make: Any) -> nn.Module:
    return ag.LayerChoice({"plain": make(), "deep": nn.Sequential(make(), nn.Tanh())}, label="a")


def table() -> nn.Module:
    return nn.Sequential(layer(lambda: nn.Linear(4, 3)))


def plane() -> nn.Module:
    return nn.Sequential(layer(lambda: nn.Conv2d(3, 3, 1)), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def line() -> nn.Module:
    return nn.Sequential(layer(lambda: nn.Conv1d(5, 3, 1)), nn.AdaptiveAvgPool1d(1), nn.Flatten())


def searched(space: nn.Module, data: Any, run_dir: Path) -> None:
    ag.search(space, data, epochs=1, batch_size=8, quiet=True, device="cpu", run_dir=run_dir)


def retrained(space: nn.Module, data: Any, run_dir: Path) -> None:
    network = ag.derive(space, {"a": "plain"})
    ag.retrain(network, data, epochs=1, batch_size=8, quiet=True, device="cpu", run_dir=run_dir)


WAYS = pytest.mark.parametrize("way", [searched, retrained])


@WAYS
@pytest.mark.parametrize(
    ("space", "inputs", "words"),
    [
        (plane, torch.rand(24, 6, 5, 3), r"\(\d, 6, 5, 3\) of torch.float32.*give x.movedim\(3, 1\)"),
        (plane, torch.rand(24, 6, 6), r"for grey ones give x\[:, None\]"),
        (plane, torch.rand(24, 1, 6, 6), "Build it for 1 channels, or give images of 3"),
        (line, torch.rand(24, 6), r"for one channel give x\[:, None\]"),
        (line, torch.rand(24, 9, 5), r"give x.movedim\(2, 1\)"),
        (table, torch.ones(24, 4).long(), r"for measured values give x.float\(\)"),
        (table, torch.ones(24, 4) > 0, r"for measured values give x.float\(\)"),
        (table, torch.rand(24, 4) * 1j, r"give torch.view_as_real\(x\)"),
        (table, torch.rand(24, 5), "Build it for the channels and size of the data"),
    ],
)
def test_inputs_of_another_layout(way: Any, space: Any, inputs: Tensor, words: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"cannot take a batch of this data.*{words}"):
        way(space(), (inputs, LABELS), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@WAYS
@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (
            5 - torch.arange(48).reshape(24, 2) % 5,
            r"An Embedding of 5 rows takes the numbers 0 to 4.* from \d to 5.*6 rows",
        ),
        (torch.arange(48).reshape(24, 2) % 5 - 1, r"from -1 to \d"),
        (torch.rand(24, 2), r"An Embedding takes whole numbers: give x.long\(\)"),
    ],
)
def test_numbers_that_an_embedding_has_no_row_for(way: Any, inputs: Tensor, words: str, tmp_path: Path) -> None:
    space = nn.Sequential(nn.Embedding(5, 4), layer(lambda: nn.Linear(4, 3)), nn.Flatten(), nn.Linear(6, 3))
    with pytest.raises(OptionError, match=words):
        way(space, (inputs, LABELS), tmp_path / "run")
    assert not any(part._forward_pre_hooks for part in space.modules())


@WAYS
@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (LABELS + 1, "reach from 1 to 3.* 3 outputs.* numbered from 0: give targets - 1"),
        (LABELS[:, None], r"Give targets(\[:, 0\]|\.squeeze\(-1\))"),
    ],
)
def test_labels_of_spreadsheets(way: Any, targets: Tensor, words: str, tmp_path: Path) -> None:
    with pytest.raises((OptionError, DataError), match=words):
        way(table(), (torch.rand(24, 4), targets), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_hot_targets_get_the_remedy_of_their_own() -> None:
    with pytest.raises(OptionError, match=r"For one-hot targets give targets.float\(\)"):
        ag.search(table(), (torch.rand(24, 4), F.one_hot(LABELS)), epochs=1, batch_size=8, quiet=True, device="cpu")


def test_a_test_set_of_another_shape_is_told_before_training(tmp_path: Path) -> None:
    data = ag.Data.from_datasets(
        torch.utils.data.TensorDataset(torch.rand(24, 4), LABELS),
        torch.utils.data.TensorDataset(torch.rand(24, 5), LABELS),
    )
    with pytest.raises(OptionError, match=r"\(2, 5\) of torch.float32"):
        retrained(table(), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_with_channels_last_are_never_taken_for_many_channels() -> None:
    images = torch.zeros(24, 8, 8, 3)
    with pytest.raises(DataError, match=r"\(channels, height, width\), but a sample has \(8, 8, 3\).*movedim\(3, 1\)"):
        ag.search("tiny", (images.byte(), LABELS), epochs=1)
    with pytest.warns(UserWarning, match=r"read as images of 8 channels.*If their channels come last"):
        ag.Data.from_datasets(torch.utils.data.TensorDataset(images, LABELS))


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), NotImplementedError("later"), ZeroDivisionError()])
def test_errors_of_another_kind_stay_what_they_are(error: Exception, tmp_path: Path) -> None:
    space = table().append(odd := Odd())
    odd.error = error
    with pytest.raises((ArchgradError, NotImplementedError, ZeroDivisionError)) as caught:
        searched(space, (torch.rand(24, 4), LABELS), tmp_path / "run")
    assert "cannot take a batch of this data" not in str(caught.value)
