"""A method of search as data: one part of each kind."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from archgrad.always_on import AlwaysOn
from archgrad.bilevel import BilevelStep, FirstOrder
from archgrad.bilevel.step import check_weights_pass
from archgrad.errors import OptionError
from archgrad.methods.ensemble import Ensemble
from archgrad.methods.stage import Stage
from archgrad.optimizers import Adam, AlphasOptimizer
from archgrad.perturbations import Perturbation
from archgrad.regularizers import Regularizer
from archgrad.relaxation import Relaxation, Softmax
from archgrad.schedules import Progress, Schedule, check_number
from archgrad.selection import Likeliest, Selection
from archgrad.sizes import check_whole
from archgrad.stopping import Stopping
from archgrad.weights_rules import WeightsRule

__all__ = ["Method", "Place"]


class Place(NamedTuple):
    """Where an epoch lies among the stages."""

    number: int
    """Of the stage, from 0."""
    stage: Stage
    epoch: int
    """Within the stage, 0-based."""

    @property
    def updates_alphas(self) -> bool:
        """Whether the alphas learn in the epoch."""
        return self.epoch >= self.stage.alphas_start_epoch


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
    edge_weights: Relaxation | None = None
    """How the edges that enter a node of a cell are weighed against each other: a relaxation that runs all candidates.
    None weighs every edge by one. Perturbations and regularisers leave these weights alone."""
    always_on: AlwaysOn | None = None
    """What runs beside the candidates in every pass, with a weight of its own."""
    perturbation: Perturbation | None = None
    """How the mixing weights of the weights' pass are moved."""
    weights_rules: tuple[WeightsRule, ...] = ()
    """What is done to the weights' gradient."""
    stopping: Stopping | None = None
    """When the search ends before its last epoch."""
    selection: Selection = field(default=Likeliest())
    """What ranks the candidates when an architecture is derived."""
    ensemble: Ensemble | None = None
    """How many such searches decide together; None is one alone."""
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
            ("edge_weights", self.edge_weights, Relaxation),
            ("always_on", self.always_on, AlwaysOn),
            ("perturbation", self.perturbation, Perturbation),
            ("stopping", self.stopping, Stopping),
            ("selection", self.selection, Selection),
            ("ensemble", self.ensemble, Ensemble),
        ]
        several: list[tuple[str, object, type]] = [("regularizers", part, Regularizer) for part in self.regularizers]
        several += [("weights_rules", part, WeightsRule) for part in self.weights_rules]
        return [entry for entry in single + several if entry[1] is not None] + [
            ("stages", stage, Stage) for stage in self.stages
        ]

    def _check_combination(self) -> None:
        """All that does not go together, whatever the space; what depends on its rows, parts check themselves."""
        relaxation = self.relaxation
        self._check_domain("relaxation", relaxation)
        if self.edge_weights is not None:
            self._check_domain("edge_weights", self.edge_weights)
        check_weights_pass(
            self.perturbation, self.weights_rules, relaxation, self.step, weights_first=self.weights_first
        )
        self.selection.check(relaxation)
        if self.stopping is not None and self.selection.settles:
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
        if self.stages[0].widen:
            raise OptionError("The first stage has no network before it to widen. Give widen to a later one.")

    def _check_domain(self, what: str, relaxation: Relaxation) -> None:
        names = (type(relaxation).__name__, type(self.alphas_optimizer).__name__)
        if relaxation.domain == self.alphas_optimizer.domain:
            return
        if relaxation.domain == "simplex":
            raise OptionError(
                f"{names[0]} has alphas on the simplex, but {names[1]} moves them anywhere, where they are no "
                f"mixing weights. Take alphas_optimizer=ExponentiatedGradient()."
            )
        raise OptionError(
            f"{names[0]} needs alphas that are free to grow, but {names[1]} keeps them on the simplex. "
            f"Take alphas_optimizer=Adam(), or {what}=Simplex()."
        )

    def _check_keeps(self) -> None:
        keeps = [stage.keep for stage in self.stages if stage.keep is not None]
        if keeps != sorted(keeps, reverse=True):
            raise OptionError(f"A stage cannot keep more candidates than the one before it, but got keep={keeps}.")

    @property
    def epochs(self) -> int | None:
        """Length of all stages; None where it is left to the search."""
        return None if self.stages[0].epochs is None else sum(stage.epochs or 0 for stage in self.stages)

    def scaled(self, epochs: int) -> Method:
        """Return the method with stages that are so long together; without lengths it stays as it is.

        Raises:
            OptionError: It is no whole number of at least 1, or a stage would have no epoch.
        """
        check_whole("epochs", epochs, least=1)
        lengths = [stage.epochs or 0 for stage in self.stages]
        total = sum(lengths)
        if total in (0, epochs):
            return self
        ends = [(2 * epochs * sum(lengths[: k + 1]) + total) // (2 * total) for k in range(len(lengths))]
        scaled = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
        if min(scaled) < 1:
            raise OptionError(
                f"epochs={epochs} are too few for stages of {', '.join(map(str, lengths))} epochs: each needs one at "
                f"least. Give more, or fewer stages."
            )
        stages = tuple(stage.scaled(length) for stage, length in zip(self.stages, scaled, strict=True))
        return replace(self, stages=stages)

    @property
    def fixed_length(self) -> str:
        """Why a search of so many epochs is no beginning of one of more, in words; empty where it is."""
        for _, part, _ in self.parts():
            for name, value in vars(part).items():
                if isinstance(value, Schedule) and value.ends[0] != value.ends[1]:
                    return f"{name} of {type(part).__name__} changes over them"
            if isinstance(part, Relaxation) and len({part.temperature(Progress(k, 2)) for k in range(2)}) > 1:
                return f"the temperature of {type(part).__name__} changes over them"
        if self.epochs is not None:
            return "the stages of the method share them"
        for part in (self.ensemble, self.stopping, self.selection if self.selection.settles else None):
            if part is not None:
                return f"{type(part).__name__} goes by them"
        return ""

    def place_of(self, epoch: int) -> Place:
        """Return where an epoch lies among the stages.

        Args:
            epoch: 0-based, of all stages together.
        """
        for number, stage in enumerate(self.stages):
            if stage.epochs is None or epoch < stage.epochs:
                return Place(number, stage, epoch)
            epoch -= stage.epochs
        raise OptionError(f"The stages end {epoch + 1} epochs before that. Give longer stages.")

    def network_stage(self, number: int) -> int:
        """Return the number of the stage whose network a stage uses: the last, up to it, that has a `space`, or 0."""
        return max((k for k in range(number + 1) if self.stages[k].space), default=0)

    def weights_progress(self, progress: Progress) -> Progress:
        """Return the progress that the weights' learning rate follows, which begins again where a stage begins anew.

        Args:
            progress: Of the whole search.
        """
        begins, at = [0], 0
        for stage in self.stages:
            begins += [at] if stage.space and not stage.widen else []
            at += stage.epochs or 0
        first = max(begin for begin in begins if begin <= progress.epoch)
        last = min((begin for begin in begins if begin > progress.epoch), default=progress.epochs)
        return Progress(progress.epoch - first, last - first, progress.step)
