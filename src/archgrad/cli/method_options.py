"""The options that make a method: its name, the names of its parts, and every option of a part."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from archgrad.cli.dotted import Dotted
from archgrad.cli.names import UNROLLED
from archgrad.cli.own_code import find_own, settled_own
from archgrad.cli.parser import Parser, dashed
from archgrad.cli.parts import RELAXATIONS, STEPS
from archgrad.errors import OptionError
from archgrad.methods import Method
from archgrad.methods.tree import (
    KINDS,
    classes_of,
    method_of_tree,
    only_name,
    options_of,
    tree_of,
    tree_of_part,
    with_names,
)
from archgrad.regularizers import CostBudget, budgets_of
from archgrad.search.short_forms import DEFAULT, check_budgets, preset
from archgrad.typed_names import is_own

__all__ = ["OF_THE_METHOD", "add_method_options", "make_method"]

_ADAM = {f"alphas_{name}": name for name in ("learning_rate", "betas", "weight_decay")}
_FLAT = {"step": STEPS, "relaxation": RELAXATIONS}
_NONE = "none"

OF_THE_METHOD = frozenset(
    [
        "method", "stored_method", "dotted", "budget", "weights_first", "alphas_grad_clip", "skip_noise", "stages",
        *KINDS, *_ADAM,
        *(option for parts in _FLAT.values() for part in parts.values() for option in part.options),
    ]
)  # fmt: skip
"""The options that go into the method, and so stand in config.yaml in its tree alone."""


def add_method_options(parser: Parser) -> None:
    """Add an option for each kind of part that has no group of its own, and for the stages."""
    group = parser.add_argument_group(
        "parts of the method",
        "Every option of a part is set as --KIND.OPTION VALUE, such as --relaxation.temperature-max 5 or "
        "--regularizers.beta-decay.weight 0.5; 'archgrad methods' lists them. A part of your own is "
        "FILE.py:NAME (the file is run as Python).",
    )
    for name, kind in KINDS.items():
        if name not in _FLAT:
            several = ", any number of them with commas between" if kind.several else ""
            none = f", or {_NONE}" if kind.optional or kind.several else ""
            group.add_argument(
                f"--{name}",
                type=str | None,
                metavar="NAME",
                help=f"{kind.what.capitalize()}: {', '.join(classes_of(kind))}{none}{several}. By default as the "
                f"method says.",
            )
    group.add_argument(
        "--budget",
        type=str,
        default=None,
        action="append",
        metavar="COST<=NUMBER",
        help="Limit on what the derived network costs, such as 'parameters<=20k', 'multiply-adds<=300M' or "
        "'latency<=8ms': a cost-budget with its defaults. Several have commas between, or --budget is given again.",
    )
    group.add_argument(
        "--stages",
        type=str | None,
        metavar="YAML",
        help="Stages, such as '[{epochs: 10, alphas_start_epoch: 5}, {epochs: 10, keep: 3, space: {cells: 11}}]'. By "
        "default as the method says.",
    )
    group.add_argument(
        "--alphas_grad_clip",
        type=float | None,
        help="Largest L2 norm of the alphas' gradient; 0 is off. By default as the method says.",
    )
    group.add_argument(
        "--skip_noise",
        type=float | None,
        help="Standard deviation of the noise on skip connections, as a share of that of their output; 0 is off. By "
        "default as the method says.",
    )


def make_method(values: Mapping[str, Any]) -> Method:
    """Return the method that the options ask for.

    Args:
        values: Of the command line, with "stored_method" and "dotted" as `parse` gives them.

    Raises:
        OptionError: There is no such part or option, or parts do not go together.
    """
    stored = values["stored_method"]
    before = values["method"] is None and stored is not None  # kinds of parts that a run did not know are DARTS' own
    tree = copy.deepcopy(tree_of(Method() if before else preset(values["method"] or DEFAULT)))
    if before:
        tree.update(copy.deepcopy(dict(stored)))
    tree = with_names(tree)
    typed: set[str] = set()
    for name, kind in KINDS.items():
        if values[name] is None:
            continue
        names = [_settled(each) for each in (values[name].split(",") if kind.several else [values[name]])]
        typed.update(names)
        if kind.several:
            tree[name] = [] if names == [_NONE] else [_part(each, tree[name]) for each in names]
        else:
            tree[name] = None if names == [_NONE] and kind.optional else _part(names[0], [tree[name]])
    _set_short_forms(tree, values)
    budgets = () if values["budget"] is None else budgets_of(values["budget"])
    if budgets and values["method"] is None and values["regularizers"] is None and stored is not None:
        costs = [budget.cost for budget in budgets]  # what is typed wins over an earlier run's
        tree["regularizers"] = [part for part in tree["regularizers"] if _budgeted(part) not in costs]
    parts = len(tree["regularizers"])
    tree["regularizers"] = [*tree["regularizers"], *map(tree_of_part, budgets)]
    for option in values["dotted"]:
        _set_dotted(tree, option)
    if budgets:
        check_budgets(budgets, [_budgeted(part) for part in tree["regularizers"][:parts]])

    def own(name: str) -> type:
        if name not in typed:
            raise OptionError(
                f"The configuration names a part of somebody's own, {name!r}, which is run as Python. Nothing that a "
                f"file names is run unless you name it too: add it, such as --relaxation '{name}'."
            )
        found = find_own(name, what="part", error=OptionError)
        if not isinstance(found, type):
            raise OptionError(f"A part must be a class, but '{name}' is a {type(found).__name__}.")
        found.typed_name = name  # type: ignore[attr-defined]  # what config.yaml calls it
        return found

    return method_of_tree(tree, own)


def _settled(name: str) -> str:
    """Return the name of a part that means the same from any folder."""
    return settled_own(name.strip()) if is_own(name.strip()) else name.strip()


def _part(name: str, before: Sequence[Any]) -> dict[str, Any]:
    """Return the tree of a part by name, with the options that it has already where it stays."""
    if name in UNROLLED:
        name, options = "unrolled", {"hvp": UNROLLED[name]}
    else:
        options = {}
    for part in before:
        if isinstance(part, Mapping) and part["name"] == name:
            return {**part, **options}
    return {"name": name, **options}


def _set_short_forms(tree: dict[str, Any], values: Mapping[str, Any]) -> None:
    for kind, parts in _FLAT.items():
        for option in {option for part in parts.values() for option in part.options}:
            if values[option] is None:
                continue
            name = _typed_name(tree[kind])
            if name not in parts or option not in parts[name].options:
                owners = " or ".join(other for other in parts if option in parts[other].options)
                raise OptionError(
                    f"{dashed('--' + option)} goes with --{kind} {owners}, but got --{kind} {name}. Leave it out."
                )
            tree[kind][option] = values[option]
    for short, option in _ADAM.items():
        if values[short] is not None:
            optimizer = classes_of(KINDS["alphas_optimizer"]).get(tree["alphas_optimizer"]["name"])
            if optimizer is not None and option not in options_of(optimizer):
                raise OptionError(
                    f"{dashed('--' + short)} goes with --alphas-optimizer adam, but got --alphas-optimizer "
                    f"{tree['alphas_optimizer']['name']}. Leave it out."
                )
            tree["alphas_optimizer"][option] = values[short]
    for name in ("weights_first", "alphas_grad_clip", "skip_noise"):
        if values[name] is not None:
            tree[name] = values[name]
    if values["stages"] is not None:
        tree["stages"] = yaml.safe_load(values["stages"])


def _budgeted(part: Mapping[str, Any]) -> str | None:
    """Return the cost that a part is a budget of, if it is one."""
    return str(part.get("cost", CostBudget.cost)) if part["name"] == "cost-budget" else None


def _typed_name(part: Mapping[str, Any]) -> str:
    name = str(part["name"])
    return "exact" if name == "unrolled" and part.get("hvp") == "exact" else name


def _set_dotted(tree: dict[str, Any], option: Dotted) -> None:
    kind, *path = option.path
    node: Any = tree.get(kind)
    if node is None and (only := only_name(KINDS[kind])) is not None:
        node = tree[kind] = {"name": only}
    if isinstance(node, list):
        wanted, *path = path
        found = [part for part in node if str(part["name"]).replace("-", "_") == wanted]
        if not found:
            raise OptionError(f"{option.typed} needs the part: add --{dashed(kind)} {wanted.replace('_', '-')}.")
        node = found[0]
    if not isinstance(node, dict) or not path:
        raise OptionError(f"{option.typed} needs a part and one of its options: add {dashed('--' + kind)} NAME.")
    for step in path[:-1]:
        node = node.setdefault(step, {})
        if not isinstance(node, dict):
            raise OptionError(f"{option.typed} sets an option of a number. Give a schedule: {{name: linear, ...}}.")
    node[path[-1]] = option.value
