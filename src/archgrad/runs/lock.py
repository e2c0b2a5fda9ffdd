"""One process per run folder."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from archgrad.errors import RunError
from archgrad.runs.files import disk_error

__all__ = ["LOCK_NAMES", "RunLock"]

LOCK_NAMES = (".lock", ".lock-owner.json")
"""The files that a lock leaves in its folder."""
_ORPHAN_SECONDS = 10.0


class RunLock:
    """The right to write into a run folder, held until `release` or until the process dies, however it dies.

    The operating system keeps the lock, so nothing has to be tidied up after a killed process.

    Args:
        folder: The run folder; it must exist.

    Raises:
        RunError: Another process holds the lock, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._owner_path = folder / LOCK_NAMES[1]
        self._lock = FileLock(folder / LOCK_NAMES[0])
        owner = _read_owner(self._owner_path)
        # Workers of a killed process live for a few seconds more, and may hold what they inherited from it.
        orphaned = owner is not None and owner["host"] == socket.gethostname() and not _is_alive(owner["pid"])
        try:
            self._lock.acquire(timeout=_ORPHAN_SECONDS if orphaned else 0.0, poll_interval=0.1)
        except Timeout as error:
            who = f" (process {owner['pid']} on {owner['host']})" if owner else ""
            raise RunError(
                f"The run folder '{folder}' is in use by another process{who}. "
                f"Wait until it ends, stop it, or choose another folder."
            ) from error
        except OSError as error:
            raise disk_error(error, folder, doing="lock") from error
        try:
            self._owner_path.write_text(
                json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), encoding="utf-8"
            )
        except OSError as error:
            self._lock.release()
            raise disk_error(error, self._owner_path, doing="write") from error

    def release(self) -> None:
        """Let others use the folder; releasing twice is harmless."""
        if self._lock.is_locked:
            with suppress(OSError):
                self._owner_path.unlink()
            self._lock.release()


def _read_owner(path: Path) -> dict[str, Any] | None:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
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
