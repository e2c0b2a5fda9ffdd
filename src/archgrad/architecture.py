"""The result of a search: which candidate each choice takes, as plain data that no program is needed to read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from archgrad.decision import CellDecision, Decision, empty_nodes, freeze_decisions
from archgrad.errors import ArchitectureError
from archgrad.files import partial_file, read_file
from archgrad.genotype import format_genotype, parse_genotype
from archgrad.genotype_texts import choose_genotype
from archgrad.json_text import MAX_TEXT_BYTES, check_text, format_json, freeze, parse_json, shown, thaw
from archgrad.nni_format import looks_like_export, looks_like_nni, parse_export, parse_nni
from archgrad.nni_hub_format import looks_like_hub, split_hub

__all__ = ["Architecture", "CellDecision", "Decision", "as_architecture", "last_of_run"]

FORMAT = "archgrad.architecture"
VERSION = 3
"""The newest version that is read. Version 2 allows nodes without edges, version 3 numbers; version 1 is read for ever.

Written is the lowest version that can say the same, so that files of before stay as they are to the byte, and earlier
releases, which read version 1 alone, refuse only what they would misread. For the same reason the output of a cell has
no key of its own: version 1 says by "concat" with a single node what `Cell(output="last")` gives out.
"""
PAPER_SPACE, PAPER_RNN_SPACE = "darts-cifar", "darts-rnn"
"""The spaces that genotype texts speak of, and of these the first NNI's exports."""
_REQUIRED = ("format", "version", "choices")
_OPTIONAL = ("space", "provenance")
_NASBENCH201 = "nasbench201"
_NASBENCH201_CELL = "cell"
_NASBENCH201_NODES = ["1", "2", "3"]

