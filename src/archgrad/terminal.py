"""What reaches a terminal: nothing that steers it, and nothing whose loss ends the work.

Names and values come from files of anyone's making, so what is not printable is shown as an escape. A terminal may hang
up, a pipe may break and the disk of a log may fill up; what cannot be printed is lost, and nothing else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TextIO
from weakref import WeakKeyDictionary

__all__ = [
    "Output",
    "escaped",
    "finish_output",
    "hold_standard_streams",
    "is_typed",
    "lost_output",
    "printable",
    "say",
    "typed_command",
]

_LAYOUT = "\n\t"
_typed: ContextVar[bool] = ContextVar("typed", default=False)


@contextmanager
def typed_command() -> Iterator[None]:
    """Say that what runs inside was typed as a command, so that it advises commands and no Python."""
    token = _typed.set(True)
    try:
        yield
    finally:
        _typed.reset(token)


def is_typed() -> bool:
    """Return whether a typed command runs."""
    return _typed.get()


def printable(text: str) -> str:
    """Return text for one place in a line: everything that is not printable, line breaks too, as an escape."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def escaped(text: str) -> str:
    """Return text for a terminal: everything that is not printable, but for line breaks and tabs, as an escape."""
    return "".join(c if c.isprintable() or c in _LAYOUT else repr(c)[1:-1] for c in text)


class Output:
    """A text stream that never fails: what it cannot take is lost, which is said once on the other standard stream.

    Characters that its encoding lacks are shown as escapes.

    Args:
        stream: Where to; None, as Python has it for a closed one, takes nothing.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:
        """The stream's, or UTF-8."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write text as it is, if that is possible."""
        with self._no_failure():
            if self._stream is not None:
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    self._stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        """Send what is held back, if that is possible."""
        with self._no_failure():
            if self._stream is not None:
                self._stream.flush()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        with suppress(OSError, ValueError):
            return self._stream is not None and self._stream.isatty()
        return False

    def fileno(self) -> int:
        """The stream's file descriptor.

        Raises:
            OSError: It has none.
        """
        if self._stream is None:
            raise OSError("a closed stream has no file descriptor")
        return self._stream.fileno()

    @contextmanager
    def _no_failure(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: it was closed in this process
            if self._stream is not None and self._stream not in _lost:
                with suppress(TypeError):  # a stream that cannot be referred to weakly
                    _lost[self._stream] = error
                _tell(self._stream, error)


_lost: WeakKeyDictionary[Any, Exception] = WeakKeyDictionary()
"""Stream -> its first failure."""


def _tell(stream: TextIO, error: Exception) -> None:
    if stream in (sys.stdout, sys.__stdout__):
        if isinstance(error, BrokenPipeError):
            return  # its reader, such as `head`, has seen enough
        name, other, is_error = "Standard output", sys.stderr, True
    else:
        name = "Standard error" if stream in (sys.stderr, sys.__stderr__) else "The output"
        other, is_error = sys.stdout, False
    if other is not stream and other not in _lost:
        reason = getattr(error, "strerror", None) or error
        say(f"Warning: {name} cannot be written any more ({reason}). The work goes on without it.", error=is_error)


def say(text: str, *, error: bool = False, end: str = "\n") -> None:
    """Print text if that is possible, escaped, and send it at once.

    Args:
        text: One line or several.
        error: Whether it goes to standard error.
        end: What follows.
    """
    output = Output(sys.stderr if error else sys.stdout)
    output.write(escaped(text) + end)
    output.flush()


def lost_output() -> Exception | None:
    """Return why something that was printed on standard output is lost, if it is."""
    return OSError("it is closed") if sys.stdout is None else _lost.get(sys.stdout)


def finish_output() -> None:
    """Send what standard output and error hold back; one that takes no more is turned off, so that no exit fails."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        Output(stream).flush()
        if stream in _lost:
            with suppress(OSError, ValueError):
                descriptor = os.open(os.devnull, os.O_WRONLY)
                os.dup2(descriptor, stream.fileno())
                os.close(descriptor)


def hold_standard_streams() -> None:
    """Open what is closed of the file descriptors 0 to 2, so that no other file gets these numbers.

    A checkpoint that happened to be descriptor 2 would take in what libraries write to standard error.
    """
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            return
        os.set_inheritable(descriptor, True)
