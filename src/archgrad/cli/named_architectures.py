"""An architecture from what a person names: a file, a run, a published result, or a cell's text."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from archgrad import architectures
from archgrad.architecture import Architecture
from archgrad.errors import ArchitectureError
from archgrad.json_text import shown
from archgrad.paths import from_home

__all__ = ["FORMS", "PUBLISHED", "open_architecture", "settled_name"]

PUBLISHED = tuple(architectures.__all__)
FORMS = (
    f"a JSON file (archgrad's or NNI's), a file with Genotype(...) text, a run folder (its last architecture), or "
    f"{', '.join(PUBLISHED)}"
)


def settled_name(text: str) -> str:
    """Return a name that means the same architecture from any folder and later on: a path absolute, a run's last file.

    Raises:
        ArchitectureError: There is no such file, or the run has no architecture.
    """
    if text in PUBLISHED or text.startswith("|"):
        return text
    path = from_home(text)
    if not os.path.exists(path):
        near = difflib.get_close_matches(text, PUBLISHED, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ArchitectureError(f"There is no architecture {shown(text)}.{hint} Give {FORMS}.")
    return str((_last_of_run(path) if path.is_dir() else path).absolute())


def open_architecture(text: str) -> Architecture:
    """Read an architecture.

    Args:
        text: One of `FORMS`, or a cell of NAS-Bench-201 as text.

    Raises:
        ArchitectureError: There is none, or it is damaged.
    """
    if text in PUBLISHED:
        return getattr(architectures, text)
    if text.startswith("|"):
        from archgrad.nasbench import parse_arch

        return parse_arch(text)
    return Architecture.load(settled_name(text))


def _last_of_run(run: Path) -> Path:
    epochs = {
        int(match[1]): file
        for file in run.glob("checkpoints/epoch_*.json")
        if (match := re.fullmatch(r"epoch_(\d{1,9})\.json", file.name))
    }
    if (run / "architecture.json").is_file():  # a search that was stopped may have an earlier epoch's
        return run / "architecture.json"
    if epochs:
        return epochs[max(epochs)]
    raise ArchitectureError(f"The folder '{run}' holds no architecture. Name a run folder, or {FORMS}.")
