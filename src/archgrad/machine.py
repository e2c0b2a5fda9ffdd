"""What this machine has."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["machine_memory"]


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
