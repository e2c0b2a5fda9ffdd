"""Networks as files that other programs run: ONNX, and PyTorch's own exported programs."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from archgrad.data.decode import Fit
from archgrad.data.table_encoding import TableEncoding
from archgrad.errors import ExportError, OptionError
from archgrad.export.description import ModelDescription, description_beside
from archgrad.export.inputs import Examples
from archgrad.export.session import METADATA_KEY, OnnxSession, check_onnx
from archgrad.export.trace import describe, largest_difference, prepared, trace
from archgrad.files import atomic_write
from archgrad.json_text import shown
from archgrad.sizes import check_whole
from archgrad.tasks import TASKS, Task

__all__ = ["Exported", "export_onnx", "export_program"]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        path: The model.
        description_path: The JSON file beside it: class names, shape of the inputs, normalisation.
        description: What is in it.
        max_difference: Largest absolute difference between the file's outputs and the network's, over batches of 1
            and 3.
    """

    path: Path
    description_path: Path
    description: ModelDescription
    max_difference: float


def export_onnx(
    network: nn.Module,
    path: str | os.PathLike[str],
    *,
    input_shape: Any = None,
    input_dtype: Any = None,
    example_inputs: Any = None,
    classes: Sequence[str] = (),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    tolerance: float = 1e-4,
    task: Task | Mapping[str, Any] | str | None = None,
    batch_size: int | None = None,
    opset: int | None = None,
    fit: Fit = "crop",
    bits: int = 8,
    encoding: TableEncoding | None = None,
    read_size: tuple[int, int] | None = None,
) -> Exported:
    """Write a network as ONNX, with a description beside it, and check that onnxruntime computes the same.

    The file takes `inputs` (batch, ...), images normalised, and gives `logits` (batch, classes), for batches of any
    size. A network that has learnt something else gives `outputs` of any shape, and one that returns several tensors
    `outputs.NAME` or `outputs.0`, `outputs.1`, ... Where the network takes a dict of tensors, the file has an input of
    each key's name; where it takes a tuple, `inputs.0`, `inputs.1`, ... It holds no auxiliary head, no source code and
    no path; up to 2 GB. Its metadata hold the description, too.

    Args:
        network: A plain module, as `derive` or `load_retrained` return it, of any mode and device; left as it is.
        path: Ends in .onnx; NAME.json is written beside NAME.onnx.
        input_shape: Of one sample, without the batch: (C, H, W) for images; a tuple or dict of shapes for a network
            that takes a tuple or dict of tensors.
        input_dtype: "float32" (if not given), "int64", "int32", "uint8" or "bool"; nested as `input_shape` where the
            tensors differ.
        example_inputs: Instead of the two, a batch of inputs as the network takes them: a tensor (B, ...), or a tuple
            or dict of such, nested as you like, B at least 1. A network whose `forward` requires several arguments gets
            the parts of a tuple in order, those of a dict by name; any other gets all as one argument, as in training.
        classes: Name of each class, label or value, as the columns or channels of the outputs; "0", "1", ... if not
            given.
        mean: Of each channel, for pixels in [0, 1]; only described, the file takes normalised images.
        std: As for `mean`.
        tolerance: Largest difference of outputs that passes, as a share of the largest output (absolute below 1).
        task: What the network has learnt: a task or its name, as `retrain` takes it; a classification if not given.
        batch_size: Write a file for batches of this many samples alone, at least 1, as some devices need it.
        opset: Version of ONNX's operators to write in, at least 18; the newest that the converter is sure of if not
            given.
        fit: How image files become inputs, "crop", "squash" or "pad", as `describe_run` tells of a run; only described,
            for `predict`.
        bits: Of a channel of a pixel in such files, 8 or 16; as for `fit`.
        encoding: How rows of a table become inputs; as for `fit`.
        read_size: Height and width that image files are brought to, of which the central part is taken; as for `fit`.

    Returns:
        Where the files are, and the largest difference found.

    Raises:
        OptionError: The packages for ONNX are missing, or an option is outside its range or does not fit the network.
        ExportError: The network cannot be written as one graph, or ONNX does not compute what it does.
        RunError: The file cannot be written.
    """
    check_onnx("onnx", "onnxscript", "onnxruntime")
    place = _checked_place(path, ".onnx", tolerance)
    examples = _examples(input_shape, input_dtype, example_inputs)
    if opset is not None:
        check_whole("opset", opset, least=18)
    plain, description = describe(
        prepared(network),
        examples,
        classes=classes,
        mean=mean,
        std=std,
        batch_size=_checked_batch(batch_size),
        fit=fit,
        bits=bits,
        encoding=encoding,
        read_size=read_size,
        **_learnt(task),
    )
    content = _onnx_bytes(trace(plain, examples, batch_size=batch_size), description, opset)
    what = f"The ONNX model for '{place}'"
    session = OnnxSession(content, where=what)
    difference = largest_difference(
        plain, session.all_of, examples, tolerance=tolerance, what=what, batch_size=batch_size
    )
    return _written(place, content, description, difference)


