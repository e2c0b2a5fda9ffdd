"""`fixed_arch`: inside it, a choice that is built is at once what an exported architecture takes."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from torch import nn

from archgrad.architecture import Architecture, as_architecture, looks_exported, read_text
from archgrad.cell import Cell
from archgrad.choices import Choice, InputChoice, LayerChoice, SelectInputs
from archgrad.errors import ArchitectureError
from archgrad.isolation import write_anew
from archgrad.json_text import parse_json, shown
from archgrad.nni_format import parse_export
from archgrad.nni_hub_format import parse_hub
from archgrad.values import ValueChoice

__all__ = ["FixedWhenBuilt", "Frozen", "current_model", "fixed_arch", "frozen_now"]

_FROZEN: ContextVar[Frozen | None] = ContextVar("archgrad_nni_frozen", default=None)


class Frozen:
    """The decisions of an export, looked up by label in whichever shape they are written.

    Args:
        data: Label -> what a version of NNI or archgrad exported for it.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = dict(data)
        self._cells = {**parse_export(self._texts_and_indices()), **parse_hub(self.data)}

    def decision(self, choice: Choice) -> Any:
        """Return the decision of a choice in archgrad's form, by the label of the choice.

        Raises:
            ArchitectureError: There is none, or it has another kind.
        """
        label = choice.label
        if label is None:
            raise ArchitectureError(
                "A choice that is built inside fixed_arch needs a name to be looked up by, but this one has no label. "
                "Give it label=..., or put @model_wrapper on the class of the model (NNI 3: let it be a ModelSpace)."
            )
        value = self.data.get(label)
        if isinstance(choice, Cell):
            value = value if isinstance(value, Mapping) else self._cells.get(label)
        elif isinstance(choice, LayerChoice) and type(value) is int:
            value = choice.names[value] if 0 <= value < len(choice.names) else value
        elif isinstance(choice, InputChoice):
            value = sorted(value) if isinstance(value, list | tuple) and _are_whole(value) else value
        if value is None:
            known = ", ".join(map(repr, [*self.data][:8])) or "none"
            raise ArchitectureError(
                f"The architecture has no decision for '{label}'. Its labels are {known}"
                f"{' and more' if len(self.data) > 8 else ''}. Build the model as it was built for the search."
            )
        return value

    def _texts_and_indices(self) -> dict[str, Any]:
        return {key: value for key, value in self.data.items() if isinstance(value, str) or _are_whole(value)}


def _are_whole(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(type(item) is int for item in value)


class FixedWhenBuilt(ABCMeta):
    """Makes a class of choices whose calls return, inside `fixed_arch`, the plain module or number that was taken."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Return a new choice, or what is left of it."""
        choice = super().__call__(*args, **kwargs)
        frozen = frozen_now()
        return choice if frozen is None else _closed(choice, frozen)


def _closed(choice: Choice, frozen: Frozen) -> Any:
    if isinstance(choice, ValueChoice):
        return choice.value(str(choice.label), frozen.decision(choice))
    plain = choice.fix(str(choice.label), frozen.decision(choice))
    # What `derive` does for a whole network: others may read what an operation reads.
    operations = getattr(plain, "operations", None)
    for operation in operations.values() if isinstance(operations, nn.ModuleDict) else [plain]:
        write_anew(operation)
    if isinstance(plain, SelectInputs):
        plain.copies = True  # whether something in the network works in place is not known before it is whole
    return plain


def frozen_now() -> Frozen | None:
    """Return what the `fixed_arch` around this moment decides; None outside one."""
    return _FROZEN.get()


def current_model() -> dict[str, Any] | None:
    """Return the exported dict of the `fixed_arch` around this moment (NNI 3: `nni.nas.space.current_model`)."""
    frozen = frozen_now()
    return None if frozen is None else dict(frozen.data)


@contextmanager
def fixed_arch(fixed_arch: str | Path | Mapping[str, Any] | Architecture, verbose: bool = True) -> Iterator[None]:
    """Let models that are built inside be plain networks (NNI 2: `nni.retiarii.fixed_arch`; NNI 3: `model_context`).

    Args:
        fixed_arch: What an experiment or a trainer exported: a dict, or the path of its JSON file; also an
            `Architecture` or a file that `Architecture.load` reads.
        verbose: Taken as in NNI, where it writes the architecture to the log; here nothing is written.

    Raises:
        ArchitectureError: It cannot be read. Building a model raises it where a decision is missing or does not fit.
    """
    del verbose
    token = _FROZEN.set(Frozen(_decisions(fixed_arch)))
    try:
        yield
    finally:
        _FROZEN.reset(token)


def _decisions(given: Any) -> Mapping[str, Any]:
    if isinstance(given, str | Path):
        text = "" if Path(given).is_dir() else read_text(given)
        data = parse_json(text) if text.lstrip().startswith("{") else None
        return data if isinstance(data, dict) and looks_exported(data) else _decisions(Architecture.load(given))
    if isinstance(given, Architecture):
        return given.to_dict()["choices"]
    if isinstance(given, Mapping):
        return _decisions(as_architecture(given)) if "format" in given else given
    raise ArchitectureError(f"fixed_arch takes a dict, a path or an Architecture, but got {shown(given)}.")
