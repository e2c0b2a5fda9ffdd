"""Keep freed memory for the next pass, in huge pages.

A pass allocates and frees gigabytes. glibc gives what lies at the end of the heap back to the system, and pages that it
then takes anew must be zeroed by the kernel: 1,024 page faults for 4 MB cost more than the convolution that fills them.
What is kept lies in pages of 2 MB where the system grants them, so that the processor finds addresses more quickly.
"""

from __future__ import annotations

import ctypes
import os
import platform

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_NEVER, _LARGEST = -1, 2**30
_HUGE = 2**21
_MADV_HUGEPAGE = 14  # Linux's mman.h


def keep_freed_memory() -> bool:
    """Let the C library keep what this process frees; the most that it used at once stays taken until it ends.

    The setting is the whole process's, so only programs of our own make it, not the library.

    Returns:
        Whether there was something to set: only under glibc (Linux).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    if not library.mallopt(_MMAP_THRESHOLD, _LARGEST) or not library.mallopt(_TRIM_THRESHOLD, _NEVER):
        return False
    if not _is_limited():
        _ask_for_huge_pages(library, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    return True


def _is_limited() -> bool:
    """Whether addresses are scarce (`ulimit -v`, `ulimit -d`); then none may be set aside."""
    import resource  # Unix only

    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return any(limit != resource.RLIM_INFINITY for limit in limits)


def _ask_for_huge_pages(library: ctypes.CDLL, size: int) -> None:
    """Let the heap's next addresses, for so many bytes, be backed by huge pages as they are used.

    The heap is made to grow and told what it is for; since it is not written to, this takes no memory.
    """
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    library.free.argtypes = (ctypes.c_void_p,)
    library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    block = _LARGEST // 2  # larger ones do not come from the heap
    blocks = []
    for _ in range(size // block):
        begin = library.malloc(block)
        if begin is None:
            break
        blocks.append(begin)
        first = -(-begin // _HUGE) * _HUGE
        library.madvise(first, (begin + block - first) // _HUGE * _HUGE, _MADV_HUGEPAGE)  # refused: small pages
    for begin in blocks:
        library.free(begin)
