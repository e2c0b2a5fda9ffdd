"""The files of a finished retraining: last weights, predictions, worst images and summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from archgrad.cost import count_multiply_adds, count_parameters, count_prediction_parameters
from archgrad.data import Data, first_inputs
from archgrad.errors import OptionError
from archgrad.nested import places
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
    inputs = _inputs(data)
    folder.save_json("summary.json", {**facts, **_costs(learner, inputs), **_describe(data, inputs)})


def _costs(learner: Learner, inputs: list[dict[str, Any]]) -> dict[str, int | None]:
    try:
        if not _is_one(inputs):
            raise OptionError("inputs of several tensors")
        return {
            "parameters": count_prediction_parameters(learner.network, inputs[0]["shape"]),
            "multiply_adds": count_multiply_adds(learner.network, inputs[0]["shape"]),
        }
    except OptionError:  # a network of inputs other than one tensor; then all parameters are told
        return {"parameters": count_parameters(learner.network), "multiply_adds": None}


def _describe(data: Data, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """Tell what the network takes and what it tells apart; `inputs` stands there where a sample is not one tensor."""
    one = inputs[0] if _is_one(inputs) else {"shape": None, "dtype": None}
    return {
        "data": data.name,
        "classes": list(data.classes),
        "mean": list(data.mean),
        "std": list(data.std),
        "image_shape": one["shape"] if data.channels else None,
        "input_shape": one["shape"],
        "input_dtype": one["dtype"],
        **({"inputs": inputs} if inputs and not _is_one(inputs) else {}),
    }


def _is_one(inputs: list[dict[str, Any]]) -> bool:
    return len(inputs) == 1 and not inputs[0]["place"]


def _inputs(data: Data) -> list[dict[str, Any]]:
    """Return place, shape and type of each tensor of a sample, as the network gets it; none if it has other things."""
    found = []
    for place, part in places(first_inputs(data, samples=1)):
        if not isinstance(part, torch.Tensor):
            return []
        # Whatever the data's own type, numbers with a fraction reach the network as floating point.
        dtype = "float32" if part.is_floating_point() else str(part.dtype).removeprefix("torch.")
        found.append({"place": list(place), "shape": list(part.shape[1:]), "dtype": dtype})
    return found
