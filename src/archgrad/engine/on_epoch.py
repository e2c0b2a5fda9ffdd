"""What a caller is told at the end of an epoch, and may answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from archgrad.architecture import Architecture
from archgrad.distributed import raise_on_all_ranks, rank
from archgrad.errors import OptionError
from archgrad.json_text import shown
from archgrad.rank_state import send_state
from archgrad.runs import capture_random_state, restore_random_state

__all__ = ["EpochState", "OnEpoch", "asks_to_stop", "listeners"]


@dataclass(frozen=True, kw_only=True)
class EpochState:
    """Where a run stands at the end of an epoch."""

    epoch: int
    """That has ended, 0-based, as in metrics.csv."""
    epochs: int
    """How many the run has."""
    row: Mapping[str, Any]
    """Of metrics.csv; cannot be changed."""
    architecture: Architecture | None
    """That the alphas decide at present; None in a retraining."""
    network: nn.Module
    """The supernet of a search, the network of a retraining: to be looked at, not to be changed."""


OnEpoch = Callable[[EpochState], bool | None]
"""Called at the end of an epoch; True asks to stop the run there."""


def listeners(on_epoch: OnEpoch | Sequence[OnEpoch] | None) -> tuple[OnEpoch, ...]:
    """Return the functions of `on_epoch`.

    Raises:
        OptionError: It is neither a function nor several.
    """
    found = () if on_epoch is None else (on_epoch,) if callable(on_epoch) else on_epoch
    if not isinstance(found, tuple | list) or not all(map(callable, found)):
        raise OptionError(
            f"on_epoch must be a function of an EpochState, or a list of such, but got {shown(on_epoch)}."
        )
    for function in found:
        try:
            inspect.signature(function).bind(None)
        except TypeError as error:
            raise OptionError(
                f"on_epoch is called with one argument, an EpochState, but {shown(function)} cannot be: {error}. Give "
                f"a function such as lambda state: state.row['valid_loss'] < 0.1."
            ) from error
        except ValueError:  # one without a signature, as of C
            continue
    return tuple(found)


def asks_to_stop(functions: Sequence[OnEpoch], state: EpochState) -> bool:
    """Call all functions on process 0, and return on every process whether one of them asks to stop.

    Random states and modes (training, evaluation) are afterwards as before, so that a run is the same with and without.

    Raises:
        OptionError: A function returned something else than True, False or None.
    """
    stop = False
    with raise_on_all_ranks():
        if rank() == 0 and functions:
            with _as_before(state.network):
                answers = [function(state) for function in functions]
            for answer in answers:
                if answer is not None and not _is_truth(answer):
                    raise OptionError(
                        f"on_epoch must return True to stop the run, or False or None, but it returned "
                        f"{shown(answer)} after epoch {state.epoch + 1}. Write figures to a file of your own."
                    )
            stop = any(answers)
    return bool(send_state(stop)) if functions else False


def _is_truth(answer: Any) -> bool:
    """Return whether it is True or False, also NumPy's or as a tensor, which comparisons of their numbers give."""
    if isinstance(answer, Tensor):
        return answer.dtype == torch.bool and answer.numel() == 1
    return isinstance(answer, bool | np.bool_)


@contextmanager
def _as_before(network: nn.Module) -> Iterator[None]:
    random, modes = capture_random_state(), [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        restore_random_state(random)
        for module, training in modes:
            module.training = training
