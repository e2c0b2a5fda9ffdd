"""The files of a finished retraining: last weights, predictions, pictures and summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from archgrad.cost import count_multiply_adds, count_parameters, count_prediction_parameters
from archgrad.data import Data, ImageTransform, first_inputs
from archgrad.data.samples import pair_of
from archgrad.data.seeds import kept_randomness
from archgrad.errors import OptionError
from archgrad.nested import places
from archgrad.retrain.evaluation import Evaluation, mask_pictures, worst_images
from archgrad.retrain.learner import Learner
from archgrad.runs import RunFolder
from archgrad.tasks import Segmentation, Task

__all__ = ["write_outputs"]


def write_outputs(
    folder: RunFolder,
    learner: Learner,
    data: Data,
    evaluation: Evaluation | None,
    facts: Mapping[str, Any],
    *,
    transform: ImageTransform | None,
) -> None:
    """Write `weights/last.safetensors`, `predictions.safetensors`, `summary.json`, and pictures of images.

    The pictures are in `worst.safetensors` where images have one class, in `masks.safetensors` where pixels have.

    Args:
        folder: Of the run.
        learner: Holds the network with its last weights.
        data: What it was trained on.
        evaluation: Of the last epoch; None without a test set, and then there are no predictions.
        facts: What else goes into the summary, such as the time it took.
        transform: For evaluation.
    """
    folder.save_tensors("weights/last.safetensors", learner.weights())
    if evaluation is not None:
        if predictions := _predictions(learner.task, evaluation):
            folder.save_tensors("predictions.safetensors", predictions)
        if learner.task.shows == "classes" and (worst := worst_images(data, evaluation)) is not None:
            folder.save_tensors("worst.safetensors", worst)
        if isinstance(learner.task, Segmentation):
            masks = mask_pictures(data, learner, transform=transform)
            if masks is not None:
                folder.save_tensors("masks.safetensors", masks)
    inputs = _inputs(data)
    summary = {**facts, **_costs(learner, inputs), **_describe(data, learner.task, inputs)}
    folder.save_json("summary.json", {**summary, "task": learner.task.described()})


def _predictions(task: Task, evaluation: Evaluation) -> dict[str, Tensor]:
    """Return targets and outputs of all samples, or what counts are left of them."""
    if evaluation.outputs is not None and evaluation.targets is not None:
        outputs = "logits" if task.shows == "classes" else "outputs"
        return {"targets": evaluation.targets, outputs: evaluation.outputs}
    return {} if evaluation.counts is None else {"counts": evaluation.counts}


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


def _describe(data: Data, task: Task, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """Tell what the network takes and what it tells apart; `inputs` stands there where a sample is not one tensor."""
    one = inputs[0] if _is_one(inputs) else {"shape": None, "dtype": None}
    return {
        "data": data.name,
        "classes": list(task.labels),
        "mean": list(data.mean),
        "std": list(data.std),
        "image_shape": one["shape"] if data.channels else None,
        **({"fit": data.fit, "bits": data.bits} if data.channels else {}),
        **({"read_size": _read_size(data)} if data.augmentation.resized_crop else {}),
        **({} if data.encoding is None else {"table": data.encoding.to_plain()}),
        "input_shape": one["shape"],
        "input_dtype": one["dtype"],
        **({"inputs": inputs} if inputs and not _is_one(inputs) else {}),
    }


def _read_size(data: Data) -> list[int]:
    """Return height and width of the images of which the network gets a part."""
    with kept_randomness():
        inputs, _ = pair_of(data.train, 0)
    return list(inputs.shape[1:])


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
