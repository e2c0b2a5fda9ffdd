"""Paths as a person types them."""

from __future__ import annotations

import os
from pathlib import Path

from archgrad.errors import OptionError
from archgrad.json_text import shown

__all__ = ["from_home"]


def from_home(path: str | os.PathLike[str], *, remedy: str = "Give the whole path.") -> Path:
    """Return a path with `~` at its beginning replaced by the home folder.

    Args:
        path: Of any file or folder.
        remedy: What to do where there is no home folder.

    Raises:
        OptionError: There is no home folder: HOME is not set, and the system does not know this user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        where = shown(os.fspath(path))
        raise OptionError(f"{where} lies in the home folder, but there is none: {error} {remedy}") from error
