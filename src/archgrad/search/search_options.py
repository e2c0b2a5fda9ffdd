"""The options of a search that are plain numbers and words, checked at the door."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from archgrad.errors import OptionError
from archgrad.json_text import shown
from archgrad.runs import check_seed
from archgrad.sizes import check_whole

__all__ = ["OnNonfinite", "Precision", "Schedule", "SearchOptions"]

Precision = Literal["32", "64", "bf16"]
Schedule = Literal["cosine", "constant"]
OnNonfinite = Literal["stop", "skip"]


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What decides the result of a search, beside space, data and method; the defaults are the authors'.

    Source: Liu et al. 2019, section 3.1.
    """

    epochs: int = 50
    """Passes over the weights' half of the training data, at least 1."""
    batch_size: int = 64
    """Samples of each of a step's two batches, on each process; at least 1."""
    seed: int = 0
    """Of the split, the order, augmentation, alphas and the relaxation's draws; from 0 to 2**32 - 1."""
    learning_rate: float = 0.025
    """Of the weights' SGD in the first epoch; above 0."""
    learning_rate_min: float = 0.001
    """What the cosine schedule falls to after the last epoch; at least 0."""
    schedule: Schedule = "cosine"
    """Course of the weights' learning rate over the epochs: "cosine" or "constant"."""
    momentum: float = 0.9
    """Of the weights' SGD; from 0 to below 1."""
    weight_decay: float = 3e-4
    """Of the weights' SGD; at least 0."""
    grad_clip: float = 5.0
    """Largest L2 norm of the weights' gradient; 0 is off. Alphas are never clipped."""
    weights_fraction: float = 0.5
    """Share of the training data that the weights learn from; the alphas learn from the rest. Between 0 and 1."""
    accumulation: int = 1
    """Parts that each batch is cut into, one after the other, to save memory; at least 1."""
    cutout: int = 0
    """Side in pixels of a square that is blanked in each training image; 0 is off."""
    precision: Precision = "32"
    """"32", "64", or "bf16": autocast to bfloat16, weights, alphas and BatchNorm statistics in 32 bits."""
    on_nonfinite: OnNonfinite = "stop"
    """What a loss or gradient that is not finite does: "stop" the run, or "skip" the step."""
    sync_batchnorm: bool = False
    """With several processes, let BatchNorm see the batch of all of them in training."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name in ("epochs", "batch_size", "accumulation"):
            check_whole(name, getattr(self, name), least=1)
        check_whole("cutout", self.cutout, least=0)
        _check("learning_rate", self.learning_rate, "a finite number above 0", lambda v: 0 < v < float("inf"))
        for name in ("learning_rate_min", "weight_decay", "grad_clip"):
            _check(name, getattr(self, name), "a finite number of at least 0", lambda v: 0 <= v < float("inf"))
        _check("momentum", self.momentum, "from 0 to below 1", lambda v: 0 <= v < 1)
        _check("weights_fraction", self.weights_fraction, "between 0 and 1", lambda v: 0 < v < 1)
        for name, words in (
            ("schedule", ("cosine", "constant")),
            ("precision", ("32", "64", "bf16")),
            ("on_nonfinite", ("stop", "skip")),
        ):
            _check(name, getattr(self, name), f"one of {', '.join(words)}", lambda v, words=words: v in words)


def _check(name: str, value: object, rule: str, holds: object) -> None:
    try:
        valid = bool(holds(value))  # type: ignore[operator]
    except TypeError:
        valid = False
    if not valid:
        raise OptionError(f"{name} must be {rule}, but got {name}={shown(value)}.")
