"""One network as one graph of operations: what `torch.export` makes of it, without what a prediction does not use."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from archgrad.copying import copied
from archgrad.errors import ExportError, OptionError
from archgrad.export.description import ModelDescription
from archgrad.export.inputs import Examples
from archgrad.json_text import shown
from archgrad.nested import map_tensors

__all__ = ["describe", "largest_difference", "prepared", "trace"]

_CHECKED_BATCHES = (1, 3)
_TRACED_BATCH = 2  # sizes 0 and 1 would be taken for constants


class _OneArgument(nn.Module):
    """A network that takes its inputs as one argument and returns logits alone, which others may not.

    Args:
        network: Takes one argument, or the parts of a tuple or dict as one each.
        first: Whether it returns (logits, auxiliary logits) even in evaluation mode.
    """

    def __init__(self, network: nn.Module, *, first: bool) -> None:
        super().__init__()
        self.network, self._first = network, first

    def forward(self, inputs: Any) -> Tensor:
        output = _called(self.network, inputs)
        return output[0] if self._first else output


def _called(network: nn.Module, inputs: Any) -> Any:
    if not _takes_parts(network, inputs):
        return network(inputs)
    return network(**inputs) if isinstance(inputs, Mapping) else network(*inputs)


def _takes_parts(network: nn.Module, inputs: Any) -> bool:
    """Whether a network requires several arguments, which are then the parts of its inputs."""
    if not isinstance(inputs, Mapping | tuple | list):
        return False
    parameters = inspect.signature(network.forward).parameters.values()
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return sum(each.default is each.empty and each.kind not in several for each in parameters) > 1


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
) -> tuple[nn.Module, ModelDescription]:
    """Try a prepared network out on one batch.

    Returns:
        The network, reduced to one argument and its logits, and its description; classes are "0", "1", ... where none
        are given.

    Raises:
        OptionError: The network cannot take such inputs, or does not return logits of these classes.
    """
    inputs = examples.batch(_TRACED_BATCH)
    described = ModelDescription(
        classes=tuple(classes) or ("0",),
        input_shape=examples.shape,
        input_dtype=examples.dtype,
        mean=tuple(mean),
        std=tuple(std),
    )
    try:
        with torch.no_grad():
            output = _called(network, inputs)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
        shapes = ", ".join(
            f"{'' if not each.place else f'{each.name} '}(batch, {', '.join(map(str, each.shape))})"
            for each in described.inputs
        )
        raise OptionError(
            f"The network {type(network).__name__} cannot take inputs of shape {shapes}: {error}. Give the shape of "
            f"one sample that it was trained on."
        ) from error
    both = isinstance(output, (tuple, list)) and bool(output) and isinstance(output[0], Tensor)
    if both or _takes_parts(network, inputs):
        network, output = _OneArgument(network, first=both).eval(), output[0] if both else output
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
    return network, replace(described, classes=names)


def trace(network: nn.Module, examples: Examples) -> Any:
    """Return the `torch.export.ExportedProgram` of a prepared network, for batches of any size.

    Raises:
        ExportError: The network's Python code cannot be written as one graph.
    """
    from torch.export import Dim, export  # here, as it takes a second

    inputs = examples.batch(_TRACED_BATCH)
    any_size = {0: Dim("batch", min=1)}
    try:
        with torch.no_grad():
            dynamic_shapes = (map_tensors(inputs, lambda _: any_size),)
            program = export(network, (inputs,), dynamic_shapes=dynamic_shapes, strict=False)
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
    predict: Callable[[Any], Tensor],
    examples: Examples,
    *,
    tolerance: float,
    what: str,
) -> float:
    """Return the largest absolute difference between a network's logits and those of its exported form.

    Args:
        network: A prepared network.
        predict: The exported form: inputs to logits.
        examples: What to compare with.
        tolerance: Largest difference that passes, as a share of the largest logit, or absolute where that is below 1.
        what: The exported form's name, for messages.

    Raises:
        ExportError: They differ by more, for one of several batch sizes, or are not finite.
    """
    largest = 0.0
    for batch in _CHECKED_BATCHES:
        inputs = examples.batch(batch)
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
