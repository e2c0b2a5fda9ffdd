"""A study as data: which searches are compared, and how their architectures are judged."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from archgrad.errors import OptionError
from archgrad.json_text import shown
from archgrad.paths import from_home
from archgrad.regularizers import budgets_of
from archgrad.runs import check_seed, read_config
from archgrad.sizes import check_whole

__all__ = ["Entry", "Judge", "Study", "load_study", "name_within"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_UNSET = re.compile(r"\$\{?(\w+)\}?")
_RANDOM = "random"
_RESERVED = (_RANDOM, "random-search", "most-parameters", "most-multiply-adds")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One point of an axis of the grid, such as a method."""

    name: str
    """What tables and folders call it: letters, digits, `.`, `_`, `+` and `-`."""
    options: Mapping[str, Any]
    """What it sets, as in the config.yaml of a search."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """How an architecture is given a number; exactly one of `table` and `retrain`.

    Raises:
        OptionError: Both are given, or none.
    """

    name: str
    """What tables call it."""
    table: str | None = None
    """CSV file of a tabular benchmark (see `archgrad.nasbench.load_table`); every epoch of a search is looked up."""
    columns: tuple[str, ...] = ()
    """Columns of the table that are judged by: accuracies, and costs (see `archgrad.nasbench`), of which the lowest is
    best. All accuracies if empty."""
    retrain: Mapping[str, Any] | None = None
    """Options of `archgrad retrain`; space, data and image size are those of the search unless they are given."""

    def __post_init__(self) -> None:
        _check_name("judge", self.name)
        if (self.table is None) == (self.retrain is None):
            raise OptionError(f"A judge is a table or a retraining. Give judge {self.name} one of them.")
        if self.table is None and self.columns:
            raise OptionError(f"columns are those of a table, but judge {self.name} retrains. Leave them out.")


@dataclass(frozen=True, kw_only=True)
class Study:
    """A grid of searches, and what their architectures are compared by.

    Raises:
        OptionError: A value is outside its range, or a name is taken twice.
    """

    methods: tuple[Entry, ...]
    """What is compared: at least one, each with options of `archgrad search`, `method` among them."""
    spaces: tuple[Entry, ...]
    """At least one."""
    data: tuple[Entry, ...]
    """At least one."""
    judges: tuple[Judge, ...]
    """At least one."""
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    """Of the searches; each is also that of its retrainings."""
    folds: int | None = None
    """Parts of the training samples, at least 2, each of which is the test set of as many of the seeds, in turn: of
    seed s part s mod folds + 1. The seeds are then 0 to folds - 1 where they are not given. None tests on the data's
    own test set."""
    search: Mapping[str, Any] = field(default_factory=dict)
    """Options of all searches."""
    random: int = 20
    """Number of random architectures that are judged as well, at least 2."""
    random_search: Mapping[str, Any] | None = None
    """Options of `archgrad random-search`, run once a seed at the cost of the first method's search; None leaves it
    out."""
    architectures: Mapping[str, str] = field(default_factory=dict)
    """Further architectures to judge: name -> what `archgrad retrain --arch` takes."""

    cost_table: str | None = None
    """CSV file of what networks cost (see `archgrad.search`), given to the searches under a budget, which is one of its
    columns."""

    def __post_init__(self) -> None:
        for axis in ("methods", "spaces", "data", "judges"):
            names = [entry.name for entry in getattr(self, axis)]
            if not names or len(set(names)) < len(names):
                raise OptionError(f"{axis} must have at least one entry, each of another name, but got {names}.")
            for name in names:
                _check_name(axis, name)
        for budget in (self._option(entry, "budget") for entry in self.methods):
            if budget is not None:
                budgets_of(budget)  # refuses what is none
        taken = [*dict.fromkeys([*_RESERVED, *self.drawn]), *(entry.name for entry in self.methods)]
        for name in [*(name for name in taken if taken.count(name) > 1), *(set(self.architectures) & set(taken))]:
            raise OptionError(f"The name {name!r} is taken by a method or a baseline. Choose another.")
        for name in self.architectures:
            _check_name("architectures", name)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise OptionError(f"seeds must be at least one, none twice, but got {list(self.seeds)}.")
        for seed in self.seeds:
            check_seed(seed)
        check_whole("random", self.random, least=2)
        if self.folds is not None:
            check_whole("folds", self.folds, least=2)
            counts = Counter(seed % self.folds for seed in self.seeds)
            if len(counts) < self.folds or len(set(counts.values())) > 1:
                raise OptionError(
                    f"seeds must take each of the {self.folds} folds as often (seed s takes fold s mod {self.folds} + "
                    f"1), but got {list(self.seeds)}. Leave them out, which takes each once."
                )
            if any(judge.table is not None for judge in self.judges):
                raise OptionError("A table's scores are of no fold. Leave folds out, or judge by a retraining.")

    @property
    def budgets(self) -> tuple[str, ...]:
        """The budgets that methods have, each once."""
        return tuple(budget for budget in dict.fromkeys(map(self._budget, self.methods)) if budget)

    @property
    def drawn(self) -> dict[str, str]:
        """What the baselines of random architectures are called -> the budget that they keep; empty for none."""
        return {name_within(_RANDOM, budget): budget for budget in ("", *self.budgets)}

    def budget_of(self, name: str) -> str:
        """Return the budget of a method, or the one that a baseline keeps; empty for none."""
        return {**self.drawn, **{entry.name: self._budget(entry) for entry in self.methods}}.get(name, "")

    def _budget(self, method: Entry) -> str:
        return _budget_text(self._option(method, "budget"))

    def _option(self, method: Entry, name: str) -> Any:
        return {**self.search, **method.options}.get(name)

    def fold_of(self, seed: int) -> dict[str, str]:
        """Return the option of data that says which fold a seed's runs test on; none without folds."""
        return {} if self.folds is None else {"fold": f"{seed % self.folds + 1}/{self.folds}"}


