"""What this machine has."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

from archgrad.errors import RunError

__all__ = ["check_main_guard", "machine_memory"]


def check_main_guard() -> None:
    """Refuse to start a run while a new process only reads the main script again, as processes that are spawned do.

    Raises:
        RunError: It is so.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RunError(
            "The script is read a second time, by a process that it has started, and would start its run again. Put "
            'what starts the run under `if __name__ == "__main__":`.'
        )


def machine_memory() -> int | None:
    """Return the bytes of memory that this process may use: the machine's, or what its container is limited to.

    None where the system does not tell (Windows).
    """
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return memory
    return min(memory, int(limit)) if limit.isdigit() else memory
