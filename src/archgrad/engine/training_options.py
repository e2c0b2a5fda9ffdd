"""The options of any training of weights, in a search or a retraining, that its result depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from archgrad.checks import check_real, check_word
from archgrad.options import Options
from archgrad.runs import check_seed
from archgrad.sizes import check_whole

__all__ = ["OnNonfinite", "Precision", "Schedule", "TrainingOptions"]

Precision = Literal["32", "64", "bf16", "fp16"]
OnNonfinite = Literal["stop", "skip"]
Schedule = Literal["cosine", "linear", "exponential", "constant"]
_OVER_ALL_EPOCHS = {"cosine": "half a cosine", "linear": "a straight line"}
"""Schedules that go by the number of epochs, in words."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Options):
    """What decides the result of training, whatever is trained; the defaults are the authors'.

    Raises:
        OptionError: A value is outside its range.
    """

    batch_size: int
    """Samples of a step, on each process; at least 1."""
    seed: int
    """Seed of all random numbers; from 0 to 2**32 - 1."""
    learning_rate: float = 0.025
    """Learning rate of the weights in the first epoch; above 0."""
    learning_rate_min: float
    """What the learning rate falls to along the cosine, after the last epoch; at least 0."""
    schedule: Schedule = "cosine"
    """Course of the weights' learning rate over the epochs: "cosine" (half a cosine), or "constant", with which a
    finished run can go on with more epochs."""
    momentum: float = 0.9
    """Momentum of the weights' SGD; from 0 to below 1."""
    weight_decay: float = 3e-4
    """Weight decay of the weights, added to the gradient by SGD; at least 0."""
    grad_clip: float = 5.0
    """Largest L2 norm that the gradient over all weights is clipped to; 0 is off."""
    accumulation: int = 1
    """Parts that each batch is cut into and that run one after the other (gradient accumulation), to save memory; at
    least 1. The result is that of the whole batch, up to BatchNorm, which sees the parts."""
    precision: Precision = "32"
    """"32", "64", or autocast to "bf16" or "fp16", with weights, alphas, BatchNorm statistics, and gradients that are
    subtracted from each other (finite differences) in 32 bits. "fp16" is for GPUs that emulate bfloat16: losses are
    scaled, and where gradients overflow by that, a retraining takes the step again with a smaller scale, and a search
    leaves it out, as one of `skipped_steps`."""
    on_nonfinite: OnNonfinite = "stop"
    """What a loss or gradient that is not finite does: "stop" the run, or "skip" the step."""
    sync_batchnorm: bool = False
    """With several processes, let BatchNorm see the batch of all of them in training (two more all-reduces for each
    norm and pass); R processes then compute what one would with a batch of R times the size, dropout aside."""

    @property
    def fixed_length(self) -> str:
        """Why training for so many epochs is no beginning of one for more, in words; empty where it is."""
        if (course := _OVER_ALL_EPOCHS.get(self.schedule)) is None:
            return ""
        return f"the learning rate falls along {course} over them. Only schedule='constant' leaves that open"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)
        for name in ("batch_size", "accumulation"):
            check_whole(name, getattr(self, name), least=1)
        check_real("learning_rate", self.learning_rate, above=0)
        for name in ("learning_rate_min", "weight_decay", "grad_clip"):
            check_real(name, getattr(self, name))
        check_real("momentum", self.momentum, below=1)
        check_word("precision", self.precision, get_args(Precision))
        check_word("on_nonfinite", self.on_nonfinite, get_args(OnNonfinite))
