"""The short forms of `search`: a method by its name or by single options, and runs of before there were methods."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from archgrad import methods
from archgrad.bilevel import BilevelStep, Unrolled
from archgrad.errors import OptionError, did_you_mean
from archgrad.methods import Method, Stage, presets
from archgrad.methods.tree import KINDS, classes_of, defaults_of, options_of, part_of_tree, tree_of
from archgrad.optimizers import Adam
from archgrad.options import Options
from archgrad.regularizers import CostBudget, budgets_of
from archgrad.relaxation import Relaxation

__all__ = ["DEFAULT", "PRESETS", "MethodOptions", "check_budgets", "modernised", "preset"]

_OF_ADAM = ("learning_rate", "betas", "weight_decay")

DEFAULT = "default"
"""What the method is called that a search takes without one; which preset it is, `archgrad.methods.presets` says."""
PRESETS = {name: value for name in methods.__all__ if isinstance(value := getattr(methods, name), Method)}
"""The published methods by their Python name."""


def preset(name: str) -> Method:
    """Return a published method by its name, spelled with "_" or "-", or the one that is called "default".

    Raises:
        OptionError: There is none.
    """
    found = PRESETS.get(presets.DEFAULT if name == DEFAULT else name.replace("-", "_"))
    if found is None:
        known = ", ".join(each.replace("_", "-") for each in (DEFAULT, *PRESETS))
        hint = did_you_mean(name.replace("_", "-"), known.split(", "))
        raise OptionError(f"There is no method '{name}'.{hint} Known are {known}.")
    return found


@dataclass(frozen=True, kw_only=True)
class MethodOptions(Options):
    """The options of a search that choose its method."""

    method: Method | str | None = None
    """The search method: a `Method`, or the name of one in `archgrad.methods`. By default "default", at present
    "snas-without-none"; docs/results.md has the evidence. `step`, `relaxation` and `weights_first` are short for parts
    of it; `alphas_...` win over a method's numbers."""
    step: BilevelStep | str | None = None
    """How the alphas' gradient is computed, or a name as in `archgrad steps`. By default as the method says."""
    relaxation: Relaxation | str | None = None
    """How alphas become mixing weights, or a name as in `archgrad relaxations`. By default as the method says."""
    weights_first: bool | None = None
    """Update the weights before the alphas in each step, as GDAS does. By default as the method says."""
    alphas_learning_rate: float | None = None
    """Learning rate of the alphas' optimizer; above 0. By default as the method says, else 0.0003."""
    alphas_betas: tuple[float, float] | None = None
    """Betas of the alphas' Adam; each from 0 to below 1. By default as the method says, else 0.5 and 0.999."""
    alphas_weight_decay: float | None = None
    """Weight decay of the alphas' Adam, added to the gradient; at least 0. By default as the method says, else
    0.001."""
    budget: str | Sequence[str] | None = None
    """Limit on what the derived network costs, such as "parameters<=20k" or "multiply-adds<=300M, latency<=8ms": each
    is an `archgrad.regularizers.CostBudget` with its defaults, beside what the method has. None sets no limit."""

    def choose_method(self) -> Method:
        """Return the method that is asked for by itself or by short forms.

        Raises:
            OptionError: There is no such method or option, a value is outside its range, or a part contradicts the
                method.
        """
        method = self.method
        if isinstance(method, type):
            raise OptionError(f"method must be a value, but got the class {method.__name__}. Give {method.__name__}().")
        given: dict[str, Any] = {
            "step": _part("step", self.step),
            "relaxation": _part("relaxation", self.relaxation),
            "weights_first": self.weights_first,
        }
        given = {name: value for name, value in given.items() if value is not None}
        base = preset(method) if isinstance(method, str) else method
        if base is None:
            base = replace(preset(DEFAULT), source="")  # short forms may make another of it
        if not isinstance(base, Method):
            raise OptionError(f"method must be a Method or the name of one, but got {method!r}.")
        budgets = () if self.budget is None else budgets_of(self.budget)
        check_budgets(budgets, [part.cost for part in base.regularizers if isinstance(part, CostBudget)])
        if method is not None:
            for name, value in given.items():
                if value != getattr(base, name):
                    raise OptionError(
                        f"{name} contradicts the method, which has {name}={getattr(base, name)!r}. Leave it out, or "
                        f"give dataclasses.replace(method, {name}=...)."
                    )
            given = {}
        optimizer: Any = base.alphas_optimizer
        numbers = {name: value for name in _OF_ADAM if (value := getattr(self, f"alphas_{name}")) is not None}
        for name in numbers:
            if name not in options_of(type(optimizer)):
                raise OptionError(
                    f"alphas_{name} goes with Adam, but the method moves alphas by {optimizer!r}. Leave it out."
                )
        if numbers:
            try:
                given["alphas_optimizer"] = replace(optimizer, **numbers)
            except OptionError as error:
                raise OptionError(f"alphas_{error}") from error
        if budgets:
            given["regularizers"] = (*base.regularizers, *budgets)
        return replace(base, **given) if given else base


