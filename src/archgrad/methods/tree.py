"""Methods and their parts as plain data: what config.yaml holds, and a method is made of again."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal, NamedTuple

from archgrad import (
    always_on,
    bilevel,
    optimizers,
    perturbations,
    regularizers,
    relaxation,
    schedules,
    selection,
    stopping,
    weights_rules,
)
from archgrad.errors import OptionError, did_you_mean
from archgrad.methods import ensemble
from archgrad.methods.ensemble import Ensemble
from archgrad.methods.method import Method
from archgrad.methods.stage import Stage
from archgrad.options import hints_of, is_class
from archgrad.schedules import Schedule
from archgrad.typed_names import name_of

__all__ = [
    "KINDS",
    "Kind",
    "Own",
    "classes_of",
    "defaults_of",
    "method_of_tree",
    "only_name",
    "options_of",
    "part_of_tree",
    "tree_of",
    "tree_of_part",
    "with_names",
]

Own = Callable[[str], type]
"""Returns the class behind the name of a part that is not archgrad's, FILE.py:NAME or package.module:NAME."""


class Kind(NamedTuple):
    """A kind of part: a seam of the search, where one class can stand in for another."""

    base: type
    room: ModuleType
    """Where archgrad's own are."""
    what: str
    """In a few words."""
    several: bool = False
    """Whether a method has any number of them."""
    optional: bool = False
    """Whether a method may do without."""


KINDS = {
    "relaxation": Kind(relaxation.Relaxation, relaxation, "how alphas become mixing weights"),
    "step": Kind(bilevel.BilevelStep, bilevel, "how the alphas' gradient is computed"),
    "alphas_optimizer": Kind(optimizers.AlphasOptimizer, optimizers, "how the alphas move along it"),
    "regularizers": Kind(regularizers.Regularizer, regularizers, "what is added to the alphas' loss", several=True),
    "edge_weights": Kind(relaxation.Relaxation, relaxation, "how a node's edges are weighed", optional=True),
    "always_on": Kind(always_on.AlwaysOn, always_on, "what runs beside the candidates", optional=True),
    "perturbation": Kind(perturbations.Perturbation, perturbations, "how the weights' pass is moved", optional=True),
    "weights_rules": Kind(
        weights_rules.WeightsRule, weights_rules, "what is done to the weights' gradient", several=True
    ),
    "stopping": Kind(stopping.Stopping, stopping, "when the search ends early", optional=True),
    "selection": Kind(selection.Selection, selection, "what ranks the candidates in the end"),
    "ensemble": Kind(Ensemble, ensemble, "how many searches decide together", optional=True),
}
"""The kinds of parts, by their name in `Method`."""
_PLAIN = ("weights_first", "alphas_grad_clip", "skip_noise")
_SCHEDULES = Kind(Schedule, schedules, "a number over the epochs")


def classes_of(kind: Kind) -> dict[str, type]:
    """Return archgrad's own classes of a kind by name."""
    members = [getattr(kind.room, name) for name in kind.room.__all__]
    return {
        name_of(member.__name__): member
        for member in members
        if is_class(member) and issubclass(member, kind.base) and not inspect.isabstract(member)
    }


def only_name(kind: Kind) -> str | None:
    """Return the name of a kind that is one class, which need not be said; None where there are several to choose."""
    return None if inspect.isabstract(kind.base) else name_of(kind.base.__name__)


