"""Time is booked where it was spent, and checkpoints are due when steps or minutes have passed."""

from __future__ import annotations

import time

import pytest
import torch

from archgrad.errors import RunError
from archgrad.runs import CheckpointSchedule, Clock, memory_explained


def test_a_checkpoint_is_due_by_steps_or_by_minutes() -> None:
    by_time = CheckpointSchedule(checkpoint_minutes=2.0)
    assert not by_time.is_due(steps=10**6, seconds=119.0)
    assert by_time.is_due(steps=0, seconds=120.0)
    by_steps = CheckpointSchedule(checkpoint_minutes=2.0, checkpoint_steps=5)
    assert not by_steps.is_due(steps=4, seconds=0.0)
    assert by_steps.is_due(steps=5, seconds=0.0)


def test_a_clock_goes_on_from_where_it_was_stopped() -> None:
    clock = Clock(total=100.0, epoch=10.0, evaluating=2.0, saving=1.0)
    time.sleep(0.01)
    passed = clock.tick()
    assert passed >= 0.01
    assert clock.total == 100.0 + passed
    assert clock.training == pytest.approx(7.0 + passed)
    clock.start_epoch()
    assert (clock.epoch, clock.evaluating, clock.saving, clock.waiting) == (0.0, 0.0, 0.0, 0.0)
    assert clock.total == 100.0 + passed


def test_a_clock_that_is_set_back_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "time", lambda: -1e9)
    assert 0 <= clock.tick() < 60


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_short_memory_is_explained_and_other_errors_come_through(error: Exception) -> None:
    with pytest.raises(RunError, match=r"Memory ran out.*Remedies: buy more"), memory_explained("buy more"):
        raise error
    with pytest.raises(RuntimeError, match="shapes"), memory_explained("buy more"):
        raise RuntimeError("shapes do not fit")
