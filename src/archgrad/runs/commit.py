"""Which commit of its repository the package runs from, read from the files that git keeps."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["commit_of"]

_COMMIT = re.compile("[0-9a-f]{40,64}")
_MOST = 2**20  # characters


def commit_of(folder: Path) -> str | None:
    """Return the commit that is checked out in a folder; None where it is no checkout.

    Changes since the commit are not looked for.

    Args:
        folder: The top of the checkout, which holds `.git`.
    """
    git = folder / ".git"
    try:
        if git.is_file():  # of a further worktree
            git = folder / _read(git).removeprefix("gitdir:").strip()
        common = git / _read(git / "commondir") if (git / "commondir").is_file() else git
        head = _read(git / "HEAD")
        if head.startswith("ref:"):
            head = _of_branch(head.removeprefix("ref:").strip(), common)
    except (OSError, UnicodeDecodeError):
        return None
    return head if _COMMIT.fullmatch(head) else None


def _of_branch(name: str, git: Path) -> str:
    if (git / name).is_file():
        return _read(git / name)
    packed = (line.split(" ", 1) for line in _read(git / "packed-refs").splitlines())
    return next((parts[0] for parts in packed if parts[1:] == [name]), "")


def _read(file: Path) -> str:
    with open(file, encoding="utf-8") as text:
        return text.read(_MOST).strip()
