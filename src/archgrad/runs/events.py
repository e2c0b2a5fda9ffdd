"""TensorBoard's event files, in a folder that is held: one file descriptor, opened once and never again by its name."""

from __future__ import annotations

import itertools
import os
import socket
import time
from pathlib import Path
from typing import Any

from archgrad.errors import RunError
from archgrad.files import Guard, disk_error

__all__ = ["EVENTS", "EventFile"]

EVENTS = "events.out.tfevents.*"
"""Pattern of the names."""


class EventFile:
    """A new event file. TensorBoard's own writer would open it by name again for each piece, whatever lies there then.

    Args:
        folder: Where the file goes.
        first_step: What comes next; TensorBoard hides earlier files' steps from there on. 0 hides none.
        guard: Asked before each change, as in `archgrad.files.atomic_write`.

    Raises:
        RunError: The folder cannot be written.
    """

    def __init__(self, folder: Path, *, first_step: int = 0, guard: Guard | None = None) -> None:
        # Imported here because it takes a moment, and not every import of archgrad starts a run.
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._guard = guard
        self.path, descriptor = _create(folder, guard)
        self._file = os.fdopen(descriptor, "wb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if first_step:
            self._write(step=first_step, file_version="brain.Event:2")
            self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, summaries: list[Any], step: int | None = None) -> None:
        """Write summaries, as `torch.utils.tensorboard.summary` makes them, and send them to the disk.

        Raises:
            RunError: The disk is full or failing, or the folder is another one.
        """
        for summary in summaries:
            self._write(summary=summary, **({} if step is None else {"step": step}))
        try:
            self._file.flush()
        except OSError as error:
            raise disk_error(error, self.path, doing="write") from error

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        if self._guard is not None:
            self._guard(self.path)
        try:
            self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())
        except OSError as error:
            raise disk_error(error, self.path, doing="write") from error

    def close(self) -> None:
        """End the file."""
        try:
            self._file.close()
        except OSError as error:
            raise disk_error(error, self.path, doing="write") from error


def _create(folder: Path, guard: Guard | None) -> tuple[Path, int]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    for number in itertools.count():
        # TensorBoard reads a folder's files in the order of their names; what follows the time is of no meaning.
        path = folder / f"{EVENTS[:-1]}{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{number}"
        if guard is not None:
            guard(path)
        try:
            return path, os.open(path, flags, 0o666)
        except FileExistsError:
            continue  # a link, too
        except OSError as error:
            raise disk_error(error, path, doing="write") from error
    raise RunError(f"No name for an event file is free in '{folder}'.")
