"""One process per run folder, for as long as it is the folder that was locked."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from archgrad.errors import RunError
from archgrad.files import disk_error, read_file, refuse_links, write_text

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["LOCK_NAMES", "RunLock"]

LOCK_NAMES = (".lock", ".lock-owner.json")
"""The files that a lock leaves in its folder."""
_ORPHAN_SECONDS = 10.0
_POLL_SECONDS = 0.1
_MOST_OWNER_BYTES = 65536
_TAKEN = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK}
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ELOOP}


class RunLock:
    """The right to write into a run folder, held until `release` or until the process dies, however it dies.

    The operating system keeps the lock, so nothing has to be tidied up after a killed process.

    Args:
        folder: The run folder; it must exist.

    Raises:
        RunError: Another process holds the lock, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path, self._owner_path = (folder / name for name in LOCK_NAMES)
        owner = _read_owner(self._owner_path)
        # Workers of a killed process live for a few seconds more, and may hold what they inherited from it.
        orphaned = owner is not None and owner["host"] == socket.gethostname() and not _is_alive(owner["pid"])
        try:
            self._descriptor: int | None = _open(self._path)
        except OSError as error:
            raise disk_error(error, self._path, doing="lock") from error
        self._process = os.getpid()
        try:
            self._take(owner, _ORPHAN_SECONDS if orphaned else 0.0)
            status = os.fstat(self._descriptor)
            self._identity = status.st_dev, status.st_ino
            self.check(self._owner_path)
            write_text(
                self._owner_path, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), guard=self.check
            )
        except OSError as error:
            self._close()
            raise disk_error(error, folder, doing="lock") from error
        except BaseException:
            self._close()
            raise

    def _take(self, owner: dict[str, Any] | None, patience: float) -> None:
        assert self._descriptor is not None
        until = time.monotonic() + patience
        while not _try_lock(self._descriptor):
            if time.monotonic() >= until:
                who = f" (process {owner['pid']} on {owner['host']})" if owner else ""
                raise RunError(
                    f"The run folder '{self._folder}' is in use by another process{who}. "
                    f"Wait until it ends, stop it, or choose another folder."
                )
            time.sleep(_POLL_SECONDS)

    def check(self, path: Path) -> None:
        """Refuse to change a file where that would not be in the folder that was locked: asked before each write.

        Args:
            path: The file, in the folder or below it.

        Raises:
            RunError: The folder was removed, renamed or replaced, its lock is gone, or a link leads out of it.
        """
        try:
            there = os.stat(self._path, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _GONE:
                raise disk_error(error, self._path, doing="look at") from error
            there = None
        if there is None or (there.st_dev, there.st_ino) != self._identity:
            what = "is another one now" if there is not None else "or its file .lock was removed or renamed"
            raise RunError(
                f"The run folder '{self._folder}' {what} while this process wrote into it, so the run ends here, and "
                f"nothing is written there. If the folder was renamed, resume the run where it lies now; if it was "
                f"removed, start anew in another folder."
            )
        refuse_links(path, below=self._folder)

    def release(self) -> None:
        """Let others use the folder; releasing twice is harmless."""
        if self._descriptor is None:
            return
        with suppress(OSError, RunError):
            self.check(self._owner_path)  # what another process put there is not ours to remove
            self._owner_path.unlink()
        self._close()

    def _close(self) -> None:
        assert self._descriptor is not None
        if os.getpid() == self._process:  # a fork shares the lock, and must not free it for its parent
            with suppress(OSError):
                _unlock(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = None


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # nobody waits for a pipe, or locks what a link leads to
        flags |= getattr(os, name, 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError("it is a link, not a regular file") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is not a regular file")
    return descriptor


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


def _unlock(descriptor: int) -> None:
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _read_owner(path: Path) -> dict[str, Any] | None:
    try:
        owner = json.loads(read_file(path, most=_MOST_OWNER_BYTES))
    except (OSError, ValueError, RecursionError):
        return None  # nobody, or somebody who is just about to write: the message then names no process
    if isinstance(owner, dict) and type(owner.get("pid")) is int and isinstance(owner.get("host"), str):
        return owner
    return None


def _is_alive(pid: int) -> bool:
    if os.name == "nt" or pid <= 0:
        return True  # unknown there; then no time is spent on waiting
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
