"""Running out of memory, explained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from archgrad.errors import RunError

__all__ = ["memory_explained"]


@contextmanager
def memory_explained(remedies: str) -> Iterator[None]:
    """Turn what the allocators of CPU and GPU raise when memory is short into a RunError.

    Args:
        remedies: What to try, in words.

    Raises:
        RunError: Memory ran out inside.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _explained(error, remedies) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # how torch's CPU allocator says it
            raise
        raise _explained(error, remedies) from error


def _explained(error: BaseException, remedies: str) -> RunError:
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return RunError(f"Memory ran out ({first_line}). Remedies: {remedies}")
