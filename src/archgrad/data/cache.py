"""Files made once and kept: written whole or not at all, by one process at a time."""

import contextlib
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from archgrad.errors import DataError
from archgrad.files import partial_file
from archgrad.paths import from_home

try:
    import fcntl
except ImportError:  # not on Windows: there, two processes may both do the work, and the later one's file stays
    fcntl = None  # type: ignore[assignment]


def cache_root(root: str | os.PathLike[str] | None) -> Path:
    """Find the folder for downloads and decoded data: `root`, else ARCHGRAD_DATA, else ~/.cache/archgrad."""
    return from_home(
        root or os.environ.get("ARCHGRAD_DATA") or "~/.cache/archgrad",
        remedy="Give another folder (root=..., or the variable ARCHGRAD_DATA).",
    )


def key_of(*parts: object) -> str:
    """Make a short file name that stands for all the parts."""
    return hashlib.sha256("\0".join(str(part) for part in parts).encode("utf-8", "surrogateescape")).hexdigest()[:20]


@contextmanager
def only_process(target: Path) -> Iterator[None]:
    """Hold a lock beside `target`, so that of several processes one makes it and the others wait.

    Raises:
        DataError: The folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = open(target.with_name(f".{target.name}.lock"), "w")  # noqa: SIM115 - closed below
    except OSError as error:
        raise DataError(
            f"The cache {target.parent} cannot be written: {error}. Give another folder (root=..., or the variable "
            f"ARCHGRAD_DATA)."
        ) from error
    with lock:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # some network file systems have no locks; the work is then done twice
                fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, by a killed process too
        yield


def make_file_once(target: Path, write: Callable[[Path], object]) -> Path:
    """Write a file unless it is there already; it appears whole or not at all.

    Args:
        target: The file.
        write: Called with the path to write to.

    Returns:
        The file.

    Raises:
        DataError: It cannot be written.
    """
    with only_process(target):
        if not target.is_file():
            try:
                with partial_file(target) as partial:
                    write(partial)
            except OSError as error:
                raise DataError(
                    f"{target} cannot be written: {error}. Free some space, or give another folder (root=..., or the "
                    f"variable ARCHGRAD_DATA)."
                ) from error
    return target


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write one safetensors file, whole or not at all; where it cannot be written, warn and go on without."""
    _save(path, lambda partial: save_file(tensors, partial, metadata))


def save_text(path: Path, text: str) -> None:
    """Write a text file in the same way."""
    _save(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _save(path: Path, write: Callable[[Path], object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(path) as partial:
            write(partial)
    except (OSError, SafetensorError, ValueError) as error:  # ValueError: a path that is no UTF-8
        warnings.warn(f"{path} cannot be written ({error}), so the next start does this work again.", stacklevel=3)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Read such a file.

    Returns:
        Tensors and metadata; None where there is no such file or it is damaged, so that it is made again.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError):  # ValueError: a path that is no UTF-8
        return None
