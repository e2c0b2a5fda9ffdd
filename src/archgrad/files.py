"""Whole files or none, in the place that is meant: writes that survive a crash, and reads that no file can hold up."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from archgrad.errors import RunError
from archgrad.machine import machine_memory

__all__ = [
    "Guard", "append", "atomic_write", "check_fits", "disk_error", "is_partial", "open_regular", "partial_file",
    "read_explained", "read_file", "refuse_links", "remove_partial_files", "sync_folder", "write_text",
]  # fmt: skip

Guard = Callable[[Path], None]
"""Called with the path of a file before anything is changed there; raises where nothing may be."""

_PARTIAL_SUFFIX = ".part"
_MOST_UNKNOWN = 8 * 1024**3  # bytes that are read at once where the system does not tell how much memory there is
_NAME_KEPT = 40  # characters of the file's name in that of its partial file: the longest names leave no room for more
_NOT_FOR_FOLDERS = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}  # how file systems say that they flush no folders

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

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def disk_error(error: OSError, path: Path, *, doing: str) -> RunError:
    """Return the `RunError` for a failed file operation: where, what the system said, and the remedy.

    Args:
        error: What the system raised.
        path: The file or folder in question.
        doing: The verb, such as "write" or "read".
    """
    remedy = _REMEDIES.get(error.errno or 0, "Check that the path is right and the disk in order.")
    if error.errno is None and doing == "read":  # this module's own: the disk is in order, the file is not
        remedy = "Take an intact copy."
    return RunError(f"Cannot {doing} '{path}': {error.strerror or error}. {remedy}")


# --- reading ----------------------------------------------------------------------------------------------------------


@contextmanager
def open_regular(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for reading if it is a regular one, reached by links or not; never wait for a pipe or a device.

    Raises:
        OSError: It cannot be opened, or is something else than a file with a content.
    """
    _check_regular(os.stat(path))  # before it is opened, since opening some devices has effects of its own
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        _check_regular(os.fstat(file.fileno()))  # again: another file may have taken the name in between
        yield file


def check_fits(file: BinaryIO, *, most: int | None = None) -> int:
    """Refuse an open file that is too large to be read whole; a hole takes no disk, but it would take memory.

    Args:
        file: Of `open_regular`.
        most: Largest size in bytes; half of the memory of this machine if it is not given.

    Returns:
        The largest size.

    Raises:
        OSError: It is larger.
    """
    limit = _half_of_memory() if most is None else most
    if os.fstat(file.fileno()).st_size > limit:
        raise _too_large(limit, most)
    return limit


def read_file(path: str | os.PathLike[str], *, most: int | None = None) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file.
        most: Largest size in bytes, as in `check_fits`; nothing is read of a larger file.

    Raises:
        OSError: It cannot be read, is no regular file, or is too large.
    """
    with open_regular(path) as file:
        limit, size = check_fits(file, most=most), os.fstat(file.fileno()).st_size
        content = file.read(size + 1)  # memory is taken for as much as is asked for
        if len(content) > size:  # it has grown
            content += file.read(limit + 1 - len(content))
    if len(content) > limit:
        raise _too_large(limit, most)
    return content


def read_explained(path: Path, *, most: int | None = None) -> bytes:
    """Return what `read_file` does.

    Raises:
        RunError: Where `read_file` raises an OSError.
    """
    try:
        return read_file(path, most=most)
    except OSError as error:
        raise disk_error(error, path, doing="read") from error


def _half_of_memory() -> int:
    memory = machine_memory()
    return _MOST_UNKNOWN if memory is None else memory // 2


def _too_large(limit: int, most: int | None) -> OSError:
    return OSError(f"it is larger than {limit} bytes{', half of the memory of this machine' if most is None else ''}")


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for fits, name in _KINDS if fits(status.st_mode)), "something else")
        raise OSError(f"it is {kind}, not a regular file")


# --- writing ----------------------------------------------------------------------------------------------------------


@contextmanager
def partial_file(path: Path, *, guard: Guard | None = None) -> Iterator[Path]:
    """Give the name of a new file beside `path`, which takes the name `path` when the block ends.

    The file is flushed to the disk, renamed over `path`, and the folder is flushed, so that a crash leaves either the
    old file or the new one. If the block raises, the old file stays. A link in the place of `path` is replaced, not
    followed.

    Args:
        path: The file; its folder must exist.
        guard: Asked before the block and again before the renaming.

    Raises:
        OSError: The disk is full, read-only or failing.
    """
    partial = path.with_name(f".{path.name[:_NAME_KEPT]}.{secrets.token_hex(4)}{_PARTIAL_SUFFIX}")
    if guard is not None:
        guard(path)
    try:
        yield partial
        descriptor = os.open(partial, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if guard is not None:
            guard(path)
        os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def atomic_write(path: Path, *, guard: Guard | None = None) -> Iterator[BinaryIO]:
    """Give a file to write into, which takes the name `path` only when it is complete and on the disk.

    Args:
        path: The file; its folder must exist. See `partial_file`.
        guard: Asked before the file is begun and again before it takes its name.

    Raises:
        RunError: The disk is full, read-only or failing.
    """
    try:
        with partial_file(path, guard=guard) as partial:
            # os.open rather than tempfile: the file gets the permissions that the umask gives to every other file.
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
            with os.fdopen(descriptor, "wb") as file:
                yield file
    except OSError as error:
        raise disk_error(error, path, doing="write") from error


def write_text(path: Path, text: str, *, guard: Guard | None = None) -> None:
    """Write a text file atomically, as UTF-8 with the line ends that the text has.

    Bytes of a path that are no UTF-8 (PEP 383) are escaped as in JSON, "\\udcff", which reads back as they were.
    """
    with atomic_write(path, guard=guard) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def append(path: Path, content: bytes, *, guard: Guard | None = None) -> None:
    """Add to a file, and return when it is on the disk; the file is created if it is missing.

    What the file shares with other names (a symbolic or hard link) stays as it is there: the file is then written anew.

    Raises:
        OSError: The disk is full, read-only or failing, or there is no regular file of this name.
    """
    if guard is not None:
        guard(path)
    with suppress(FileNotFoundError):
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode) or status.st_nlink > 1:
            old = read_file(path, most=_MOST_COPIED) if path.exists() else b""
            with partial_file(path, guard=guard) as partial:
                partial.write_bytes(old + content)
            return
        _check_regular(status)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
        flags |= getattr(os, name, 0)
    with os.fdopen(os.open(path, flags, 0o666), "ab") as file:
        _check_regular(os.fstat(file.fileno()))
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


_MOST_COPIED = 1024**3


def refuse_links(path: Path, *, below: Path) -> None:
    """Refuse a path that leads out of a folder by a link; the folder's own path may hold links, and so may the name.

    Args:
        path: A file or folder to be written into `below`; the part after `below` is looked at, but for the last name.
        below: The folder.

    Raises:
        RunError: A folder between the two is a link.
    """
    folder = below
    for name in path.parent.relative_to(below).parts:
        folder = folder / name
        if folder.is_symlink():
            raise RunError(
                f"'{folder}' is a link, and nothing is written through a link inside a run folder. Put a folder in its "
                f"place; the run folder as a whole may be a link."
            )


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut; where the system can do that."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise
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
