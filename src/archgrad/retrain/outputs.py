"""The files of a finished retraining: last weights, predictions, worst images and summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from archgrad.cost import count_multiply_adds, count_parameters, count_prediction_parameters
from archgrad.data import Data
from archgrad.errors import OptionError
from archgrad.retrain.evaluation import Evaluation, worst_images
from archgrad.retrain.learner import Learner
from archgrad.runs import RunFolder

__all__ = ["write_outputs"]


def write_outputs(
    folder: RunFolder, learner: Learner, data: Data, evaluation: Evaluation | None, facts: Mapping[str, Any]
) -> None:
    """Write `weights/last.safetensors`, `predictions.safetensors`, `worst.safetensors` and `summary.json`.

    Args:
        folder: Of the run.
        learner: Holds the network with its last weights.
        data: What it was trained on.
        evaluation: Of the last epoch; None without a test set, and then there are no predictions.
        facts: What else goes into the summary, such as the time it took.
    """
    folder.save_tensors("weights/last.safetensors", learner.weights())
    if evaluation is not None:
        predictions = {"targets": evaluation.targets, "logits": evaluation.logits}
        folder.save_tensors("predictions.safetensors", predictions)
        worst = worst_images(data, evaluation)
        if worst is not None:
            folder.save_tensors("worst.safetensors", worst)
    folder.save_json("summary.json", {**facts, **_costs(learner, data), **_describe(data)})


def _costs(learner: Learner, data: Data) -> dict[str, int | None]:
    shape = _input_shape(data)
    try:
        if shape is None:
            raise OptionError("inputs of several tensors")
        return {
            "parameters": count_prediction_parameters(learner.network, shape),
            "multiply_adds": count_multiply_adds(learner.network, shape),
        }
    except OptionError:  # a network of inputs other than one tensor; then all parameters are told
        return {"parameters": count_parameters(learner.network), "multiply_adds": None}


def _describe(data: Data) -> dict[str, Any]:
    """Tell what the network takes and what it tells apart; its inputs are None where a sample is not one tensor."""
    inputs, _ = data.train[0]
    one_tensor = isinstance(inputs, torch.Tensor)
    # Whatever the data's own type, images and other numbers with a fraction reach the network as floating point.
    floating = one_tensor and (bool(data.channels) or inputs.is_floating_point())
    return {
        "data": data.name,
        "classes": list(data.classes),
        "mean": list(data.mean),
        "std": list(data.std),
        "image_shape": list(inputs.shape) if data.channels else None,
        "input_shape": list(inputs.shape) if one_tensor else None,
        "input_dtype": ("float32" if floating else str(inputs.dtype).removeprefix("torch.")) if one_tensor else None,
    }


def _input_shape(data: Data) -> tuple[int, ...] | None:
    inputs, _ = data.train[0]
    return tuple(inputs.shape) if isinstance(inputs, torch.Tensor) else None
