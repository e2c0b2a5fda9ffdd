"""One network as one graph of operations: what `torch.export` makes of it, without what a prediction does not use."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from archgrad.errors import ExportError, OptionError
from archgrad.export.description import ModelDescription
from archgrad.json_text import shown

__all__ = ["describe", "example_inputs", "largest_difference", "prepared", "trace"]

_CHECKED_BATCHES = (1, 3)
_TRACED_BATCH = 2  # sizes 0 and 1 would be taken for constants


class _LogitsOnly(nn.Module):
    """A network that returns (logits, auxiliary logits) even in evaluation mode, without the latter."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)[0]


def prepared(network: nn.Module) -> nn.Module:
    """Return a copy of a network in evaluation mode, float32, on the CPU; the network itself is left as it is."""
    copied = copy.deepcopy(network).to("cpu", torch.float32).eval()
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    # Images are laid out plainly in the files; convolutions of 4-D weights follow them.
    return copied.to(memory_format=torch.contiguous_format)


def describe(
    network: nn.Module,
    *,
    input_shape: Sequence[int],
    input_dtype: str,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[nn.Module, ModelDescription]:
    """Try a prepared network out on one batch.

    Returns:
        The network, reduced to its logits, and its description; classes are "0", "1", ... where none are given.

    Raises:
        OptionError: The network cannot take such inputs, or does not return logits of these classes.
    """
    description = ModelDescription(
        classes=tuple(classes) or ("0",),
        input_shape=tuple(input_shape),
        input_dtype=input_dtype,
        mean=tuple(mean),
        std=tuple(std),
    )
    inputs = example_inputs(description, _TRACED_BATCH)
    try:
        with torch.no_grad():
            output = network(inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise OptionError(
            f"The network {type(network).__name__} cannot take inputs of shape (batch, "
            f"{', '.join(map(str, input_shape))}): {error}. Give the shape of one sample that it was trained on."
        ) from error
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        network, output = _LogitsOnly(network).eval(), output[0]
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != _TRACED_BATCH:
        raise OptionError(
            f"The network must return logits (batch, classes), but for a batch of {_TRACED_BATCH} it returned "
            f"{shape}. Only classifiers are exported."
        )
    names = tuple(classes) or tuple(str(index) for index in range(output.shape[1]))
    if len(names) != output.shape[1]:
        raise OptionError(
            f"The network has logits for {output.shape[1]} classes, but {len(names)} names were given: {shown(names)}."
        )
    described = ModelDescription(
        classes=names,
        input_shape=description.input_shape,
        input_dtype=input_dtype,
        mean=description.mean,
        std=description.std,
    )
    return network, described


def example_inputs(description: ModelDescription, batch: int) -> Tensor:
    """Return inputs to trace and compare with, always the same: standard normal, or 0 and 1 for whole numbers."""
    shape = (batch, *description.input_shape)
    if description.input_dtype == "int64":
        return torch.arange(math.prod(shape)).reshape(shape) % 2
    return torch.randn(shape, generator=torch.Generator().manual_seed(batch))


def trace(network: nn.Module, description: ModelDescription) -> Any:
    """Return the `torch.export.ExportedProgram` of a prepared network, for batches of any size.

    Raises:
        ExportError: The network's Python code cannot be written as one graph.
    """
    from torch.export import Dim, export  # here, as it takes a second

    inputs = example_inputs(description, _TRACED_BATCH)
    try:
        with torch.no_grad():
            program = export(network, (inputs,), dynamic_shapes=({0: Dim("batch", min=1)},), strict=False)
    except Exception as error:  # the tracer raises nearly anything, down to what the network itself raises
        raise ExportError(
            f"The network {type(network).__name__} cannot be written as one graph for batches of any size: "
            f"{_first_lines(error)} Its forward must not depend on the values in a batch, nor on a fixed batch size."
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
    predict: Callable[[Tensor], Tensor],
    description: ModelDescription,
    *,
    tolerance: float,
    what: str,
) -> float:
    """Return the largest absolute difference between a network's logits and those of its exported form.

    Args:
        network: A prepared network.
        predict: The exported form: inputs to logits.
        description: Of both.
        tolerance: Largest difference that passes, as a share of the largest logit, or absolute where that is below 1.
        what: The exported form's name, for messages.

    Raises:
        ExportError: They differ by more, for one of several batch sizes, or are not finite.
    """
    largest = 0.0
    for batch in _CHECKED_BATCHES:
        inputs = example_inputs(description, batch)
        with torch.no_grad():
            expected = network(inputs)
            found = predict(inputs)
        if found.shape != expected.shape:
            raise ExportError(
                f"{what} gives outputs of shape {tuple(found.shape)} where the network gives "
                f"{tuple(expected.shape)}. It is not written."
            )
        difference = float((found - expected).abs().max())
        if not difference <= tolerance * max(1.0, float(expected.abs().max())):  # nan fails, too
            raise ExportError(
                f"{what} does not compute what the network does: logits differ by up to {difference:.3g}, and "
                f"{tolerance:g} of the largest logit ({float(expected.abs().max()):.3g}) is allowed. It is not "
                f"written. Check the network's weights, or give a larger tolerance."
            )
        largest = max(largest, difference)
    return largest
