"""An ONNX model as a function of a batch."""

from __future__ import annotations

import importlib
import os
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from archgrad.batches import count
from archgrad.errors import ExportError, OptionError
from archgrad.json_text import shown_text
from archgrad.nested import map_tensors, tensors_in

__all__ = ["METADATA_KEY", "OnnxSession", "check_onnx"]

_NUMBERS = ("tensor(float)", "tensor(double)", "tensor(float16)")
_LEAST_MEMORY = 2**29  # bytes for what a model computes, besides its weights; a batch is halved until it fits
_IS_FULL = "Available memory of"  # onnxruntime's words

METADATA_KEY = "archgrad.model"
"""Under this key a model file carries its description."""


def check_onnx(*packages: str) -> None:
    """Refuse to go on without packages of the extra `onnx`.

    Raises:
        OptionError: One is missing.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise OptionError(
                f"ONNX needs the package '{package}', which cannot be imported ({error}). "
                f"Install it with: pip install 'archgrad[onnx]'"
            ) from error


class OnnxSession:
    """An ONNX model in onnxruntime; called with a batch of inputs, nested in its order, it returns its first output.

    `all_of` returns all of them.

    Args:
        content: The model itself, or the path of its file.
        where: What to call it in messages.

    Raises:
        ExportError: It is no ONNX model, or one that onnxruntime cannot run.
        OptionError: onnxruntime is not installed.
    """

    def __init__(self, content: bytes | str, *, where: str) -> None:
        check_onnx("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what is an error is raised
        options.add_session_config_entry("session.use_env_allocators", "1")
        self._where = where
        try:
            size = len(content) if isinstance(content, bytes) else os.path.getsize(content)
            _limit_memory(_LEAST_MEMORY + 4 * size)
            # Folding would compute constants of any size before a limit counts.
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
            )
        except Exception as error:  # onnxruntime's own classes have no base but Exception
            raise ExportError(
                f"{where} cannot be run by onnxruntime: {shown_text(str(error))}. Export the network again."
            ) from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if not inputs or not outputs:
            raise ExportError(
                f"{where} has {len(inputs)} inputs and {len(outputs)} outputs, but a classifier takes some and gives "
                f"one. Export the network again."
            )
        self._inputs, self._outputs = [value.name for value in inputs], [value.name for value in outputs]
        if outputs[0].type not in _NUMBERS:
            raise ExportError(
                f"{where} gives out {shown_text(outputs[0].type)}, but a classifier gives numbers "
                f"({', '.join(_NUMBERS)}). Export the network again."
            )

    @property
    def metadata(self) -> dict[str, str]:
        """Return what the model says of itself."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def __call__(self, inputs: Any) -> Tensor:
        """Return the first output of a batch, such as the logits (B, classes).

        Raises:
            ExportError: The model cannot take it.
        """
        return self._run(inputs, self._outputs[:1])[0]

    def all_of(self, inputs: Any) -> tuple[Tensor, ...]:
        """Return all outputs of a batch; raises what a call does."""
        return self._run(inputs, self._outputs)

    def _run(self, inputs: Any, outputs: list[str]) -> tuple[Tensor, ...]:
        try:
            arrays = [tensor.numpy() for tensor in tensors_in(inputs)]
            found = self._session.run(outputs, dict(zip(self._inputs, arrays, strict=True)))
            return tuple(map(torch.from_numpy, found))
        except Exception as error:  # onnxruntime's own classes have no base but Exception
            if _IS_FULL in str(error):
                if (samples := count(inputs)) > 1:
                    halves = (slice(samples // 2), slice(samples // 2, None))
                    parts = [self._run(map_tensors(inputs, itemgetter(half)), outputs) for half in halves]
                    return tuple(map(torch.cat, zip(*parts, strict=True)))
                raise ExportError(
                    f"{self._where} takes more memory than archgrad gives a model ({shown_text(str(error))}). Run it "
                    f"in onnxruntime itself if you trust it."
                ) from error
            raise ExportError(
                f"{self._where} cannot take inputs of shape {_shapes(inputs)}: {shown_text(str(error))}. Its "
                f"description is that of another model; export the network again."
            ) from error


def _shapes(inputs: Any) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(inputs))


def _limit_memory(most: int) -> None:
    """Give the sessions that are opened from now on so many bytes at most; a model may ask for any number."""
    import onnxruntime

    kind, place = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    growth = {"max_mem": most, "arena_extend_strategy": 1}  # by what is asked for, not by doubling
    onnxruntime.create_and_register_allocator(
        onnxruntime.OrtMemoryInfo("Cpu", kind, 0, place), onnxruntime.OrtArenaCfg(growth)
    )