def check_budgets(budgets: Sequence[CostBudget], costs: Collection[str | None]) -> None:
    """Refuse the short form of a budget where the method has one already.

    Args:
        budgets: Of the short form.
        costs: What the method has a `CostBudget` of; None for its other parts.

    Raises:
        OptionError: It has one of the same cost.
    """
    for budget in budgets:
        if budget.cost in costs:
            raise OptionError(
                f"budget asks for {budget.cost}<={budget.limit:g}, but the method has a CostBudget of {budget.cost} "
                f"already. Leave one of them out."
            )


def _part(kind: str, given: Any) -> Any:
    """Return a part that is given as a value, or by the name of one of archgrad's."""
    if isinstance(given, type):
        raise OptionError(f"{kind} must be a value, but got the class {given.__name__}. Give {given.__name__}().")
    if not isinstance(given, str):
        return given
    if (kind, given) == ("step", "exact"):  # what the command line and `archgrad steps` call it
        return Unrolled(hvp="exact")
    return part_of_tree(kind, KINDS[kind], given.replace("_", "-"), _not_by_name)


def _not_by_name(name: str) -> type:
    raise OptionError(f"In Python give the object itself, and not {name!r}.")


def modernised(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of an older run as it is written now: with a method, and with options that came later.

    Args:
        config: Of a search.
    """
    if isinstance(config.get("method"), Mapping):
        return {**config, "method": _completed(config["method"])}
    if "method" in config or "alphas_learning_rate" not in config:
        return dict(config)
    old = dict(config)
    adam: dict[str, Any] = {f.name: old.pop(f"alphas_{f.name}") for f in fields(Adam) if f"alphas_{f.name}" in old}
    made = {name: _old_part(name, old) for name in ("step", "relaxation")}
    method = Method(
        **made,
        alphas_optimizer=Adam(**adam),
        weights_first=bool(old.pop("weights_first", False)),
    )
    return {**old, "method": tree_of(method)}


def _completed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree of a method with what it does not name as in the preset of its name, or as in DARTS.

    Parts of somebody's own stay.
    """

    def completed(kind: str, part: Any) -> Any:
        if isinstance(part, list):
            return [completed(kind, each) for each in part]
        if not isinstance(part, Mapping):
            return part
        if kind == "stages":
            return {**asdict(Stage()), **part}
        own = classes_of(KINDS[kind]).get(str(part.get("name")))
        return dict(part) if own is None else {**defaults_of(own), **part}

    places = {*KINDS, "stages"}
    start = preset(str(tree["name"])) if "name" in tree else Method()
    whole = {**tree_of(start), **{name: part for name, part in tree.items() if name != "name"}}
    return {name: completed(name, part) if name in places else part for name, part in whole.items()}


def _old_part(kind: str, old: dict[str, Any]) -> Any:
    """Take a step or relaxation out of an old configuration: a name with options beside it, or a mapping."""
    found = old.pop(kind, None)
    every = classes_of(KINDS[kind])
    options: dict[str, Any]
    if isinstance(found, Mapping):
        options = {name: value for name, value in found.items() if name != "name"}
        part = {each.__name__: each for each in every.values()}.get(str(found.get("name")))
    else:
        part = Unrolled if found == "exact" else every.get(str(found))
        names = {name for each in every.values() for name in options_of(each)}
        options = {name: value for name in names if (value := old.pop(name, None)) is not None}
        options |= {"hvp": "exact"} if found == "exact" else {}
    if part is None:
        raise OptionError(
            f"The run was started with a {kind} of somebody's own, {found!r}, by an earlier version of archgrad. Go on "
            f"with it with that version, or start it anew."
        )
    return part(**options)
