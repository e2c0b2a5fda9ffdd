"""Where decoded images are kept: in a folder that does not grow without end, or nowhere."""

from __future__ import annotations

import functools
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from archgrad.data.cache import cache_root
from archgrad.errors import OptionError
from archgrad.json_text import shown
from archgrad.paths import from_home

try:
    import fcntl
except ImportError:  # not on Windows, where a file that is open cannot be removed
    fcntl = None  # type: ignore[assignment]

__all__ = ["decoded_root", "hold", "make_room"]

_FOLDERS = ("decoded", "unpacked")
_OFF = "off"
_GIGABYTES = 20.0
_held: dict[Path, BinaryIO] = {}


def decoded_root(root: str | os.PathLike[str] | None) -> Path:
    """Find the folder for decoded images: `root`, else ARCHGRAD_CACHE, else as `cache_root`.

    With ARCHGRAD_CACHE=off it is one of this process alone, which is removed when the process ends.

    Raises:
        OptionError: There is no home folder.
    """
    asked = os.environ.get("ARCHGRAD_CACHE")
    if root is not None or not asked:
        return cache_root(root)
    return _own_folder() if asked == _OFF else from_home(asked, remedy="Give another folder in ARCHGRAD_CACHE.")


@functools.cache
def _kept_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="archgrad-", ignore_cleanup_errors=True)


def _own_folder() -> Path:
    return Path(_kept_folder().name)


def hold(file: Path) -> bool:
    """Say that this process reads a file until it ends, so that `make_room` leaves it, and that it was used now.

    Returns:
        Whether the file is there; False where another process has just removed it.
    """
    try:
        handle = open(file, "rb")  # noqa: SIM115 - open as long as the process lives
        os.utime(file)
    except FileNotFoundError:
        return False
    except OSError:  # a cache that may only be read
        return True
    if before := _held.pop(file, None):
        before.close()
    _held[file] = handle
    if fcntl is not None:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_SH)
    return file.is_file()


def make_room(root: Path) -> None:
    """Remove what was not used for longest until the cache is no larger than ARCHGRAD_CACHE_GB, 20 by default.

    What a process holds stays. Any number of processes may do this at once, and be killed in it.

    Raises:
        OptionError: ARCHGRAD_CACHE_GB is no number of at least 0.
    """
    most, total = _most_bytes(), 0
    found = []
    for file in (file for name in _FOLDERS for file in (root / name).glob("[!.]*")):
        with suppress(OSError):  # removed by another process
            found.append((file.stat().st_mtime, file.stat().st_size, file))
    for _, size, file in sorted(found, reverse=True):
        total += size
        if total > most and _remove(file):
            total -= size


def _most_bytes() -> float:
    text = os.environ.get("ARCHGRAD_CACHE_GB", str(_GIGABYTES))
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = -1.0
    if not gigabytes >= 0:
        raise OptionError(f"ARCHGRAD_CACHE_GB must be a number of at least 0, but is {shown(text)}. Set it anew.")
    return gigabytes * 1e9


def _remove(file: Path) -> bool:
    """Remove a file that no process holds."""
    try:
        with open(file, "rb") as handle:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink()
    except OSError:
        return False
    return True
