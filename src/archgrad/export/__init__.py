"""Retrained networks out of their run folders: as modules, as ONNX, as exported programs, and at work on images."""

from archgrad.export.description import ModelDescription
from archgrad.export.load import describe_run, load_retrained
from archgrad.export.mask_files import save_masks
from archgrad.export.predict import Prediction, model_description, predict, predict_samples
from archgrad.export.write_model import Exported, export_onnx, export_program

__all__ = [
    "Exported",
    "ModelDescription",
    "Prediction",
    "describe_run",
    "export_onnx",
    "export_program",
    "load_retrained",
    "model_description",
    "predict",
    "predict_samples",
    "save_masks",
]