PathLike: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True, repr=False)
class Architecture:
    """The decision of every choice of a space: deeply immutable, hashable, and equal when it decides the same.

    Args:
        choices: Label -> decision: a candidate's name (layer choice), a number (value choice), ascending indices
            (input choice), or for a cell node -> [[operation, source], ...], strongest first, with "concat" -> the
            nodes that make up its output where these are not all that have edges. The cell "cell" of the space
            "nasbench201" gives out its last node even without "concat", since files of earlier releases do not say so.
        space: Name of the space that the choices belong to; None for a space without a name.
        provenance: Where the architecture comes from, any JSON data; does not count in comparisons.

    Raises:
        ArchitectureError: An argument breaks one of these rules.
    """

    choices: Mapping[str, Decision]
    space: str | None = field(default=None, kw_only=True)
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.space is not None and (not isinstance(self.space, str) or not self.space):
            raise ArchitectureError(f"'space' must be a name or null, but got {shown(self.space)}.")
        check_text(self.space or "", "'space'")
        if not isinstance(self.provenance, Mapping):
            raise ArchitectureError(f"'provenance' must be an object, but got {shown(self.provenance)}.")
        choices = freeze_decisions(self.choices)
        object.__setattr__(self, "choices", _with_last_node(choices) if self.space == _NASBENCH201 else choices)
        object.__setattr__(self, "provenance", freeze(self.provenance, "'provenance'"))

    def __hash__(self) -> int:
        return hash((self.space, format_json(self.choices)))

    def __repr__(self) -> str:
        return f"Architecture({thaw(self.choices)!r}, space={self.space!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Architecture.from_json, (self.to_json(),)  # read-only mappings cannot be pickled

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the JSON file as new plain dicts and lists."""
        head = {"format": FORMAT, "version": _least_version(self.choices), "space": self.space}
        return {**head, "choices": thaw(self.choices), "provenance": thaw(self.provenance)}

    def to_json(self) -> str:
        """Return JSON: the same text for the same content, choices sorted, one node or row per line.

        It is of version 1, which every release reads, unless a node has no edges, which takes version 2, or a decision
        is a number, which takes version 3.
        """
        return format_json(self.to_dict())

    def to_genotype(self, *, nested: bool = False) -> str:
        """Return the authors' `Genotype(...)` text, or one with a list of pairs for each node, as pt.darts has it.

        Raises:
            ArchitectureError: This is neither a pair of cells "normal" and "reduce", with two edges a node if not
                nested, nor a cell "recurrent", with one.
        """
        return format_genotype(self.choices, nested=nested)

    def save(self, path: PathLike) -> None:
        """Write the JSON file at `path` in one stroke: a reader finds the old file or the whole new one.

        Raises:
            ArchitectureError: The file cannot be written.
        """
        try:
            with partial_file(Path(path)) as partial:
                partial.write_bytes(self.to_json().encode("utf-8"))
        except (OSError, ValueError) as error:
            raise ArchitectureError(
                f"The architecture cannot be written to {shown(os.fspath(path))}: {_reason(error)}. "
                f"Name a file in an existing folder with write access and free space."
            ) from None

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read JSON of version 1, 2 or 3.

        Raises:
            ArchitectureError: The text is anything else.
        """
        return cls._from_data(parse_json(text))

    @classmethod
    def from_genotype(cls, text: str) -> Architecture:
        """Read `Genotype(normal=[('sep_conv_3x3', 0), ...], ...)` as the authors' code and its forks write it.

        `Genotype(recurrent=[('tanh', 0), ...], concat=range(1, 9))` is read, too. The text is parsed, never evaluated.

        Raises:
            ArchitectureError: The text is anything else.
        """
        return cls._of_genotype(parse_genotype(text))

    @classmethod
    def _of_genotype(cls, cells: Mapping[str, Any], provenance: Mapping[str, Any] | None = None) -> Architecture:
        return cls(cells, space=PAPER_RNN_SPACE if "recurrent" in cells else PAPER_SPACE, provenance=provenance or {})

    @classmethod
    def from_nni(cls, data: Mapping[str, Any]) -> Architecture:
        """Read what NNI (1, 2.3, 2.4, or 2.8 to 3.0, told apart by content) exported of the paper's CNN space.

        Exports of a space of one's own are read, too: labels with names or indices, and cells that are not called
        "normal" or "reduce". NNI 1 and NNI from 2.8 did not keep which of a node's two edges is stronger; NNI 1's come
        ordered by source, the others as they are listed. Widths and depths of the hub's spaces are in `provenance`.

        Raises:
            ArchitectureError: The data has another shape.
        """
        if isinstance(data, Mapping) and looks_like_hub(data):
            cells, sizes, paper = split_hub(data)
            source = {"source": "NNI 2.8 to 3.0", **sizes}
            return cls(cells, space=PAPER_SPACE if paper else None, provenance=source)
        if isinstance(data, Mapping) and not looks_like_nni(data) and looks_like_export(data, of_numbers=True):
            return cls(parse_export(data), provenance={"source": "an export in the shape of NNI 2.4"})
        choices, version = parse_nni(data)
        return cls(choices, space=PAPER_SPACE, provenance={"source": f"NNI {version}"})

    @classmethod
    def load(cls, path: PathLike) -> Architecture:
        """Read a file of archgrad's JSON, one of NNI's, or genotype text, told apart by content.

        Args:
            path: The file, or a run folder, of which the architecture that the run came to is read. Of a text with
                several genotypes, such as the log of a search, the last is taken, which `provenance` says;
                `log.txt@12` takes that of epoch 12, and `genotypes.py:NAME` the one that is called so.

        Raises:
            ArchitectureError: The file cannot be read or holds none of these, or the folder has no architecture.
        """
        path, chosen = parted(last_of_run(Path(path)) if os.path.isdir(path) else path)
        try:
            return cls._from_text(read_text(path), chosen)
        except ArchitectureError as error:
            raise ArchitectureError(f"{shown(os.fspath(path))}: {error}") from None

    @classmethod
    def _from_text(cls, text: str, chosen: str | int | None) -> Architecture:
        if text.lstrip().startswith(("{", "[")) and "Genotype" not in text:
            if chosen is not None:
                raise ArchitectureError(
                    f"JSON has one architecture, so {shown(chosen)} cannot be chosen. Leave it out."
                )
            data = parse_json(text)
            if isinstance(data, dict) and looks_exported(data):
                return cls.from_nni(data)
            return cls._from_data(data)
        if "Genotype" not in text:
            raise ArchitectureError(
                f"An architecture is archgrad's JSON, NNI's JSON or Genotype(...) text, but this is "
                f"{shown(text.strip()[:60]) if text.strip() else 'empty'}. Take an intact file."
            )
        found = choose_genotype(text, chosen)
        return cls._of_genotype(found.cells, found.provenance)

    @classmethod
    def _from_data(cls, data: Any) -> Architecture:
        if not isinstance(data, dict):
            raise ArchitectureError(f"An architecture is a JSON object, but this is {shown(data)}.")
        if data.get("format") != FORMAT:
            got = f"it is {shown(data['format'])}" if "format" in data else "it is missing"
            raise ArchitectureError(f"'format' must be {FORMAT!r}, but {got}. This is not an architecture's file.")
        version = data.get("version")
        if type(version) is not int or version < 1:
            raise ArchitectureError(f"'version' must be an integer from 1, but got {shown(version)}.")
        if version > VERSION:
            raise ArchitectureError(
                f"The file was written by a newer archgrad (its format is version {version}, this archgrad reads "
                f"versions 1 to {VERSION}). Update archgrad."
            )
        missing = [key for key in _REQUIRED if key not in data]
        unknown = [key for key in data if key not in _REQUIRED + _OPTIONAL]
        if missing or unknown:
            problem = f"{missing[0]!r} is missing" if missing else f"this one has {shown(unknown[0])}"
            raise ArchitectureError(f"An architecture has the keys {', '.join(_REQUIRED + _OPTIONAL)}, but {problem}.")
        architecture = cls(data["choices"], space=data.get("space"), provenance=data.get("provenance", {}))
        if (least := _least_version(architecture.choices)) > version:
            rule, got = {
                2: ("every node of a cell must list at least one [operation, source]", "a node is []"),
                3: ("a decision is no number", "there is one"),
            }[least]
            raise ArchitectureError(f'In a file of version {version} {rule}, but {got}. Write "version": {least}.')
        return architecture


