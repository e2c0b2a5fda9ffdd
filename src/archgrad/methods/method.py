"""A method of search as data: one part of each kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from archgrad.bilevel import BilevelStep, FirstOrder
from archgrad.bilevel.step import check_weights_pass
from archgrad.errors import OptionError
from archgrad.methods.stage import Stage
from archgrad.optimizers import Adam, AlphasOptimizer
from archgrad.perturbations import Perturbation
from archgrad.regularizers import Regularizer
from archgrad.relaxation import Relaxation, Softmax
from archgrad.schedules import Schedule, check_number
from archgrad.selection import Likeliest, Selection
from archgrad.stopping import Stopping
from archgrad.weights_rules import WeightsRule

__all__ = ["Method", "Place"]


class Place(NamedTuple):
    """Where an epoch lies among the stages."""

    stage: Stage
    begins: bool
    """Whether it is the stage's first epoch."""
    updates_alphas: bool
    """Whether the alphas learn in it."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """How alphas are relaxed, moved and read: everything about a search but its space, data and weights' training.

    The defaults are DARTS, first order. `dataclasses.replace(method, stopping=...)` makes another method of one.

    Raises:
        OptionError: Parts do not go together; the message says why.
    """

    relaxation: Relaxation = field(default=Softmax())
    """How alphas become mixing weights."""
    step: BilevelStep = field(default=FirstOrder())
    """How the alphas' gradient is computed."""
    alphas_optimizer: AlphasOptimizer = field(default=Adam())
    """How the alphas move along it."""
    regularizers: tuple[Regularizer, ...] = ()
    """What is added to the validation loss."""
    perturbation: Perturbation | None = None
    """How the mixing weights of the weights' pass are moved."""
    weights_rules: tuple[WeightsRule, ...] = ()
    """What is done to the weights' gradient."""
    stopping: Stopping | None = None
    """When the search ends before its last epoch."""
    selection: Selection = field(default=Likeliest())
    """What ranks the candidates when an architecture is derived."""
    stages: tuple[Stage, ...] = (Stage(),)
    """At least one, in order. Schedules run over all of them."""
    weights_first: bool = False
    """Update the weights before the alphas in each step."""
    alphas_grad_clip: float = 0.0
    """Largest L2 norm of the alphas' gradient; 0 is off."""
    skip_noise: float = 0.0
    """Standard deviation of the noise on skip connections, as a share of that of their output; 0 is off."""
    source: str = ""
    """Where it was published."""

    def __post_init__(self) -> None:
        for name in ("regularizers", "weights_rules", "stages"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, value, kind in self.parts():
            if not isinstance(value, kind):
                raise OptionError(f"{name} must be a {kind.__name__}, but got {value!r}.")
        for name in ("alphas_grad_clip", "skip_noise"):
            if isinstance(getattr(self, name), Schedule):
                raise OptionError(f"{name} must be one number for the whole search, but got {getattr(self, name)!r}.")
            check_number(name, getattr(self, name), least=0.0)
        self._check_combination()

    def parts(self) -> list[tuple[str, object, type]]:
        """Return (name, part, base class) of every part that there is."""
        single = [
            ("relaxation", self.relaxation, Relaxation),
            ("step", self.step, BilevelStep),
            ("alphas_optimizer", self.alphas_optimizer, AlphasOptimizer),
            ("perturbation", self.perturbation, Perturbation),
            ("stopping", self.stopping, Stopping),
            ("selection", self.selection, Selection),
        ]
        several: list[tuple[str, object, type]] = [("regularizers", part, Regularizer) for part in self.regularizers]
        several += [("weights_rules", part, WeightsRule) for part in self.weights_rules]
        return [entry for entry in single + several if entry[1] is not None] + [
            ("stages", stage, Stage) for stage in self.stages
        ]

    def _check_combination(self) -> None:
        """All that does not go together, whatever the space; what depends on its rows, parts check themselves."""
        relaxation, optimizer = self.relaxation, self.alphas_optimizer
        if relaxation.domain != optimizer.domain:
            names = (type(relaxation).__name__, type(optimizer).__name__)
            if relaxation.domain == "simplex":
                raise OptionError(
                    f"{names[0]} has alphas on the simplex, but {names[1]} moves them anywhere, where they are no "
                    f"mixing weights. Take alphas_optimizer=ExponentiatedGradient()."
                )
            raise OptionError(
                f"{names[0]} needs alphas that are free to grow, but {names[1]} keeps them on the simplex. "
                f"Take alphas_optimizer=Adam(), or relaxation=Simplex()."
            )
        check_weights_pass(
            self.perturbation, self.weights_rules, relaxation, self.step, weights_first=self.weights_first
        )
        self.selection.check(relaxation)
        if self.stopping is not None and type(self.selection).settle is not Selection.settle:
            names = (type(self.selection).__name__, type(self.stopping).__name__)
            raise OptionError(
                f"{names[0]} settles choices after the last epoch, but {names[1]} may end the search before, with an "
                f"earlier architecture. Leave one of them out."
            )
        if not self.stages:
            raise OptionError("A method needs at least one stage. Give stages=(Stage(),).")
        if len(self.stages) > 1 and any(stage.epochs is None for stage in self.stages):
            raise OptionError("Each of several stages needs a length. Give Stage(epochs=...).")
        if relaxation.domain == "simplex" and any(stage.keep is not None for stage in self.stages):
            raise OptionError(
                f"{type(relaxation).__name__} has alphas on the simplex, where rows that lose candidates no longer sum "
                f"to one. Leave keep out of the stages, or take a relaxation of logits."
            )
        self._check_keeps()

    def _check_keeps(self) -> None:
        keeps = [stage.keep for stage in self.stages if stage.keep is not None]
        if keeps != sorted(keeps, reverse=True):
            raise OptionError(f"A stage cannot keep more candidates than the one before it, but got keep={keeps}.")

    @property
    def epochs(self) -> int | None:
        """Length of all stages; None where it is left to the search."""
        return None if self.stages[0].epochs is None else sum(stage.epochs or 0 for stage in self.stages)

    def place_of(self, epoch: int) -> Place:
        """Return where an epoch lies among the stages.

        Args:
            epoch: 0-based, of all stages together.
        """
        for stage in self.stages:
            if stage.epochs is None or epoch < stage.epochs:
                return Place(stage, epoch == 0, epoch >= stage.alphas_start_epoch)
            epoch -= stage.epochs
        raise OptionError(f"The stages end {epoch + 1} epochs before that. Give longer stages.")
