"""The options of a retraining, checked at the door."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

from torch import nn
from torch.utils.data import Dataset

from archgrad.architecture import Architecture
from archgrad.checks import check_real, check_word
from archgrad.data import Data
from archgrad.engine import RunOptions, Schedule, TrainingOptions
from archgrad.errors import OptionError
from archgrad.fast import Fast, asked_path
from archgrad.options import names_of, values_of
from archgrad.schedules import Cosine, Linear, Progress
from archgrad.sizes import check_whole
from archgrad.tasks import TaskOptions

__all__ = ["Optimizer", "Recipe", "RetrainOptions"]

Optimizer = Literal["sgd", "adamw"]


@dataclass(frozen=True, kw_only=True)
class Recipe(TaskOptions, TrainingOptions):
    """What decides the result of a retraining; the defaults are the paper's.

    Raises:
        OptionError: A value is outside its range.

    Source: Liu et al. 2019, section 3.3 and appendix A.
    """

    epochs: int = 600
    """Passes over the training data, at least 1."""
    batch_size: int = 96
    seed: int = 0
    """Seed of order, augmentation and drop path; from 0 to 2**32 - 1."""
    learning_rate_min: float = 0.0
    """What the learning rate falls to along a cosine or a line, after the last epoch, and no lower along an
    exponential; at least 0."""
    schedule: Schedule = "cosine"
    """Course of the learning rate over the epochs: "cosine" (half a cosine), "linear" (a straight line), "exponential"
    (times `learning_rate_decay` after each epoch), or "constant". With the last two a finished run can go on with more
    epochs."""
    learning_rate_decay: float = 0.97
    """What an exponential course multiplies the learning rate by after each epoch; between 0 and 1."""
    warmup_epochs: int = 0
    """First epochs with a linear warm-up: with 5, the learning rate of the schedule is multiplied by 1/5, 2/5, ... and
    in the fifth epoch by 1; 0 is off."""
    optimizer: Optimizer = "sgd"
    """"sgd", or "adamw", which has a momentum of its own and decouples the weight decay from the gradient."""
    cutout: int | None = None
    """Side in pixels of the square that is blanked in each training image, after normalisation; 0 is off; None is half
    the image, 16 pixels of CIFAR's 32."""
    auxiliary_weight: float = 0.4
    """Weight of the auxiliary head's loss, if the network has such a head; at least 0."""
    drop_path: float = 0.2
    """Probability that a path is dropped, from 0 to below 1; epoch e has drop_path * e / epochs."""
    label_smoothing: float = 0.0
    """Share of each class number spread over all classes, in training only; from 0 to below 1."""
    fast: Fast = "auto"
    """How the same numbers are computed, up to rounding: "plain" runs every operation as it is written, "native" uses
    kernels compiled for the CPU, "torch" PyTorch's operations, and "grouped", which is for cells that are searched,
    only changes the memory format of images; False is "plain". "auto" (True) is "native" on a CPU with kernels.
    Elsewhere the first step is tried with each of the others, and undone; the quickest that agrees with "plain" is
    taken, and written to paths.json of the run folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("epochs", self.epochs, least=1)
        if self.cutout is not None:
            check_whole("cutout", self.cutout, least=0)
        check_real("auxiliary_weight", self.auxiliary_weight)
        for name in ("drop_path", "label_smoothing"):
            check_real(name, getattr(self, name), below=1)
        check_word("optimizer", self.optimizer, get_args(Optimizer))
        object.__setattr__(self, "fast", asked_path(self.fast))
        check_word("schedule", self.schedule, get_args(Schedule))
        check_real("learning_rate_decay", self.learning_rate_decay, above=0, below=1)
        if self.schedule != "exponential" and self.learning_rate_decay != 0.97:
            raise OptionError(
                f"learning_rate_decay is that of schedule='exponential', but got schedule={self.schedule!r} and "
                f"learning_rate_decay={self.learning_rate_decay}. Leave one of them out."
            )
        check_whole("warmup_epochs", self.warmup_epochs, least=0)
        if self.optimizer == "adamw" and self.momentum != 0.9:
            raise OptionError(
                f"momentum is SGD's; AdamW does not use it, but got momentum={self.momentum}. Leave it at 0.9."
            )
        if self.accumulation > self.batch_size:
            raise OptionError(
                f"A batch cannot be cut into more parts than it has samples, but got accumulation={self.accumulation} "
                f"and batch_size={self.batch_size}."
            )

    def plain(self) -> dict[str, Any]:
        """Return the recipe as config.yaml holds it."""
        values = {name: value for name, value in values_of(self, Recipe).items() if name not in names_of(TaskOptions)}
        return values | self.plain_task()

    def learning_rate_in(self, epoch: int) -> float:
        """Return the learning rate of an epoch, 0-based; along half a cosine by default, the authors' schedule.

        Source: Loshchilov and Hutter 2017, eq. 5 (cosine); Goyal et al. 2017, section 2.2 (warm-up).
        """
        first, last, progress = self.learning_rate, self.learning_rate_min, Progress(epoch, self.epochs)
        if self.schedule == "cosine":
            rate = Cosine(first, last).value(progress)
        elif self.schedule == "linear":
            rate = Linear(first, last, "end").value(progress)
        elif self.schedule == "exponential":
            rate = max(first * self.learning_rate_decay**epoch, last)
        else:
            rate = first
        return rate * min(1.0, (epoch + 1) / self.warmup_epochs) if self.warmup_epochs else rate

    def drop_path_in(self, epoch: int) -> float:
        """Return the probability that a path is dropped in an epoch, 0-based: none in the first, growing linearly."""
        return self.drop_path * epoch / self.epochs


@dataclass(frozen=True, eq=False, repr=False)
class RetrainOptions(Recipe, RunOptions):
    """What `archgrad.retrain` takes."""

    network: nn.Module
    """A plain module, such as `derive` returns; its first weights are the caller's."""
    data: Data | Dataset | tuple[Any, Any] | str
    """`Data`, a data set, a pair (inputs, targets), or a name such as "digits"."""
    _: KW_ONLY
    architecture: Architecture | None = None
    """Where the network comes from; copied into the run folder."""
    log_frequency: int | None = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.network, nn.Module):
            raise OptionError(
                f"network must be a torch.nn.Module, but got {type(self.network).__name__}. Give what "
                f"archgrad.derive(space, architecture) returns; the architecture may be a search's result."
            )
