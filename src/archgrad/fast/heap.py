"""Keep freed memory for the next pass.

A pass allocates and frees gigabytes. glibc gives what lies at the end of the heap back to the system, and pages that it
then takes anew must be zeroed by the kernel: 1,024 page faults for 4 MB cost more than the convolution that fills them.
"""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_NEVER, _LARGEST = -1, 2**30


def keep_freed_memory() -> bool:
    """Let the C library keep what this process frees; the most that it used at once stays taken until it ends.

    The setting is the whole process's, so only programs of our own make it, not the library.

    Returns:
        Whether there was something to set: only under glibc (Linux).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
