"""Whole files or none: a write that survives a crash at any moment, and errors that say what the disk said."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from archgrad.errors import RunError
from archgrad.machine import machine_memory

__all__ = [
    "atomic_write",
    "check_fits",
    "disk_error",
    "is_partial",
    "read_whole",
    "remove_partial_files",
    "sync_folder",
    "write_text",
]

_PARTIAL_SUFFIX = ".part"

_REMEDIES = {
    errno.ENOSPC: "The disk is full: free some space, then resume.",
    errno.EDQUOT: "The disk quota is used up: free some space, then resume.",
    errno.EFBIG: "The file would exceed the size limit of this process or file system: raise it, or use another disk.",
    errno.EROFS: "The file system is read-only: choose a folder that can be written.",
    errno.EACCES: "Permission is missing: choose a folder that this user may write, or change its permissions.",
    errno.EPERM: "Permission is missing: choose a folder that this user may write, or change its permissions.",
    errno.ENOENT: "The file or its folder is missing: was it moved or removed while in use?",
    errno.EIO: "The disk reports an input/output error: check it before going on.",
}


def disk_error(error: OSError, path: Path, *, doing: str) -> RunError:
    """Return the `RunError` for a failed file operation: where, what the system said, and the remedy.

    Args:
        error: What the system raised.
        path: The file or folder in question.
        doing: The verb, such as "write" or "read".
    """
    remedy = _REMEDIES.get(error.errno or 0, "Check that the path is right and the disk in order.")
    return RunError(f"Cannot {doing} '{path}': {error.strerror or error}. {remedy}")


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write into, which takes the name `path` only when it is complete and on the disk.

    The content goes to a temporary file in the same folder; it is flushed to the disk, renamed over `path`, and the
    folder is flushed, so that a crash leaves either the old file or the new one. If the block raises, the old file
    stays.

    Raises:
        RunError: The disk is full, read-only or failing.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL_SUFFIX}")
    try:
        # os.open rather than tempfile: the file gets the permissions that the user's umask gives to every other file.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        raise disk_error(error, path, doing="write") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def read_whole(path: Path, *, most: int) -> bytes:
    """Return the content of a file that should be small.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        RunError: It is missing, cannot be read, or has more.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise disk_error(error, path, doing="read") from error
    if len(content) > most:
        raise RunError(f"'{path}' is larger than {most} bytes, so archgrad did not write it. Take an intact copy.")
    return content


def check_fits(path: Path) -> None:
    """Refuse a file that is read whole but takes more than half of this machine's memory; a hole takes no disk.

    Raises:
        RunError: It does.
        OSError: There is no such file.
    """
    size, memory = path.stat().st_size, machine_memory()
    if memory is not None and 2 * size > memory:
        raise RunError(
            f"'{path}' takes {size / 1e9:.3g} GB, more than half of the {memory / 1e9:.3g} GB of memory that this "
            f"machine has. Take an intact copy, or a larger machine."
        )


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8 with the line ends that the text has.

    Bytes of a path that are no UTF-8 (PEP 383) are escaped as in JSON, "\\udcff", which reads back as they were.
    """
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut (Windows has no such call)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_partial(name: str) -> bool:
    """Return whether a file of this name is one that is still being written, or was when its writer was killed."""
    return name.startswith(".") and name.endswith(_PARTIAL_SUFFIX)


def remove_partial_files(folder: Path) -> None:
    """Remove what writers that were killed left in `folder`; only the holder of the run's lock may call this."""
    for partial in folder.glob(f".*{_PARTIAL_SUFFIX}"):
        with suppress(OSError):
            partial.unlink()
