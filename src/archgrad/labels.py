"""Which choices a space has, what they are called, and which of them agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from archgrad.cell import Cell
from archgrad.choices import AlphaRow, Choice
from archgrad.errors import SpaceError
from archgrad.valued import ValuedModule
from archgrad.values import ValueChoice

__all__ = ["LabelledChoice", "alpha_rows", "edges_of_nodes", "label_choices", "open_choices"]


@dataclass(frozen=True)
class LabelledChoice:
    """A choice of a space with its resolved label."""

    label: str
    path: str
    """Where the choice stands, as in `Module.named_modules`; empty for the space itself."""
    choice: Choice


def label_choices(space: nn.Module) -> list[LabelledChoice]:
    """Return every choice of a space in module order, nested ones included, each instance once.

    A choice without a label is called by its path, "/" between the parts ("root" for the space itself), so that
    building the space again, in this process or another, gives the same labels. What `torch.compile` and
    `nn.DataParallel` put around a part is no part of its path. Edges belong to their cell.

    Raises:
        SpaceError: Two choices share a label but not their kind, candidates or rule, or one of them never asked to
            share it; or no layer reads a value choice.
    """
    found = list(_find(space))
    _check_read(space, found)
    first: dict[str, tuple[LabelledChoice, dict[str, AlphaRow] | None]] = {}
    for entry in found:
        rows = None if isinstance(entry.choice, Cell) and entry.choice.lazy else entry.choice.rows(entry.label)
        if entry.label not in first:
            first[entry.label] = (entry, rows)
            continue
        other, other_rows = first[entry.label]
        where = f"{_place(other)} and {_place(entry)}"
        if type(entry.choice) is not type(other.choice):
            raise SpaceError(
                f"Label '{entry.label}' is shared by a {type(other.choice).__name__} and a "
                f"{type(entry.choice).__name__}, at {where}. Give one of them another label."
            )
        if rows != other_rows:
            raise SpaceError(
                f"Label '{entry.label}' is shared by choices with other candidates, at {where}: "
                f"{_show(other_rows)} and {_show(rows)}. Give one of them another label, or both the same candidates."
            )
        if _rule(entry.choice) != _rule(other.choice):
            raise SpaceError(
                f"Label '{entry.label}' is shared by cells with other rules, at {where}: {_rule(other.choice)} and "
                f"{_rule(entry.choice)}. Give one of them another label, or both the same rule."
            )
        if entry.choice.label is None or other.choice.label is None:
            raise SpaceError(
                f"Label '{entry.label}' is the path of an unlabelled choice and the name of another, at {where}. "
                f"Give one of them another label."
            )
    return found


def open_choices(space: nn.Module) -> list[LabelledChoice]:
    """Return every choice of a space, as `label_choices` does.

    Raises:
        SpaceError: There is none, or labels are in conflict.
    """
    found = label_choices(space)
    if not found:
        remedy = "Build it with stage='search'" if hasattr(space, "sized_for") else "Put a LayerChoice in it"
        raise SpaceError(f"{type(space).__name__} has no open choice to search. {remedy}.")
    return found


def alpha_rows(choices: list[LabelledChoice]) -> dict[str, AlphaRow]:
    """Return the rows of alphas that the choices need, by label, in module order.

    Raises:
        SpaceError: A label is also that of another cell's edge, or two labels differ only in "." and "/".
    """
    rows: dict[str, AlphaRow] = {}
    owner: dict[str, LabelledChoice] = {}
    for entry in choices:
        for label, row in entry.choice.rows(entry.label).items():
            other = owner.setdefault(label, entry)
            if other.label != entry.label:
                raise SpaceError(
                    f"Label '{label}' is used by the choices '{other.label}' and '{entry.label}', at {_place(other)} "
                    f"and {_place(entry)}. Rename one of them."
                )
            rows[label] = row
    keys: dict[str, str] = {}
    for label in rows:
        other_label = keys.setdefault(label.replace(".", "/"), label)
        if other_label != label:
            raise SpaceError(
                f"Labels '{other_label}' and '{label}' differ only in '.' and '/', at {_place(owner[other_label])} and "
                f"{_place(owner[label])}. Rename one of them."
            )
    return rows


def edges_of_nodes(choices: list[LabelledChoice]) -> dict[str, tuple[str, ...]]:
    """Return which rows of alphas may be weighed against each other, by the name of their sum (see `Choice`).

    Raises:
        SpaceError: The name of a sum is also the label of a choice.
    """
    found: dict[str, tuple[str, ...]] = {}
    for entry in choices:
        found.update(entry.choice.edges_of_nodes(entry.label))
    for entry in choices:
        if entry.label in found:
            raise SpaceError(
                f"Label '{entry.label}', at {_place(entry)}, is the name of the edge weights of a node. Rename it."
            )
    return found


def _find(space: nn.Module) -> Iterator[LabelledChoice]:
    owned: set[int] = set()
    wrappers: set[str] = set()  # paths
    for path, module in space.named_modules():
        if isinstance(module, Cell):
            owned.update(id(edge) for edge in module.edges)
        if isinstance(module, Choice) and id(module) not in owned:
            yield LabelledChoice(module.label or _written(path, wrappers), path, module)
        wrappers |= {f"{path}.{name}".lstrip(".") for name in _inside(module)}


def _check_read(space: nn.Module, found: list[LabelledChoice]) -> None:
    """Raise SpaceError if a value choice is used by nothing, so that its alphas would stay as they begin."""
    values = [entry for entry in found if isinstance(entry.choice, ValueChoice)]
    if not values:
        return
    read = {id(c) for module in space.modules() if isinstance(module, ValuedModule) for c in module.choices}
    for entry in values:
        if id(entry.choice) not in read:
            raise SpaceError(
                f"No layer reads the value choice '{entry.label}', at {_place(entry)}. Give it to a layer of "
                f"archgrad.nn, to archgrad.Repeat, or, for use in forward, to archgrad.nn.Scalar; or leave it out."
            )


def _written(path: str, wrappers: set[str]) -> str:
    """Return the path of a choice as the space was written: what stands around a part is no part of its name."""
    parts = path.split(".")
    kept = [part for end, part in enumerate(parts, start=1) if ".".join(parts[:end]) not in wrappers]
    return "/".join(kept) or "root"


def _inside(module: nn.Module) -> tuple[str, ...]:
    """Return the name of what a module only wraps."""
    if isinstance(module, nn.DataParallel | DistributedDataParallel | AveragedModel):
        return ("module",)
    return ("_orig_mod",) if type(module).__name__ == "OptimizedModule" else ()  # of torch.compile, slow to import


def _place(entry: LabelledChoice) -> str:
    return f"'{entry.path or 'root'}'"


def _rule(choice: Choice) -> str:
    """What else than the candidates decides what a choice derives."""
    if not isinstance(choice, Cell):
        return ""
    return f"n_kept={choice.n_kept}, never={list(choice.never)}, connected={choice.connected}"


def _show(rows: dict[str, AlphaRow] | None) -> str:
    if not rows:
        return "none"
    row = next(iter(rows.values()))
    return f"{row.n_chosen} of [{', '.join(row.names)}]" + (f" on {len(rows)} edges" if len(rows) > 1 else "")
