"""The options of a search, checked at the door."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

from torch import nn
from torch.optim import Optimizer

from archgrad.checks import check_real, check_word
from archgrad.data import Data
from archgrad.engine import RunOptions, TrainingOptions
from archgrad.errors import OptionError
from archgrad.fast import Fast, asked_path
from archgrad.methods import Method
from archgrad.options import names_of, values_of
from archgrad.search.optimizers import OptimizerFactory
from archgrad.search.short_forms import MethodOptions
from archgrad.sizes import check_whole
from archgrad.supernet import Supernet
from archgrad.tasks import TaskOptions
from archgrad.tasks.task_options import check_function

__all__ = ["SearchOptions", "SearchRecipe", "SearchRunOptions", "SearchSchedule"]

SearchSchedule = Literal["cosine", "constant"]
_EPOCHS = 50
_OF_THE_SUPERNET = ("relaxation", "edge_weights", "always_on")
"""The parts of a method that a supernet is built with."""


@dataclass(frozen=True, kw_only=True)
class SearchRecipe(TaskOptions, TrainingOptions):
    """What decides the result of a search, beside space, data and method; the defaults are the authors'.

    Source: Liu et al. 2019, section 3.1.
    """

    epochs: int | None = None
    """Passes over the weights' half, at least 1. By default those of the method's stages, else 50; stages of another
    length are scaled to it, and a selection may need some more. Each member of an ensemble has as many."""
    batch_size: int = 64
    """Samples of each of a step's two batches, on each process; at least 1."""
    seed: int = 0
    """Seed of the split, the order, augmentation, alphas and the relaxation's draws; from 0 to 2**32 - 1."""
    learning_rate_min: float = 0.001
    """Learning rate of the weights that the cosine schedule falls to after the last epoch; at least 0."""
    schedule: SearchSchedule = "cosine"
    weights_fraction: float = 0.5
    """Share of the training data that the weights learn from; the alphas learn from the rest. Between 0 and 1."""
    cutout: int = 0
    """Side in pixels of a square that is blanked in each training image; 0 is off."""
    metrics: Any | str | None = None
    """What is measured besides the loss: names of metrics (in one text with commas between them), name -> metric of
    torchmetrics, or a function of (outputs, targets) that returns name -> mean over the batch, or one number. By
    default the task's own."""
    latency_table: str | os.PathLike[str] | None = None
    """If a cost is the latency: a JSON file of how long operations take, such as the latency.json of another run, which
    must have all operations of the space. By default each is timed once on `device`, and written to the latency.json of
    the run."""
    cost_table: str | os.PathLike[str] | None = None
    """CSV file of a tabular benchmark (see `archgrad.nasbench.load_table`), whose columns can be costs by their names:
    `budget="raspi4_ms<=8"`. What it has, such as `parameters`, is not measured. By default all costs are measured."""
    weights_optimizer: Optimizer | OptimizerFactory | None = None
    """What trains the weights in the place of SGD: a function of the list of weights that returns an optimizer, or an
    optimizer over parameters of `space`, which then works on the supernet's copies of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs is not None:
            check_whole("epochs", self.epochs, least=1)
        check_word("schedule", self.schedule, get_args(SearchSchedule))
        check_real("weights_fraction", self.weights_fraction, above=0, below=1)
        check_whole("cutout", self.cutout, least=0)
        check_function(
            "weights_optimizer", None if isinstance(self.weights_optimizer, Optimizer) else self.weights_optimizer
        )


@dataclass(frozen=True, kw_only=True)
class SearchRunOptions(RunOptions):
    """The options of a search's run that no result depends on."""

    fast: Fast = "auto"
    """How the same numbers are computed: "plain" runs every operation as it is written, "native" uses kernels compiled
    for the CPU, "torch" PyTorch's operations, "grouped" few large operations; False is "plain". "auto" (True) is
    "native" on a CPU with kernels. Elsewhere the first step is tried with each of the others, and undone; the quickest
    that agrees with "plain" is taken, and written to paths.json of the run folder."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""
    cuda_graphs: bool = False
    """On a GPU, record each kind of pass as a CUDA graph after a warm-up, and replay it without Python; see
    `archgrad.bilevel.cuda_graphs`. What cannot be recorded is named, and runs as usual."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "fast", asked_path(self.fast))


@dataclass(frozen=True, eq=False, repr=False)
class SearchOptions(MethodOptions, SearchRecipe, SearchRunOptions):
    """What `archgrad.search` takes."""

    space: nn.Module | str | Callable[..., nn.Module]
    """A module with open choices, which stays as it is; the name of one in `archgrad.spaces`, or a function or class,
    which is built to fit the data, and anew for each stage that asks for other sizes; or a `Supernet` of one, which is
    searched in place with its own relaxation, alphas and fast path."""
    data: Data | Any
    """A `Data`, a map-style data set, a pair (inputs, targets) of tensors, or a name for `archgrad.data.load`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chosen_method.ensemble is not None and self.patience is not None:
            raise OptionError(
                f"patience={self.patience} ends a run, but the members of an ensemble are searches one after the "
                f"other. Leave it out, or give the method a stopping rule, which each member has."
            )
        if self.precision == "fp16":
            step = self.chosen_method.step
            if step.differentiates_twice:
                raise OptionError(
                    f"precision='fp16' has too few numbers for second derivatives, which {step!r} takes. Give "
                    f"precision='32' or another step."
                )
            if self.cuda_graphs:
                raise OptionError(
                    "precision='fp16' scales the loss anew as it goes, which a recorded pass does not. Leave "
                    "cuda_graphs out, or give precision='bf16'."
                )

    @cached_property
    def chosen_method(self) -> Method:
        """The method that is asked for, as long as the search; of a supernet in place, with its parts."""
        method = self.choose_method()
        if self.epochs is not None:
            method = method.scaled(self.epochs)
        if not isinstance(self.space, Supernet):
            return method
        if self.relaxation is not None:
            raise OptionError(
                "relaxation does not go with a supernet, which has its own. Leave it out, or give the space."
            )
        if self.fast not in ("auto", self.space.path.asked):
            raise OptionError(
                f"fast={self.fast!r} does not go with a supernet, which has fast={self.space.path.asked!r}. Leave it "
                f"out, or give the space."
            )
        own = {name: getattr(self.space, name) for name in _OF_THE_SUPERNET}
        for name, part in own.items() if self.method is not None else ():
            if getattr(method, name) != part:
                raise OptionError(
                    f"The method has {name}={getattr(method, name)!r}, but the supernet {part!r}. Give the space."
                )
        return replace(method, **own)

    @property
    def total_epochs(self) -> int:
        """What is asked for, else what the method's stages have, else the paper's."""
        return self.epochs or self.chosen_method.epochs or _EPOCHS

    def recipe(self) -> dict[str, Any]:
        """Return those options of the recipe that are plain, with the number of epochs."""
        tables = [name for name in ("latency_table", "cost_table") if getattr(self, name) is None]
        left_out = {*names_of(TaskOptions), "weights_optimizer", *tables}
        values = values_of(self, SearchRecipe) | {"epochs": self.total_epochs}
        return {name: value for name, value in values.items() if name not in left_out} | self.plain_task()
