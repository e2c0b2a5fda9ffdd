"""A loss or gradient that is not finite stops the search or is skipped; short memory is explained."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archgrad.data import TensorSamples
from archgrad.errors import NonFiniteError, RunError
from archgrad.runs import load_state, read_metrics

from .problems import position, run_trainer, some_digits
from .runs import STEPS, loss_that, loss_with, search


def infinite(value: Tensor) -> Tensor:
    return value * math.inf


def steep(value: Tensor) -> Tensor:
    """A finite loss whose gradient is not."""
    return value.detach() + (value - value.detach()).abs().sqrt()


def is_finite(state: Any) -> bool:
    if isinstance(state, dict):
        return all(map(is_finite, state.values()))
    return not isinstance(state, Tensor) or not state.is_floating_point() or bool(torch.isfinite(state).all())


@pytest.mark.parametrize("of", ["weights", "alphas"])
@pytest.mark.parametrize("broken", [infinite, steep])
def test_a_value_that_is_not_finite_stops_the_search_and_keeps_the_last_good_checkpoint(
    broken: Callable[[Tensor], Tensor], of: str, tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteError) as caught:
        search(tmp_path / "run", loss=loss_with(broken, step=4, of=of), checkpoint_steps=1)
    text = str(caught.value)
    which = {"weights": "training", "alphas": "validation"}[of]
    assert text.startswith(f"The search stopped in epoch 2 at step 2. The {which} loss is ")
    assert f"the L2 norm of the {of}' gradient" in text
    assert ("inf" if broken is infinite else "nan") in text
    assert f"The last checkpoint is kept in '{tmp_path / 'run'}'" in text
    assert "on_nonfinite='skip'" in text
    assert position(tmp_path / "run") == (1, 1)
    state = load_state(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert is_finite(state["supernet"])
    assert is_finite(state["weights_optimizer"])
    assert is_finite(state["alphas_optimizer"])


def test_a_stopped_search_goes_on_by_skipping_and_counts(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError):
        search(tmp_path / "run", loss=loss_with(infinite, step=4))
    result = search(tmp_path / "run", loss=loss_with(infinite, step=1), resume=True, on_nonfinite="skip")
    assert [row["skipped_steps"] for row in read_metrics(tmp_path / "run" / "metrics.csv")] == [0, 1, 1]
    assert is_finite(result.supernet.state_dict())


def test_a_skipped_step_leaves_no_trace_in_running_statistics(tmp_path: Path) -> None:
    data = some_digits()
    assert isinstance(data.train, TensorSamples)
    inputs = data.train.inputs.float() / 255
    inputs[5] = 1e38  # overflows in the network
    result = search_on(tmp_path / "run", TensorSamples(inputs, data.train.targets), on_nonfinite="skip")
    skipped = result.history[-1]["skipped_steps"]
    assert 3 <= skipped <= 2 * 3
    assert is_finite(result.supernet.state_dict())
    assert all(math.isfinite(row["train_loss"]) and math.isfinite(row["valid_loss"]) for row in result.history)


def search_on(folder: Path, data: Any, **options: Any) -> Any:
    import archgrad as ag

    torch.manual_seed(0)
    given = {"epochs": 3, "batch_size": 16, "device": "cpu", "quiet": True}
    return ag.search(ag.spaces.tiny(channels=2), data, run_dir=folder, **{**given, **options})


# --- memory -----------------------------------------------------------------------------------------------------------


def raise_(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "happen",
    [
        lambda: raise_(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")),
        lambda: raise_(MemoryError()),
        lambda: torch.empty(2**60, dtype=torch.uint8),  # more than any machine has: torch's own words
    ],
    ids=["gpu", "python", "cpu"],
)
def test_out_of_memory_names_the_remedies_and_keeps_the_last_checkpoint(
    happen: Callable[[], object], tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="Memory ran out") as caught:
        search(tmp_path / "run", loss=loss_that(happen, step=STEPS), checkpoint_steps=1)
    for remedy in ("a smaller batch_size (now 16)", "accumulation=2", "activation_checkpointing=True"):
        assert remedy in str(caught.value)
    assert position(tmp_path / "run") == (1, 0)
    search(tmp_path / "run", resume=True)


def test_a_trainer_explains_short_memory_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.Conv2d, "forward", no_memory)
    with pytest.raises(RunError, match=r"Memory ran out.*batch_size \(now 16\)"):
        run_trainer(tmp_path / "run", resume=False)
