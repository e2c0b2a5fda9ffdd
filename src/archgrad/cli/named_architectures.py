"""An architecture from what a person names: a file, a run, a published result, or a cell's text."""

from __future__ import annotations

import difflib
import os
import re

from archgrad import architectures
from archgrad.architecture import Architecture, last_of_run, parted
from archgrad.errors import ArchitectureError
from archgrad.json_text import shown
from archgrad.paths import from_home

__all__ = ["FORMS", "PUBLISHED", "open_architecture", "settled_name"]

PUBLISHED = tuple(architectures.__all__)
FORMS = (
    f"a JSON file (archgrad's or NNI's), a file with Genotype(...) text (of several the last; log.txt@12 is that of "
    f"epoch 12, genotypes.py:NAME the one called so), a run folder (its last architecture), or {', '.join(PUBLISHED)}"
)


def settled_name(text: str, *, may_be_gone: bool = False) -> str:
    """Return a name that means the same architecture from any folder and later on: a path absolute, a run's last file.

    Args:
        text: One of `FORMS`, or a cell of NAS-Bench-201 as text.
        may_be_gone: Whether a file need not be there any more.

    Raises:
        ArchitectureError: There is no such file, or the run has no architecture.
    """
    if text in PUBLISHED or _is_benchmark(text):
        return text
    path = from_home(text)
    chosen = parted(path)[1] is not None
    if not chosen and not os.path.exists(path) and not may_be_gone:
        near = difflib.get_close_matches(text, PUBLISHED, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ArchitectureError(f"There is no architecture {shown(text)}.{hint} Give {FORMS}.")
    return str((last_of_run(path) if path.is_dir() else path).absolute())


def open_architecture(text: str) -> Architecture:
    """Read an architecture.

    Args:
        text: One of `FORMS`, or a network of a benchmark as text (see `archgrad.nasbench`).

    Raises:
        ArchitectureError: There is none, or it is damaged.
    """
    if text in PUBLISHED:
        return getattr(architectures, text)
    if _is_benchmark(text):
        from archgrad.nasbench import parse_arch

        return parse_arch(text)
    return Architecture.load(settled_name(text))


def _is_benchmark(text: str) -> bool:
    """Whether it is a cell of NAS-Bench-201 or the eight digits of a network of NAS-Bench-Macro."""
    return text.startswith("|") or (re.fullmatch("[0-2]{8}", text) is not None and not os.path.exists(text))