def export_program(
    network: nn.Module,
    path: str | os.PathLike[str],
    *,
    input_shape: Any = None,
    input_dtype: Any = None,
    example_inputs: Any = None,
    classes: Sequence[str] = (),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    tolerance: float = 1e-4,
    task: Task | Mapping[str, Any] | str | None = None,
    batch_size: int | None = None,
    fit: Fit = "crop",
    bits: int = 8,
    encoding: TableEncoding | None = None,
    read_size: tuple[int, int] | None = None,
) -> Exported:
    """Write a network as a program of `torch.export` (.pt2), with a description beside it, and check it.

    Read it back with `torch.export.load(path).module()`, which needs no archgrad and none of the network's code. Do so
    only with files of people you trust: `torch.export.load` unpickles, so a forged file runs any code.

    Arguments, results and errors are those of `export_onnx`; `path` ends in .pt2. The module takes one argument, nested
    as the inputs that the network was exported with.
    """
    from torch.export import load, save  # here, as it takes a second

    place = _checked_place(path, ".pt2", tolerance)
    examples = _examples(input_shape, input_dtype, example_inputs)
    plain, description = describe(
        prepared(network),
        examples,
        classes=classes,
        mean=mean,
        std=std,
        batch_size=_checked_batch(batch_size),
        fit=fit,
        bits=bits,
        encoding=encoding,
        read_size=read_size,
        **_learnt(task),
    )
    buffer = io.BytesIO()
    save(trace(plain, examples, batch_size=batch_size), buffer, extra_files={METADATA_KEY: description.to_json()})
    content = buffer.getvalue()
    module = load(io.BytesIO(content)).module()  # just written here, so it holds nothing foreign
    difference = largest_difference(
        plain,
        module,
        examples,
        tolerance=tolerance,
        what=f"The exported program for '{place}'",
        batch_size=batch_size,
    )
    return _written(place, content, description, difference)


def _checked_batch(batch_size: int | None) -> int | None:
    if batch_size is not None:
        check_whole("batch_size", batch_size, least=1)
    return batch_size


def _learnt(task: Any) -> dict[str, Any]:
    """Return what `describe` is told of a task."""
    if isinstance(task, str):
        if task not in TASKS:
            raise OptionError(f"task must be one of {', '.join(TASKS)}, or a Task, but got {shown(task)}.")
        task = TASKS[task]()  # type: ignore[call-arg]
    if not isinstance(task, Task):
        return {"task": task}
    plain = task.shows == "classes"
    return {"task": None if plain else task.described(), "auxiliary": task.auxiliary}


def _onnx_bytes(program: Any, description: ModelDescription, opset: int | None) -> bytes:
    import onnx

    try:
        converted = torch.onnx.export(
            program,
            (),
            dynamo=True,
            input_names=[each.name for each in description.inputs],
            output_names=[each.name for each in description.outputs] or ["logits"],
            opset_version=opset,
            verbose=False,
        )
        assert converted is not None
        model = converted.model_proto
        onnx.checker.check_model(model)
    except Exception as error:  # the converter raises its own classes and nearly any other
        reason = " ".join(str(error).split())[:400]
        raise ExportError(
            f"The network cannot be converted to ONNX: {reason}. Export it with export_program."
        ) from error
    _name_batch(model)
    onnx.helper.set_model_props(model, {METADATA_KEY: description.to_json()})
    try:
        return model.SerializeToString()
    except ValueError as error:  # protobuf's limit
        raise ExportError("An ONNX file holds at most 2 GB, and this network is larger. Use export_program.") from error


def _name_batch(model: Any) -> None:
    """Call the batch dimension "batch"; the tracer calls it something like s77."""
    graph = model.graph
    traced = {value.type.tensor_type.shape.dim[0].dim_param for value in graph.input} - {""}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            for symbol in traced if dimension.HasField("dim_param") else ():
                dimension.dim_param = dimension.dim_param.replace(symbol, "batch")


def _examples(input_shape: Any, input_dtype: Any, example_inputs: Any) -> Examples:
    if (input_shape is None) == (example_inputs is None):
        given = "neither" if input_shape is None else "both"
        raise OptionError(
            f"The inputs are told by input_shape or by example_inputs, but got {given}. Give one of them."
        )
    if example_inputs is None:
        return Examples(shape=input_shape, dtype="float32" if input_dtype is None else input_dtype)
    if input_dtype is not None:
        raise OptionError("example_inputs tell their types themselves, so input_dtype goes without them. Leave it out.")
    return Examples(example_inputs)


def _checked_place(path: str | os.PathLike[str], suffix: str, tolerance: float) -> Path:
    if not tolerance > 0:
        raise OptionError(f"tolerance must be above 0, but got {tolerance}.")
    place = Path(path)
    if place.suffix != suffix:
        raise OptionError(f"The file's name must end in {suffix}, but got '{place}'.")
    ModelDescription.check_free(description_beside(place))  # now, as tracing takes a while
    return place


def _written(place: Path, content: bytes, description: ModelDescription, difference: float) -> Exported:
    with atomic_write(place) as file:
        file.write(content)
    description.save(description_beside(place))
    return Exported(
        path=place,
        description_path=description_beside(place),
        description=description,
        max_difference=difference,
    )