def _least_version(choices: Mapping[str, Decision]) -> int:
    """The lowest version of the format that can say these decisions."""
    if any(isinstance(decision, int | float) for decision in choices.values()):
        return 3
    cells = [decision for decision in choices.values() if isinstance(decision, Mapping)]
    return 2 if any(empty_nodes(cell) for cell in cells) else 1


def _with_last_node(choices: Mapping[str, Decision]) -> Mapping[str, Decision]:
    """Return the choices of NAS-Bench-201 with the output of its cell said, which earlier releases did not record."""
    cell = choices.get(_NASBENCH201_CELL)
    if not isinstance(cell, Mapping) or list(cell) != _NASBENCH201_NODES or empty_nodes(cell):
        return choices
    return freeze_decisions({**choices, _NASBENCH201_CELL: {**cell, "concat": [int(_NASBENCH201_NODES[-1])]}})


def looks_exported(data: Mapping[str, Any]) -> bool:
    """Return whether a JSON object is an export of NNI's shapes rather than archgrad's own file."""
    own = set(data) & {*_REQUIRED, *_OPTIONAL}
    return not own and (looks_like_nni(data) or looks_like_hub(data) or looks_like_export(data))


def read_text(path: PathLike) -> str:
    """Return the text of a file that is to be an architecture.

    Raises:
        ArchitectureError: It cannot be read, or is no text.
    """
    where = shown(os.fspath(path))
    try:
        return read_file(path, most=MAX_TEXT_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArchitectureError(
            f"{where} must be UTF-8 text, but byte {error.start} is not. Save it as UTF-8."
        ) from None
    except (OSError, ValueError) as error:
        raise ArchitectureError(
            f"The architecture {where} cannot be read: {_reason(error)}. "
            f"Name a file such as RUN/checkpoints/epoch_49.json."
        ) from None


def parted(path: PathLike) -> tuple[PathLike, str | int | None]:
    """Return a file and what is chosen of it: `log.txt@12` is epoch 12, `genotypes.py:NAME` the one called so."""
    text = os.fspath(path)
    match = re.fullmatch(r"(.+?)(?:@([0-9]{1,6})|:([A-Za-z_][A-Za-z0-9_]*))", str(text), re.DOTALL)
    if match is None or os.path.exists(path) or not os.path.exists(match[1]):
        return path, None
    return match[1], int(match[2]) if match[2] else match[3]


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def last_of_run(run: Path) -> Path:
    """Return the file of the architecture that a run came to, or has so far.

    Raises:
        ArchitectureError: There is none in the folder.
    """
    if (run / "architecture.json").is_file():  # a search that was stopped may have an earlier epoch's
        return run / "architecture.json"
    epochs = {
        int(match[1]): file
        for file in run.glob("checkpoints/epoch_*.json")
        if (match := re.fullmatch(r"epoch_(\d{1,9})\.json", file.name))
    }
    if epochs:
        return epochs[max(epochs)]
    raise ArchitectureError(
        f"The folder {shown(os.fspath(run))} holds no architecture. Name a run folder, or a file such as "
        f"RUN/checkpoints/epoch_49.json."
    )


def as_architecture(given: Any) -> Architecture:
    """Return the architecture of what a person has: itself, a result with one, a file or run folder, or its content.

    Args:
        given: An `Architecture`; what has one as its attribute `architecture`; a path; a dict as `to_dict` gives it, or
            of label -> decision.

    Raises:
        ArchitectureError: It is none of these, or cannot be read.
    """
    if isinstance(given, Architecture):
        return given
    if isinstance(getattr(given, "architecture", None), Architecture):
        return given.architecture
    if isinstance(given, str | os.PathLike):
        return Architecture.load(given)
    if isinstance(given, Mapping):
        return Architecture._from_data(dict(given)) if "format" in given else Architecture(given)
    raise ArchitectureError(
        f"An architecture must be an Architecture, a result with one, a path or a dict, but got {type(given).__name__}."
    )
