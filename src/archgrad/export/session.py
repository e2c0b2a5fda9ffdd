"""An ONNX model as a function of a batch."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from archgrad.errors import ExportError, OptionError

__all__ = ["METADATA_KEY", "OnnxSession", "check_onnx"]

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
    """An ONNX model in onnxruntime; called with a batch of inputs, it returns its first output.

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
        options.log_severity_level = 3  # errors only
        self._where = where
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes have no base but Exception
            raise ExportError(f"{where} cannot be run by onnxruntime: {error}. Export the network again.") from error
        if len(self._session.get_inputs()) != 1:
            raise ExportError(f"{where} has {len(self._session.get_inputs())} inputs, but a classifier has one.")

    @property
    def metadata(self) -> dict[str, str]:
        """Return what the model says of itself."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the logits (B, classes) of a batch.

        Raises:
            ExportError: The model cannot take it.
        """
        name = self._session.get_inputs()[0].name
        try:
            outputs = self._session.run(None, {name: inputs.numpy()})
        except Exception as error:  # onnxruntime's own classes have no base but Exception
            raise ExportError(
                f"{self._where} cannot take inputs of shape {tuple(inputs.shape)}: {error}. Its description is that of "
                f"another model; export the network again."
            ) from error
        return torch.from_numpy(outputs[0])