def options_of(part: type) -> dict[str, Any]:
    """Return the options of a part by name, each with its type; those that cannot be typed without one."""
    names = [
        name
        for name, parameter in inspect.signature(part).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    try:
        hints = hints_of(part if dataclasses.is_dataclass(part) else part.__init__)  # type: ignore[misc]
    except (NameError, TypeError):
        hints = {}
    return {name: hints.get(name, Any) for name in names}


def defaults_of(part: type) -> dict[str, Any]:
    """Return the options of a part that have a default, with it, as plain data."""
    return {
        name: _plain(parameter.default)
        for name, parameter in inspect.signature(part).parameters.items()
        if parameter.default is not parameter.empty and name in options_of(part)
    }


def tree_of(method: Method) -> dict[str, Any]:
    """Return a method as plain data: every part with its name and all of its options."""
    tree: dict[str, Any] = {}
    for name, kind in KINDS.items():
        value = getattr(method, name)
        tree[name] = [tree_of_part(part) for part in value] if kind.several else tree_of_part(value)
    stages = [dataclasses.asdict(stage) for stage in method.stages]
    return {**tree, "stages": stages, **{name: getattr(method, name) for name in _PLAIN}}


def tree_of_part(part: Any) -> dict[str, Any] | None:
    """Return a part as plain data: {"name": ..., option: value, ...}; None for a part that there is not."""
    if part is None:
        return None
    kind = type(part)
    typed = vars(kind).get("typed_name")  # how a person of the command line named it
    own = (
        name_of(kind.__name__) if kind.__module__.startswith("archgrad.") else f"{kind.__module__}:{kind.__qualname__}"
    )
    values = {name: getattr(part, name) for name in options_of(kind) if hasattr(part, name)}
    return {"name": typed or own, **{name: _plain(value) for name, value in values.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Schedule):
        return tree_of_part(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def method_of_tree(tree: Mapping[str, Any], own: Own, *, start: Method | None = None) -> Method:
    """Return the method that a tree describes.

    Args:
        tree: As `tree_of` gives it; what is left out is as in `start`.
        own: Finds the classes that are not archgrad's.
        start: DARTS if not given.

    Raises:
        OptionError: There is no such part or option, a value is out of range, or parts do not go together.
    """
    start = Method() if start is None else start
    _check_names("a method", tree, [*KINDS, "stages", *_PLAIN])
    given: dict[str, Any] = {name: tree[name] for name in _PLAIN if name in tree}
    for name, kind in KINDS.items():
        if name in tree and kind.several:
            given[name] = tuple(part_of_tree(name, kind, part, own) for part in _listed(name, tree[name]))
        elif name in tree and not (tree[name] is None and kind.optional):
            given[name] = part_of_tree(name, kind, tree[name], own)
        elif name in tree:
            given[name] = None
    if "stages" in tree:
        given["stages"] = tuple(_stage(stage) for stage in _listed("stages", tree["stages"]))
    return dataclasses.replace(start, **given)


def part_of_tree(what: str, kind: Kind, tree: Any, own: Own) -> Any:
    """Return the part that a tree, or a name alone, describes.

    Args:
        what: The name of its place, for messages.
        kind: What it must be.
        tree: {"name": ..., option: value, ...}, or the name alone.
        own: Finds the classes that are not archgrad's.
    """
    tree = _named(what, kind, tree)
    name, options = tree["name"], {key: value for key, value in tree.items() if key != "name"}
    known = classes_of(kind)
    if name not in known and ":" not in name:
        hint = did_you_mean(name, known)
        raise OptionError(
            f"There is no {what} '{name}'.{hint} Known are {', '.join(known)}; your own is FILE.py:NAME or "
            f"package.module:NAME."
        )
    part = known[name] if name in known else own(name)
    if not isinstance(part, type) or not issubclass(part, kind.base):
        raise OptionError(f"{what} must be a subclass of {kind.base.__name__}, but '{name}' is {part!r}.")
    hints = options_of(part)
    _check_names(f"{what} '{name}'", options, hints)
    try:
        return part(**{key: _typed(f"{what}.{key}", value, hints[key], own) for key, value in options.items()})
    except TypeError as error:
        raise OptionError(f"{what} '{name}' cannot be made: {error}.") from error


def _stage(tree: Any) -> Stage:
    if not isinstance(tree, Mapping):
        raise OptionError(f"A stage must be options and their values, but got {tree!r}.")
    _check_names("a stage", tree, [field.name for field in dataclasses.fields(Stage)])
    return Stage(**tree)


def with_names(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree in which every part is {"name": ..., option: value, ...}, also where its name alone stood.

    Raises:
        OptionError: What stands for parts is something else.
    """
    found = dict(tree)
    for name, kind in KINDS.items():
        if name in tree and kind.several:
            found[name] = [_named(name, kind, part) for part in _listed(name, tree[name])]
        elif name in tree and not (tree[name] is None and kind.optional):
            found[name] = _named(name, kind, tree[name])
    return found


def _named(what: str, kind: Kind, tree: Any) -> dict[str, Any]:
    """The tree of a part with its name."""
    tree = {"name": tree} if isinstance(tree, str) else tree
    if isinstance(tree, Mapping) and (only := only_name(kind)) is not None:
        tree = {"name": only, **tree}
    if not isinstance(tree, Mapping) or not isinstance(tree.get("name"), str):
        raise OptionError(f"{what} must be a name, or a name and options ('name: ...'), but got {tree!r}.")
    return dict(tree)


def _listed(what: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise OptionError(f"{what} must be a list, but got {value!r}.")
    return value


def _check_names(where: str, given: Mapping[str, Any], known: Any) -> None:
    for name in given:
        if name not in known:
            hint = did_you_mean(str(name), list(known))
            raise OptionError(f"{where} has no option '{name}'.{hint} It has {', '.join(known) or 'none'}.")


def _typed(where: str, value: Any, hint: Any, own: Own) -> Any:
    """Return a value of plain data as what an option's type says, or say what is wrong."""
    kinds = _members(hint)
    if isinstance(value, Mapping) and any(is_class(kind) and issubclass(kind, Schedule) for kind in kinds):
        return part_of_tree(where, _SCHEDULES, value, own)
    for kind in kinds:
        if kind is Any or (is_class(kind) and isinstance(value, kind) and not _is_bool_for(value, kind)):
            return value
        if typing.get_origin(kind) is Literal and value in typing.get_args(kind):
            return value
        if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
            inner = typing.get_args(kind)
            inner = (inner[0],) * len(value) if inner[-1:] == (Ellipsis,) else inner
            if len(inner) == len(value):
                return tuple(_typed(where, item, part, own) for item, part in zip(value, inner, strict=True))
        if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
            try:
                return float(value)  # YAML reads 1e-3 as text
            except ValueError:
                continue
    shown = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise OptionError(f"{where} takes {shown}, but got {value!r}.")


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _is_bool_for(value: Any, kind: type) -> bool:
    return isinstance(value, bool) and kind is not bool
