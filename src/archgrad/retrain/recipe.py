"""The options of a retraining, checked at the door."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from archgrad.errors import OptionError
from archgrad.json_text import shown
from archgrad.runs import check_seed
from archgrad.sizes import check_whole

__all__ = ["OnNonfinite", "Optimizer", "Precision", "Recipe"]

Optimizer = Literal["sgd", "adamw"]
Precision = Literal["32", "64", "bf16"]
OnNonfinite = Literal["stop", "skip"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the result of a retraining; the defaults are the paper's.

    Raises:
        OptionError: A value is outside its range.

    Source: Liu et al. 2019, section 3.3 and appendix A.
    """

    epochs: int = 600
    """Passes over the training data, at least 1."""
    batch_size: int = 96
    """Samples of a step, at least 1."""
    learning_rate: float = 0.025
    """Of the first epoch; above 0."""
    learning_rate_min: float = 0.0
    """What the cosine falls to, after the last epoch; at least 0."""
    momentum: float = 0.9
    """Of SGD, from 0 to below 1; AdamW has its own."""
    weight_decay: float = 3e-4
    """At least 0; added to the gradient by SGD, decoupled in AdamW."""
    optimizer: Optimizer = "sgd"
    """"sgd" or "adamw"."""
    grad_clip: float = 5.0
    """Largest norm of the gradient over all weights; 0 is off."""
    cutout: int | None = None
    """Side in pixels of the square that is blanked; 0 is off; None is half the image, 16 pixels of CIFAR's 32."""
    auxiliary_weight: float = 0.4
    """Weight of the auxiliary head's loss, if the network has such a head; at least 0."""
    drop_path: float = 0.2
    """Probability that a path is dropped, reached linearly over the epochs; from 0 to below 1."""
    label_smoothing: float = 0.0
    """Share of each target spread over all classes, in training only; from 0 to below 1."""
    precision: Precision = "32"
    """"32", "64", or "bf16": autocast to bfloat16 with weights in 32 bits."""
    accumulation: int = 1
    """Parts that a batch is cut into, one after the other through the network; at least 1."""
    seed: int = 0
    """Of order, augmentation and drop path; from 0 to 2**32 - 1."""
    on_nonfinite: OnNonfinite = "stop"
    """What a loss or gradient that is not finite does: "stop" the run, or "skip" the step."""
    sync_batchnorm: bool = False
    """With several processes, let BatchNorm see the batch of all of them in training."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name in ("epochs", "batch_size", "accumulation"):
            check_whole(name, getattr(self, name), least=1)
        if self.cutout is not None:
            check_whole("cutout", self.cutout, least=0)
        for name in ("learning_rate_min", "weight_decay", "grad_clip", "auxiliary_weight"):
            _check_number(name, getattr(self, name), below=math.inf)
        for name in ("momentum", "drop_path", "label_smoothing"):
            _check_number(name, getattr(self, name), below=1.0)
        _check_number("learning_rate", self.learning_rate, below=math.inf)
        if not self.learning_rate > 0:
            raise OptionError(f"learning_rate must be above 0, but got {self.learning_rate}.")
        if self.optimizer == "adamw" and self.momentum != 0.9:
            raise OptionError(
                f"momentum is SGD's; AdamW does not use it, but got momentum={self.momentum}. Leave it at 0.9."
            )
        if self.accumulation > self.batch_size:
            raise OptionError(
                f"A batch cannot be cut into more parts than it has samples, but got accumulation={self.accumulation} "
                f"and batch_size={self.batch_size}."
            )
        for name, choices in (("optimizer", Optimizer), ("precision", Precision), ("on_nonfinite", OnNonfinite)):
            if getattr(self, name) not in get_args(choices):
                raise OptionError(f"{name} must be one of {get_args(choices)}, but got {shown(getattr(self, name))}.")

    def learning_rate_in(self, epoch: int) -> float:
        """Return the learning rate of an epoch, 0-based: half a cosine, as the authors' schedule.

        Source: Loshchilov and Hutter 2017, eq. 5.
        """
        share = (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return self.learning_rate_min + (self.learning_rate - self.learning_rate_min) * share

    def drop_path_in(self, epoch: int) -> float:
        """Return the probability that a path is dropped in an epoch, 0-based: none in the first, growing linearly."""
        return self.drop_path * epoch / self.epochs


def _check_number(name: str, value: object, *, below: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < below:
        limit = f" and below {below:g}" if below < math.inf else " and finite"
        raise OptionError(f"{name} must be at least 0{limit}, but got {name}={shown(value)}.")
