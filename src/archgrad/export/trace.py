"""One network as one graph of operations: what `torch.export` makes of it, without what a prediction does not use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from archgrad.calling import run_on, takes_parts
from archgrad.copying import copied
from archgrad.errors import ExportError, OptionError
from archgrad.export.description import ModelDescription, TensorOutput
from archgrad.export.inputs import Examples
from archgrad.json_text import shown
from archgrad.nested import is_structure, map_tensors, places, tensors_in

__all__ = ["describe", "largest_difference", "prepared", "trace"]

_CHECKED_BATCHES = (1, 3)
_TRACED_BATCH = 2  # sizes 0 and 1 would be taken for constants


class _OneArgument(nn.Module):
    """A network that takes its inputs as one argument and returns one tensor, or a tuple of several.

    Args:
        network: Takes one argument, or the parts of a tuple or dict as one each.
        first: Whether it returns (outputs, outputs of an auxiliary head) even in evaluation mode.
    """

    def __init__(self, network: nn.Module, *, first: bool) -> None:
        super().__init__()
        self.network, self._first = network, first

    def forward(self, inputs: Any) -> Any:
        output = run_on(self.network, inputs)
        output = output[0] if self._first else output
        return tuple(tensors_in(output)) if is_structure(output) else output


def prepared(network: nn.Module) -> nn.Module:
    """Return a copy of a network in evaluation mode, float32, on the CPU; the network itself is left as it is."""
    made = copied(network).to("cpu", torch.float32).eval()
    for parameter in made.parameters():
        parameter.requires_grad_(False)
    # Images are laid out plainly in the files; convolutions of 4-D weights follow them.
    return made.to(memory_format=torch.contiguous_format)


def describe(
    network: nn.Module,
    examples: Examples,
    *,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    task: Mapping[str, Any] | None = None,
    auxiliary: bool = True,
    batch_size: int | None = None,
    **files: Any,
) -> tuple[nn.Module, ModelDescription]:
    """Try a prepared network out on one batch.

    Args:
        network: Prepared.
        examples: What it takes.
        classes: Names of classes, labels or values.
        mean: Of each channel.
        std: As for `mean`.
        task: What the network has learnt, as plain data; None for a classification.
        auxiliary: Whether a pair is (outputs, outputs of an auxiliary head), whose first part is taken.
        batch_size: The only one that the file is to take; None for any.
        files: How files become inputs: fit, bits and encoding of `ModelDescription`.

    Returns:
        The network, reduced to one argument and what it gives, and its description; classes are "0", "1", ... where
        none are given.

    Raises:
        OptionError: The network cannot take such inputs, or does not return what the task has.
    """
    samples = batch_size or _TRACED_BATCH
    inputs = examples.batch(samples)
    described = ModelDescription(
        classes=tuple(classes) or ("0",),
        input_shape=examples.shape,
        input_dtype=examples.dtype,
        mean=tuple(mean),
        std=tuple(std),
        task=task,
        batch_size=batch_size,
        **files,
    )
    try:
        with torch.no_grad():
            output = run_on(network, inputs)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
        shapes = ", ".join(
            f"{'' if not each.place else f'{each.name} '}(batch, {', '.join(map(str, each.shape))})"
            for each in described.inputs
        )
        raise OptionError(
            f"The network {type(network).__name__} cannot take inputs of shape {shapes}: {error}. Give the shape of "
            f"one sample that it was trained on."
        ) from error
    pair = auxiliary and isinstance(output, (tuple, list)) and bool(output) and isinstance(output[0], Tensor)
    output = output[0] if pair else output
    several = described.shows != "classes" and is_structure(output)
    if pair or several or takes_parts(network, inputs):
        network = _OneArgument(network, first=pair).eval()
    if described.shows != "classes":
        return network, _with_outputs(described, output, samples, given=bool(classes))
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != samples:
        raise OptionError(
            f"The network must return logits (batch, classes), but for a batch of {samples} it returned "
            f"{shape}. Of a network that classifies nothing, say what it has learnt: task='regression', "
            f"'multilabel', 'segmentation', 'sequence', or your own Task."
        )
    names = tuple(classes) or tuple(str(index) for index in range(output.shape[1]))
    if len(names) != output.shape[1]:
        raise OptionError(
            f"The network has logits for {output.shape[1]} classes, but {len(names)} names were given: {shown(names)}."
        )
    return network, replace(described, classes=names)


def _with_outputs(described: ModelDescription, output: Any, samples: int, *, given: bool) -> ModelDescription:
    """Return the description with the tensors that the network gives, and names of what they show."""
    outputs = []
    for place, part in places(output):
        if not isinstance(part, Tensor) or not part.dim() or len(part) != samples:
            shape = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise OptionError(
                f"The network must return tensors with one row a sample, but for a batch of {samples} one of them is "
                f"{shape}. Wrap it so that it returns nothing else."
            )
        outputs.append(TensorOutput(".".join(map(str, ("outputs", *place))), tuple(part.shape[1:])))
    names, count = described.classes, outputs[0].shape[0] if outputs[0].shape else 1
    if not given:
        names = tuple(map(str, range(count)))
    elif len(outputs) == 1 and len(names) != count:
        raise OptionError(f"The network gives {count} labels or values, but {len(names)} names were given: {names}.")
    return replace(described, classes=names, outputs=tuple(outputs))


def trace(network: nn.Module, examples: Examples, *, batch_size: int | None = None) -> Any:
    """Return the `torch.export.ExportedProgram` of a prepared network, for batches of any size or of one alone.

    Raises:
        ExportError: The network's Python code cannot be written as one graph.
    """
    from torch.export import Dim, export  # here, as it takes a second

    inputs = examples.batch(batch_size or _TRACED_BATCH)
    any_size = {0: Dim("batch", min=1)}
    try:
        with torch.no_grad():
            dynamic_shapes = None if batch_size else (map_tensors(inputs, lambda _: any_size),)
            program = export(network, (inputs,), dynamic_shapes=dynamic_shapes, strict=False)
    except Exception as error:  # the tracer raises nearly anything, down to what the network itself raises
        size = "any size" if batch_size is None else f"{batch_size} samples"
        nor = ", nor on a fixed batch size, unless batch_size is given" if batch_size is None else ""
        named = network.network if isinstance(network, _OneArgument) else network
        raise ExportError(
            f"The network {type(named).__name__} cannot be written as one graph for batches of {size}: "
            f"{_first_lines(error)} Its forward must not depend on the values in a batch{nor}."
        ) from error
    _drop_unused(program)
    _drop_source(program)
    return program


def _first_lines(error: Exception) -> str:
    text = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
    return (text if len(text) <= 400 else f"{text[:400]}...").rstrip(".") + "."


def _drop_unused(program: Any) -> None:
    """Take out the weights that no prediction uses, such as an auxiliary head's."""
    from torch.export.graph_signature import InputKind

    specs = program.graph_signature.input_specs
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    kept = []
    for spec, node in zip(specs, placeholders, strict=True):
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and not node.users:
            program.graph.erase_node(node)
            program.state_dict.pop(spec.target, None)
        else:
            kept.append(spec)
    specs[:] = kept
    program.graph_module.recompile()