def load_study(path: str | os.PathLike[str]) -> Study:
    """Read a study from a YAML file.

    Environment variables ($NAME) are put in wherever text stands; paths are from the working folder. An entry of an
    axis is a name, or a mapping of options; a judge is a mapping. What the fields mean stands in `Study`. With
    `budgets`, texts as `archgrad search --budget` takes them, each method is searched under each; null is without one.

    Raises:
        OptionError: The file says something that a study does not have.
        RunError: The file cannot be read.
    """
    path = Path(path)
    content = _expanded(read_config(path))
    known = [*(each.name for each in fields(Study)), "budgets"]
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise OptionError(
            f"'{path}' holds {shown(unknown[0])}, which a study does not have. It has {', '.join(known)}."
        )
    missing = [name for name in ("methods", "spaces", "data", "judges") if not content.get(name)]
    if missing:
        raise OptionError(f"'{path}' needs {', '.join(missing)}.")
    axes: dict[str, Any] = {
        axis: tuple(_entry(option, value) for value in _several(content[axis]))
        for axis, option in (("methods", "method"), ("spaces", "space"), ("data", "data"))
    }
    if budgets := _several(content.pop("budgets", [])):
        axes["methods"] = tuple(_within(entry, budget) for entry in axes["methods"] for budget in budgets)
    judges = tuple(_judge(value) for value in _several(content["judges"]))
    plain = {name: value for name, value in content.items() if name not in (*axes, "judges")}
    if isinstance(folds := plain.get("folds"), int):
        plain.setdefault("seeds", list(range(folds)))
    if "seeds" in plain:
        plain["seeds"] = tuple(_several(plain["seeds"]))
    if plain.get("cost_table") is not None:
        plain["cost_table"] = str(from_home(plain["cost_table"]).absolute())
    for name in ("search", "random_search", "architectures"):
        if plain.get(name) is not None and not isinstance(plain[name], Mapping):
            raise OptionError(f"'{path}': {name} must be options with their values, but got {shown(plain[name])}.")
    return Study(**axes, judges=judges, **plain)


def _several(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _entry(option: str, value: Any) -> Entry:
    if isinstance(value, str):
        return Entry(name=_short(value), options={option: value})
    if not isinstance(value, Mapping):
        raise OptionError(f"An entry is a name, or a mapping of options, but got {shown(value)}.")
    options = dict(value)
    name = options.pop("name", None) or options.get(option)
    if not isinstance(name, str):
        raise OptionError(f"An entry with options needs a name or {option}, but got {shown(value)}.")
    return Entry(name=_short(name), options=options)


def _within(method: Entry, budget: Any) -> Entry:
    """Return a method under a budget, which its name says; under none, itself."""
    if budget is None:
        return method
    budgets_of(budget)  # refuses what is none
    return Entry(name=name_within(method.name, _budget_text(budget)), options={**method.options, "budget": budget})


def _budget_text(budget: Any) -> str:
    """Return a budget as one text with commas between several, such as "parameters<=20k, latency<=8ms"."""
    texts = [] if budget is None else [budget] if isinstance(budget, str) else budget
    return ", ".join(re.sub(r"\s*<=\s*", "<=", part.strip()) for text in texts for part in text.split(","))


def name_within(name: str, budget: str) -> str:
    """Return what a method or a baseline is called under a budget, such as "darts-parameters-20k".

    Args:
        name: Without one.
        budget: As in `Study.budgets`; empty for none.
    """
    return f"{name}-{budget.replace('<=', '-').replace(', ', '+')}" if budget else name


def _short(text: str) -> str:
    """The name of a space or of data without its path."""
    return Path(text).name.removeprefix("folder:").rpartition(":")[2].split(".")[0] if "/" in text else text


def _judge(value: Any) -> Judge:
    known = [each.name for each in fields(Judge)]
    if not isinstance(value, Mapping) or set(value) - set(known):
        raise OptionError(f"A judge is a mapping of {', '.join(known)}, but got {shown(value)}.")
    settings = dict(value)
    settings.setdefault("name", "table" if settings.get("table") else "retrained")
    settings["columns"] = tuple(_several(settings.get("columns", [])))
    if settings.get("table"):
        settings["table"] = str(from_home(settings["table"]).absolute())
    return Judge(**settings)


def _expanded(value: Any) -> Any:
    """Put environment variables in, and refuse those that are not set."""
    if isinstance(value, Mapping):
        return {name: _expanded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_expanded(inner) for inner in value]
    if not isinstance(value, str):
        return value
    text = os.path.expandvars(value)
    if left := _UNSET.search(text):
        raise OptionError(f"{shown(value)} needs the environment variable {left[1]}, which is not set. Set it.")
    return text


def _check_name(axis: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise OptionError(
            f"Names in {axis} are made of letters, digits, '.', '_', '+' and '-', but got {shown(name)}. Give one "
            f"with name:."
        )
