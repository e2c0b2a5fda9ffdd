"""Checkpoints: any nested state in one file, written whole or not at all, checked before it is believed.

    8 bytes   "ARCHGRAD"
    4 bytes   version, little endian
    8 bytes   length of the structure
    8 bytes   length of the tensors
    32 bytes  SHA-256 of everything else in the file
              the structure: JSON (see structure.py)
              the tensors: safetensors

Nothing in it is executed when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.numpy
import safetensors.torch
from torch import Tensor

from archgrad.errors import RunError
from archgrad.files import Guard, atomic_write, check_fits, disk_error, open_regular, sync_folder
from archgrad.runs.structure import join, split

__all__ = ["Checkpoints", "load_state", "pack_state", "save_state", "unpack_state"]

_MAGIC = b"ARCHGRAD"
_VERSION = 1
_LENGTHS = struct.Struct("<8sIQQ")
_DIGEST_BYTES = 32
_HEADER_BYTES = _LENGTHS.size + _DIGEST_BYTES
_MAX_STRUCTURE_BYTES = 256 * 1024 * 1024
_MAX_BYTES = 64 * 1024**3
_CHUNK_BYTES = 1024 * 1024


def save_state(path: str | os.PathLike[str], state: Any, *, guard: Guard | None = None) -> None:
    """Write a nested state to one file, atomically and with a checksum.

    Args:
        path: The file; its folder must exist. An older file of this name stays whole until the new one is complete.
        state: Nested dict, list and tuple of tensors, NumPy arrays, str, int, float (nan and inf too), bool, bytes.
            Types, dict order, dtypes, memory order of tensors, and tensors that occur twice come back as they were;
            devices and `requires_grad` do not: tensors come back on the CPU.
        guard: As in `archgrad.files.atomic_write`.

    Raises:
        RunError: The state holds something else, or the disk is full, read-only or failing.
    """
    text, content = _encode(state)
    if len(text) > _MAX_STRUCTURE_BYTES:
        raise RunError(
            f"A checkpoint's structure may take {_MAX_STRUCTURE_BYTES} bytes, but this one takes {len(text)}."
        )
    if len(content) > _MAX_BYTES - _HEADER_BYTES - _MAX_STRUCTURE_BYTES:
        raise RunError(f"A checkpoint may take {_MAX_BYTES} bytes, but the tensors of this one take {len(content)}.")
    lengths = _LENGTHS.pack(_MAGIC, _VERSION, len(text), len(content))
    digest = hashlib.sha256(lengths)
    digest.update(text)
    digest.update(content)
    with atomic_write(Path(path), guard=guard) as file:
        for part in (lengths, digest.digest(), text, content):
            file.write(part)


def load_state(path: str | os.PathLike[str]) -> Any:
    """Read what `save_state` wrote.

    The sizes in the header are compared with the file's, and the checksum with its content, before memory is taken for
    either part.

    Returns:
        The state, tensors on the CPU.

    Raises:
        RunError: The file is missing, truncated, damaged, or no checkpoint.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            check_fits(file)
            text, content = _read_parts(file, path)
    except OSError as error:
        raise disk_error(error, path, doing="read") from error
    try:
        return _decode(text, content)
    except RunError as error:
        raise _damaged(path, str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its structure is malformed ({error})") from error
    except (safetensors.SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise _damaged(path, f"its tensors are malformed ({error})") from error


def pack_state(state: Any) -> bytes:
    """Return a nested state as bytes, to be sent to another process; takes and refuses what `save_state` does."""
    text, content = _encode(state)
    return struct.pack("<Q", len(text)) + text + content


def unpack_state(data: bytes) -> Any:
    """Return what was given to `pack_state`, tensors on the CPU."""
    (length,) = struct.unpack_from("<Q", data)
    return _decode(data[8 : 8 + length], data[8 + length :])


def _encode(state: Any) -> tuple[bytes, bytes]:
    structure, tensors = split(state)
    text = json.dumps(structure, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")
    # By way of NumPy, whose arrays are bytes already: torch's own way takes ten times as long for thousands of tensors.
    return text, safetensors.numpy.save({name: tensor.numpy() for name, tensor in tensors.items()})


def _decode(text: bytes, content: bytes) -> Any:
    structure = json.loads(text.decode("ascii"), parse_constant=_refuse_constant)
    tensors: dict[str, Tensor] = safetensors.torch.load(content)
    return join(structure, tensors)


def _read_parts(file: BinaryIO, path: Path) -> tuple[bytes, bytes]:
    header = file.read(_HEADER_BYTES)
    if not header.startswith(_MAGIC):
        raise _damaged(path, "it does not start as a checkpoint of archgrad does")
    if len(header) < _HEADER_BYTES:
        raise _damaged(path, f"it ends after {len(header)} bytes, inside its header")
    _, version, text_bytes, content_bytes = _LENGTHS.unpack(header[: _LENGTHS.size])
    if version != _VERSION:
        raise _damaged(path, f"it has version {version}, and this archgrad reads version {_VERSION}")
    size, expected = os.fstat(file.fileno()).st_size, _HEADER_BYTES + text_bytes + content_bytes
    if size != expected:
        raise _damaged(path, f"its header promises {expected} bytes, but it has {size}")
    if size > _MAX_BYTES:
        raise _damaged(path, f"it takes {size} bytes, more than the {_MAX_BYTES} allowed")
    if text_bytes > _MAX_STRUCTURE_BYTES:
        raise _damaged(path, f"its structure takes {text_bytes} bytes, more than the {_MAX_STRUCTURE_BYTES} allowed")
    digest = hashlib.sha256(header[: _LENGTHS.size])
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    if digest.digest() != header[_LENGTHS.size :]:
        raise _damaged(path, "its checksum does not match its content")
    file.seek(_HEADER_BYTES)
    return file.read(text_bytes), file.read(content_bytes)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"the number {name}")


def _damaged(path: Path, reason: str) -> RunError:
    return RunError(f"Cannot use the checkpoint '{path}': {reason}. Use an older one or an intact copy.")


class Checkpoints:
    """The last two checkpoints of a run, `last.ckpt` and `previous.ckpt`, in one folder.

    Args:
        folder: Where they lie; created by the first `save`.
        guard: Asked before each change, as in `archgrad.files.atomic_write`.
    """

    def __init__(self, folder: Path, *, guard: Guard | None = None) -> None:
        self._guard = guard
        self.folder = folder
        self.last = folder / "last.ckpt"
        self.previous = folder / "previous.ckpt"

    def save(self, state: Any) -> float:
        """Write a state as the last checkpoint, and keep the one before it.

        Returns:
            Seconds that it took.

        Raises:
            RunError: As `save_state`; the checkpoints that were there are still there.
        """
        started = time.perf_counter()
        newest = self.folder / "next.ckpt"
        try:
            self._ask(newest)
            self.folder.mkdir(exist_ok=True)
            save_state(newest, state, guard=self._guard)
            self._ask(newest)
            # Between the two renames there is no last.ckpt; `load` then takes the previous one, which is complete.
            if self.last.exists():
                os.replace(self.last, self.previous)
            os.replace(newest, self.last)
            sync_folder(self.folder)
        except OSError as error:
            raise disk_error(error, self.last, doing="write") from error
        return time.perf_counter() - started

    def load(self, *, set_aside: bool) -> Any | None:
        """Read the last checkpoint, or the previous one, with a warning, when the last is damaged.

        Args:
            set_aside: Whether to rename a damaged `last.ckpt` to `damaged.ckpt`, so that the next `save` does not put
                it in the good one's place. Only the holder of the run's lock may; other ranks only read.

        Returns:
            The state, or None if the run has no checkpoint yet.

        Raises:
            RunError: There are checkpoints, but none is intact.
        """
        failures = []
        for path in (self.last, self.previous):
            if not path.exists():
                continue
            try:
                state = load_state(path)
            except RunError as error:
                failures.append(str(error))
                continue
            if failures:
                if set_aside:
                    self._set_aside()
                warnings.warn(f"{failures[0]} Going on from the older '{path.name}'.", UserWarning, stacklevel=2)
            return state
        if failures:
            raise RunError(
                " ".join([*failures, "No intact checkpoint is left; start anew with overwrite=True (--overwrite)."])
            )
        return None

    def _ask(self, path: Path) -> None:
        if self._guard is not None:
            self._guard(path)

    def _set_aside(self) -> None:
        self._ask(self.last)
        try:
            os.replace(self.last, self.last.with_name("damaged.ckpt"))
            sync_folder(self.folder)
        except OSError as error:
            raise disk_error(error, self.last, doing="rename") from error
