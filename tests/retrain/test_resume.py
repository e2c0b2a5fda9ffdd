"""An interrupted retraining goes on as if nothing had happened, to the last bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from archgrad.data import TensorSamples
from archgrad.errors import NonFiniteError, RunError
from archgrad.retrain import RetrainResult, retrain
from archgrad.runs import Interrupted, load_state, read_metrics, save_state

from .small import small_images, small_network

EPOCHS, STEPS = 3, 6


class PowerCut(BaseException):
    """Ends a run as nothing in it expects."""


def run(folder: Path, *, network: nn.Module | None = None, data: Any = None, **options: Any) -> RetrainResult:
    options = {"epochs": EPOCHS, "batch_size": 8, "quiet": True, "device": "cpu", "cutout": 2, **options}
    # With the hook that cuts other runs: a network with hooks gets its images in their own memory format.
    network = do_at_step(small_network(), -1, cut) if network is None else network
    return retrain(network, data or small_images(), run_dir=folder, **options)


def do_at_step(network: nn.Module, step: int, action: Callable[[], None]) -> nn.Module:
    """Return a network that does something in its forward pass number `step`, counted from 0 in training mode."""
    count = 0

    def hook(module: nn.Module, _: Any) -> None:
        nonlocal count
        if module.training:
            if count == step:
                action()
            count += 1

    network.register_forward_pre_hook(hook)
    return network


def cut() -> None:
    raise PowerCut


def results(folder: Path) -> dict[str, bytes]:
    names = ("metrics.csv", "weights/last.safetensors", "weights/best.safetensors", "predictions.safetensors")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    run(folder)
    return results(folder)


@pytest.mark.parametrize("step", range(0, EPOCHS * STEPS, 2))
def test_a_power_cut_at_any_step_changes_nothing(step: int, tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    with pytest.raises(PowerCut):
        run(tmp_path / "run", network=do_at_step(small_network(), step, cut), checkpoint_steps=2)
    torch.rand(7)  # the random states of the second process are not those of the first
    result = run(tmp_path / "run", resume=True)
    assert results(tmp_path / "run") == uninterrupted
    assert [row["epoch"] for row in result.history] == list(range(EPOCHS))
    assert result.history == read_metrics(tmp_path / "run" / "metrics.csv")


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw", "learning_rate": 0.01},
        {"precision": "64"},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"accumulation": 2},
    ],
)
def test_every_way_to_train_resumes_to_the_bit(options: dict[str, Any], tmp_path: Path) -> None:
    run(tmp_path / "whole", **options)
    with pytest.raises(PowerCut):
        run(tmp_path / "cut", network=do_at_step(small_network(), 9, cut), checkpoint_steps=4, **options)
    run(tmp_path / "cut", resume=True, **options)
    assert results(tmp_path / "cut") == results(tmp_path / "whole")


def test_many_power_cuts_change_nothing(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    resume = False
    for _ in range(10):
        try:
            run(tmp_path / "run", network=do_at_step(small_network(), 4, cut), checkpoint_steps=1, resume=resume)
        except PowerCut:
            resume = True
        else:
            break
    assert results(tmp_path / "run") == uninterrupted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [0, 5, 8])
def test_a_signal_finishes_the_step_saves_and_ends(
    number: signal.Signals, step: int, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    network = do_at_step(small_network(), step, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted) as caught:
        run(tmp_path / "run", network=network)
    assert caught.value.code == 128 + number
    state = load_state(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert state["epoch"] * STEPS + state["step"] == step + 1
    run(tmp_path / "run", resume=True)
    assert results(tmp_path / "run") == uninterrupted


def test_the_message_of_an_interruption_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = do_at_step(small_network(), 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        run(tmp_path / "run", network=network, quiet=False)
    text = capsys.readouterr().err
    assert "interrupted by SIGTERM in epoch 1, before step 4" in text
    assert f"is saved in '{tmp_path / 'run'}'. Go on with resume=True." in text


def test_a_finished_run_resumes_to_the_same_result(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    first = run(tmp_path / "run")
    again = run(tmp_path / "run", resume=True)
    assert again.test_accuracy == first.test_accuracy
    assert again.history == first.history
    assert (again.best_test_accuracy, again.best_epoch) == (first.best_test_accuracy, first.best_epoch)
    assert results(tmp_path / "run") == uninterrupted


def test_a_damaged_last_checkpoint_costs_only_the_work_since_the_one_before(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    with pytest.raises(PowerCut):
        run(tmp_path / "run", network=do_at_step(small_network(), 15, cut), checkpoint_steps=2)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    with pytest.warns(UserWarning, match="Going on from the older"):
        run(tmp_path / "run", resume=True)
    assert results(tmp_path / "run") == uninterrupted


def test_options_that_change_the_result_may_not_change_others_may(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    with pytest.raises(PowerCut):
        run(tmp_path / "run", network=do_at_step(small_network(), 7, cut), checkpoint_steps=2)
    with pytest.raises(RunError, match=r"learning_rate: the run has 0\.025, asked for 0\.1"):
        run(tmp_path / "run", resume=True, learning_rate=0.1)
    run(tmp_path / "run", resume=True, log_frequency=1, checkpoint_minutes=1.0, checkpoint_steps=None)
    assert results(tmp_path / "run") == uninterrupted


def test_another_network_or_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PowerCut):
        run(tmp_path / "run", network=do_at_step(small_network(), 7, cut))
    with pytest.raises(RunError, match="not one of this network"):
        run(tmp_path / "run", resume=True, network=small_network(auxiliary=False))
    with pytest.raises(RunError, match="6 batches per epoch, but the data now gives 10"):
        run(tmp_path / "run", resume=True, data=small_images(80))
    save_state(tmp_path / "run" / "checkpoints" / "last.ckpt", {"kind": "search"})
    with pytest.raises(RunError, match="not one of a retraining"):
        run(tmp_path / "run", resume=True)


# --- values that are not finite, and memory ---------------------------------------------------------------------------


def broken_images() -> Any:
    """Data whose sample 3 is so large that the loss is not finite."""
    data = small_images()
    assert isinstance(data.train, TensorSamples)
    inputs = data.train.inputs.float() / 255
    inputs[3] = 1e38
    return TensorSamples(inputs, data.train.targets)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path / "run", data=broken_images(), checkpoint_steps=1, epochs=1)
    text = str(caught.value)
    assert "Training stopped in epoch 1 at step" in text
    step = int(text.split("at step ")[1].split(":")[0])
    for part in ("loss ", "gradient norm ", "weights norm ", "last good checkpoint is kept", "on_nonfinite='skip'"):
        assert part in text
    state = load_state(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert state["step"] == step - 1 > 0  # messages count from 1
    assert all(bool(torch.isfinite(value).all()) for value in state["learner"]["network"].values())


def test_a_stopped_run_goes_on_by_skipping(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="Training stopped"):
        run(tmp_path / "run", data=broken_images(), epochs=2)
    result = run(tmp_path / "run", data=broken_images(), epochs=2, resume=True, on_nonfinite="skip")
    assert result.skipped_steps == 2  # the batch with the sample, once an epoch
    assert all(bool(torch.isfinite(value).all()) for value in result.network.state_dict().values())


def test_an_epoch_without_one_finite_step_stops(tmp_path: Path) -> None:
    data = TensorSamples(torch.full((16, 1, 6, 6), 3e38), torch.arange(16) % 3)
    with pytest.raises(NonFiniteError, match="Not one step of epoch 1"):
        run(tmp_path / "run", data=data, on_nonfinite="skip")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        MemoryError(),
    ],
)
def test_out_of_memory_names_the_remedies(error: Exception, tmp_path: Path) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(RunError) as caught:
        run(tmp_path / "run", network=do_at_step(small_network(), 3, fail))
    for remedy in ("batch_size (now 8)", "accumulation=2", "activation checkpointing"):
        assert remedy in str(caught.value)


def test_other_errors_of_the_network_come_through_as_they_are(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match=r"^mine$"):
        run(tmp_path / "run", network=do_at_step(small_network(), 3, fail))


def test_auto_begins_a_retraining_and_goes_on_with_it(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    network = do_at_step(small_network(), STEPS + 2, cut)
    with pytest.raises(PowerCut):
        run(tmp_path / "run", network=network, resume="auto")
    run(tmp_path / "run", resume="auto")
    assert results(tmp_path / "run") == uninterrupted
