"""SIGTERM, SIGINT and SIGHUP as a request: the step is finished, the state saved, and then the process ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Halted", "Interrupted", "StopRequest", "in_ipython"]

_SAME_REQUEST_SECONDS = 0.25
_HANG_UP = getattr(signal, "SIGHUP", None)  # Windows has none
_SIGNALS = (signal.SIGTERM, signal.SIGINT, *([] if _HANG_UP is None else [_HANG_UP]))


class Interrupted(SystemExit):
    """Ends the process with status 128 + signal, after the state was saved.

    A `SystemExit`, so that a script that does not catch it ends with this status and no traceback.

    Args:
        signal_number: The signal that asked for it.

    Attributes:
        result: What the run came to so far, as `search` or `retrain` would have returned it; None from elsewhere.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(128 + signal_number)
        self.signal_number = signal_number
        self.result: Any = None

    def __str__(self) -> str:
        return f"interrupted by {signal.Signals(self.signal_number).name}"


class Halted(KeyboardInterrupt):
    """Ends a run at Ctrl-C or a notebook's stop button, after a whole step, where the process is to live on.

    Raised in the place of `Interrupted` where there is no run folder, and always in IPython, which answers a
    `SystemExit` with advice on how to leave. A `KeyboardInterrupt`, so that what handles one handles this.

    Attributes:
        result: What the run came to so far, as `search` or `retrain` would have returned it. Where the exception was
            not caught, IPython and the interactive Python keep it in `sys.last_value`.
    """

    def __init__(self) -> None:
        super().__init__("the run's exception has a .result: sys.last_value.result where it was not caught")
        self.result: Any = None


def in_ipython() -> bool:
    """Return whether this runs in IPython, such as in a notebook."""
    module = sys.modules.get("IPython")  # whoever runs in it has imported it
    return module is not None and module.get_ipython() is not None


class StopRequest:
    """A context manager that turns the first SIGTERM, SIGINT or SIGHUP into a flag; a second ends the process at once.

    The loop inside looks at `requested` after each step, saves, and raises `Interrupted(request.signal_number)`.
    Signals that arrive within a quarter of a second are one request: launchers send the same signal to a process and to
    its group. A further SIGHUP, which says that the terminal is gone, never ends the process at once; where SIGHUP is
    ignored (nohup), it stays so. With `process_lives`, SIGINT alone is a request, and a second one raises
    `KeyboardInterrupt` at once, whatever the run is in the middle of. The old handlers come back afterwards. Outside
    the main thread, where Python allows no handlers, nothing is changed.
    """

    def __init__(self, *, process_lives: bool = False) -> None:
        self.process_lives = process_lives
        self.signal_number: int | None = None
        self._requested_at = 0.0
        self._process = 0
        self._old_handlers: dict[signal.Signals, object] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signal_number is not None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._process = os.getpid()
            for number in (signal.SIGINT,) if self.process_lives else _SIGNALS:
                if self.process_lives and signal.getsignal(number) is not signal.default_int_handler:
                    continue  # the caller has a way of its own
                if number == _HANG_UP and signal.getsignal(number) == signal.SIG_IGN:
                    continue  # nohup: the run is to outlive its terminal
                self._old_handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old_handlers.items():
            # None: a handler that was not set from Python, which Python cannot set again.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)  # type: ignore[arg-type]
        self._old_handlers.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked child: it ends with its parent, or when it alone is told to
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        now = time.monotonic()
        if self.signal_number is None:
            self.signal_number = number
            self._requested_at = now
        elif number != _HANG_UP and now - self._requested_at > _SAME_REQUEST_SECONDS:  # shell and system both hang up
            if self.process_lives:
                raise KeyboardInterrupt
            with suppress(OSError, ValueError):
                if sys.stderr is not None and sys.stderr.isatty():
                    os.write(sys.stderr.fileno(), b"\x1b[?25h\n")  # the progress display hides the cursor
            os._exit(128 + number)
