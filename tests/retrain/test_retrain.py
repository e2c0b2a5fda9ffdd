"""A retraining from data to files, and what it refuses."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from archgrad.architecture import Architecture
from archgrad.cost import count_multiply_adds
from archgrad.data import Data, TensorSamples, evaluation_batches
from archgrad.errors import DataError, OptionError, RunError
from archgrad.options import names_of
from archgrad.retrain import RetrainResult, retrain
from archgrad.runs import load_tensors, read_metrics
from archgrad.tasks import TaskOptions

from .small import CLASSES, SmallNetwork, small_images, small_network


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(network: nn.Module | None = None, data: Any = None, **options: Any) -> RetrainResult:
    options = {"epochs": 3, "batch_size": 8, "quiet": True, "device": "cpu", **options}
    return retrain(network or small_network(), data or small_images(), **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RetrainResult:
    folder = tmp_path_factory.mktemp("finished") / "run"
    architecture = Architecture({"conv": "conv3"})
    return run(epochs=8, cutout=2, run_dir=folder, architecture=architecture, config={"space": "small"})


def read_json(result: RetrainResult, name: str) -> Any:
    assert result.run_dir is not None
    return json.loads((result.run_dir / name).read_text())


def test_it_learns(finished: RetrainResult) -> None:
    assert finished.test_accuracy is not None
    assert finished.test_accuracy > 0.8
    assert finished.history[-1]["train_loss"] < finished.history[0]["train_loss"] * 0.7


def test_the_run_folder_holds_what_it_promises(finished: RetrainResult) -> None:
    assert finished.run_dir is not None
    names = {str(path.relative_to(finished.run_dir)) for path in finished.run_dir.rglob("*") if path.is_file()}
    assert {name for name in names if not name.startswith(("events", "."))} == {
        "config.yaml",
        "architecture.json",
        "weights/best.safetensors",
        "weights/last.safetensors",
        "checkpoints/last.ckpt",
        "checkpoints/previous.ckpt",
        "metrics.csv",
        "timings.csv",
        "environment.json",
        "predictions.safetensors",
        "worst.safetensors",
        "summary.json",
    }
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert Architecture.load(finished.run_dir / "architecture.json") == Architecture({"conv": "conv3"})


def test_the_configuration_has_every_option(finished: RetrainResult) -> None:
    assert finished.run_dir is not None
    config = yaml.safe_load((finished.run_dir / "config.yaml").read_text())
    assert config["command"] == "retrain"
    assert (config["space"], config["data"], config["epochs"], config["learning_rate"]) == ("small", "bars", 8, 0.025)
    import inspect

    own = {"network", "data", "architecture", "run_dir", "resume", "overwrite", "quiet", "config"}
    own |= {"on_epoch", "max_minutes", *names_of(TaskOptions)}  # those of a task stand there where they are given
    assert set(inspect.signature(retrain).parameters) - own <= set(config)


def test_metrics_have_their_columns_and_match_the_history(finished: RetrainResult) -> None:
    assert finished.run_dir is not None
    rows = read_metrics(finished.run_dir / "metrics.csv")
    assert rows == finished.history
    assert list(rows[0]) == [
        "epoch",
        "learning_rate",
        "drop_path",
        "train_loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
        "weights_gradient_norm",
    ]
    timings = read_metrics(finished.run_dir / "timings.csv")
    assert [row["epoch"] for row in timings] == list(range(8))
    assert set(timings[0]) == {
        "epoch",
        "seconds",
        "images_per_second",
        "peak_memory_mb",
        "waiting_share",
        "checkpoint_seconds",
    }


def test_last_and_best_weights_give_the_accuracies_they_stand_for(finished: RetrainResult) -> None:
    assert finished.run_dir is not None
    data = small_images()
    for name, accuracy in (("last", finished.test_accuracy), ("best", finished.best_test_accuracy)):
        network = SmallNetwork()
        network.load_state_dict(load_tensors(finished.run_dir / "weights" / f"{name}.safetensors"))
        network.eval()
        assert data.test is not None
        batches = evaluation_batches(data.test, batch_size=7, transform=data.evaluation_transform())
        hits = sum(int((network(inputs).argmax(1) == targets).sum()) for inputs, targets in batches)
        assert hits / 20 == accuracy
    accuracies = [row["test_accuracy"] for row in finished.history]
    assert finished.best_test_accuracy == max(accuracies)
    assert finished.best_epoch == accuracies.index(max(accuracies))
    assert not finished.network.training


def test_predictions_and_summary_agree(finished: RetrainResult) -> None:
    assert finished.run_dir is not None
    predictions = load_tensors(finished.run_dir / "predictions.safetensors")
    assert predictions["logits"].shape == (20, CLASSES)
    assert predictions["logits"].dtype == torch.float32
    assert torch.equal(predictions["targets"], torch.arange(20) % CLASSES)
    summary = read_json(finished, "summary.json")
    hits = (predictions["logits"].argmax(1) == predictions["targets"]).double().mean()
    assert summary["test_accuracy"] == float(hits) == finished.test_accuracy
    assert summary["test_loss"] == pytest.approx(
        float(F.cross_entropy(predictions["logits"], predictions["targets"])), rel=1e-5
    )
    assert summary["classes"] == ["top", "middle", "bottom"]
    assert summary["image_shape"] == [1, 6, 6]
    assert len(summary["mean"]) == len(summary["std"]) == 1
    without_head = sum(p.numel() for name, p in finished.network.named_parameters() if "auxiliary" not in name)
    assert summary["parameters"] == without_head
    assert summary["multiply_adds"] == count_multiply_adds(finished.network, (1, 6, 6)) > 0
    assert summary["seconds"] > 0


def test_the_worst_images_are_the_most_confident_mistakes(tmp_path: Path) -> None:
    data = small_images()
    assert isinstance(data.test, TensorSamples)
    hard = TensorSamples(data.test.inputs, data.test.targets.roll(3) * (torch.arange(20) % 2))  # half of them are wrong
    data = Data.from_datasets(data.train, hard, classes=data.classes)
    result = run(None, data, epochs=1, run_dir=tmp_path / "run")
    assert result.run_dir is not None
    worst = load_tensors(result.run_dir / "worst.safetensors")
    predictions = load_tensors(result.run_dir / "predictions.safetensors")
    confidence, predicted = predictions["logits"].softmax(1).max(1)
    wrong = [index for index in range(20) if predicted[index] != predictions["targets"][index]]
    wrong.sort(key=lambda index: -float(confidence[index]))
    wrong = wrong[:16]
    assert 0 < len(wrong) == len(worst["images"])
    assert worst["images"].dtype == torch.uint8
    assert torch.equal(worst["images"], hard.inputs[wrong])
    assert torch.equal(worst["targets"], predictions["targets"][wrong])
    assert torch.equal(worst["predicted"], predicted[wrong])
    assert torch.equal(worst["confidence"], confidence[wrong])


def test_the_test_set_is_only_reported_on() -> None:
    data = small_images()
    assert isinstance(data.test, TensorSamples)
    other = Data.from_datasets(
        data.train,
        TensorSamples(255 - data.test.inputs, data.test.targets.flip(0)),
        classes=data.classes,
        augmentation=data.augmentation,
    )
    first, second = run(data=data), run(data=other)
    assert all(torch.equal(a, b) for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True))
    assert first.test_loss != second.test_loss


def test_a_seed_repeats_exactly_and_another_does_not() -> None:
    first, again, other = run(seed=1), run(seed=1), run(seed=2)
    assert first.history == again.history
    assert first.history != other.history


def test_the_callers_random_states_are_left_alone() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), float(torch.rand(()))
    random.seed(1)
    np.random.seed(1)
    network = small_network()
    torch.manual_seed(1)
    run(network)
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected


def test_every_batch_is_seen_augmented_and_cut_out() -> None:
    seen: list[Tensor] = []
    network = small_network()
    network.stem.register_forward_hook(lambda module, inputs, _: seen.append(inputs[0]) if module.training else None)
    run(network, epochs=1, cutout=3)
    assert sum(len(inputs) for inputs in seen) == 44
    blanked = torch.cat([(inputs == 0).flatten(1).sum(1) for inputs in seen])
    assert bool((blanked >= 4).all())  # a square of 3 with its centre in a corner leaves 2x2
    assert bool((blanked <= 9 + 2).all())


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32", torch.float32), ("64", torch.float64), ("bf16", torch.float32)]
)
def test_precisions_train(precision: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    result = run(precision=precision, run_dir=tmp_path / "run", optimizer="adamw", learning_rate=0.01)
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert next(result.network.parameters()).dtype == dtype
    assert load_tensors(tmp_path / "run" / "predictions.safetensors")["logits"].dtype == torch.float32


# --- data that is not images, or has no test set ----------------------------------------------------------------------


def features(count: int = 40) -> TensorSamples:
    targets = torch.arange(count) % CLASSES
    return TensorSamples(F.one_hot(targets, 5).float() + 0.01 * torch.arange(count)[:, None], targets)


def test_features_without_a_test_set_are_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    result = run(network, features(), run_dir=tmp_path / "run", learning_rate=0.3, quiet=False)
    assert result.history[-1]["train_accuracy"] > result.history[0]["train_accuracy"]
    assert result.test_accuracy is result.best_test_accuracy is result.best_epoch is None
    assert not (tmp_path / "run" / "predictions.safetensors").exists()
    summary = read_json(result, "summary.json")
    assert summary["image_shape"] is summary["test_accuracy"] is None
    assert (summary["parameters"], summary["multiply_adds"]) == (5 * 8 + 8 + 8 * 3 + 3, 5 * 8 + 8 * 3)
    said = capsys.readouterr().err
    assert said.startswith("Data: 40 samples, 3 classes, inputs of shape (5,), no test set.\n")
    assert " samples/s " in said
    assert "drop_path" not in said  # the default, which nobody has asked for


def test_a_drop_path_that_was_asked_for_and_does_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    run(nn.Sequential(nn.Linear(5, CLASSES)), features(), epochs=1, drop_path=0.3, quiet=False)
    assert "no paths to drop, so drop_path=0.3 does nothing" in capsys.readouterr().err
    run(nn.Sequential(nn.Linear(5, CLASSES)), features(), epochs=1, drop_path=0.0, quiet=False)
    assert "drop" not in capsys.readouterr().err


# --- what is refused, with nothing written ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": -1}, OptionError, "epochs"),
        ({"batch_size": 45}, DataError, "45"),
        ({"cutout": 6}, OptionError, "images of 6 pixels"),
        ({"device": "toaster"}, OptionError, "toaster"),
        ({"log_frequency": 0}, OptionError, "log_frequency"),
        ({"workers": -1}, OptionError, "workers"),
        ({"network": SmallNetwork(classes=5)}, OptionError, r"logits of shape \(2, 3\)"),
        ({"network": SmallNetwork(channels=3)}, OptionError, "cannot take a batch of this data"),
        (
            {"data": TensorSamples(torch.rand(20, 5), torch.rand(20)), "network": nn.Linear(5, 3)},
            OptionError,
            r"targets' shape \(2,\) or \(2, 1\), but it returned \(2, 3\)",
        ),
        ({"data": features(), "network": nn.Linear(5, 3), "cutout": 2}, DataError, "Cutout is for images"),
        ({"resume": True, "overwrite": True}, OptionError, "Give one of them"),
        ({"wandb": "project"}, OptionError, r"archgrad\[wandb\]"),
    ],
)
def test_bad_input_is_met_at_the_door(
    options: dict[str, Any], error: type, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(error, match=message):
        run(**{"run_dir": tmp_path / "run", **options})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["resume", "overwrite"])
def test_folder_options_need_a_folder(option: str) -> None:
    with pytest.raises(OptionError, match="Give run_dir"):
        run(**{option: True})


def test_an_earlier_run_is_kept_unless_told(finished: RetrainResult) -> None:
    assert finished.run_dir is not None
    before = (finished.run_dir / "weights" / "last.safetensors").read_bytes()
    with pytest.raises(RunError, match="is not empty"):
        run(run_dir=finished.run_dir)
    assert (finished.run_dir / "weights" / "last.safetensors").read_bytes() == before


def test_synchronised_norms_need_equally_many_parts_on_every_process() -> None:
    # 33 samples are 4 batches of 8 and one sample that is left out; of 36, the last batch has 4.
    with pytest.raises(OptionError, match="accumulation=8 and a batch with 4 samples"):
        retrain(small_network(), small_images(36), epochs=1, batch_size=8, accumulation=8, sync_batchnorm=True)