def _drop_source(program: Any) -> None:
    """Take out the lines of source code, with the paths of this machine, that each operation remembers."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


def largest_difference(
    network: nn.Module,
    predict: Callable[[Any], Any],
    examples: Examples,
    *,
    tolerance: float,
    what: str,
    batch_size: int | None = None,
) -> float:
    """Return the largest absolute difference between a network's outputs and those of its exported form.

    Args:
        network: A prepared network.
        predict: The exported form: inputs to a tensor, or to several.
        examples: What to compare with.
        tolerance: Largest difference that passes, as a share of the largest output, or absolute where that is below 1.
        what: The exported form's name, for messages.
        batch_size: The only one that it takes; None for any.

    Raises:
        ExportError: They differ by more, for one of several batch sizes, or are not finite.
    """
    largest = 0.0
    for batch in _CHECKED_BATCHES if batch_size is None else (batch_size,):
        inputs = examples.batch(batch)
        with torch.no_grad():
            pairs = zip(tensors_in(network(inputs)), tensors_in(predict(inputs)), strict=True)
        for expected, found in pairs:
            largest = max(largest, _difference(expected, found, tolerance=tolerance, what=what))
    return largest


def _difference(expected: Tensor, found: Tensor, *, tolerance: float, what: str) -> float:
    if found.shape != expected.shape:
        raise ExportError(
            f"{what} gives outputs of shape {tuple(found.shape)} where the network gives "
            f"{tuple(expected.shape)}. It is not written."
        )
    difference, highest = float((found - expected).abs().max()), float(expected.abs().max())
    if not difference <= tolerance * max(1.0, highest):  # nan fails, too
        raise ExportError(
            f"{what} does not compute what the network does: outputs differ by up to {difference:.3g}, and "
            f"{tolerance:g} of the largest output ({highest:.3g}) is allowed. It is not "
            f"written. Check the network's weights, or give a larger tolerance."
        )
    return difference
