"""A model that exists becomes a space: its layers become choices between themselves and what fits in their place."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from archgrad.choices import Choice, LayerChoice, MixtureTable
from archgrad.copying import copied
from archgrad.errors import SpaceError
from archgrad.json_text import shown
from archgrad.mixture import Mixture
from archgrad.nested import map_tensors, tensors_in
from archgrad.spaces.layer_places import LayerPlace, is_at, layer_places, watch
from archgrad.spaces.module_rules import DepthwiseSeparable, Kernels, LayerRule, Skip
from archgrad.valued import ValuedModule

__all__ = ["ORIGINAL", "from_module"]

ORIGINAL = "original"
"""The candidate that is the layer itself."""


@dataclass(frozen=True)
class _Found:
    """A place where something else fits."""

    place: LayerPlace
    label: str
    candidates: dict[str, nn.Module]
    opened: nn.Module | None
    """What stands for the layer itself, if that has open numbers."""


def from_module(
    model: nn.Module,
    rules: Sequence[LayerRule] = (Kernels(), DepthwiseSeparable(), Skip()),
    *,
    batch: Any = None,
    label: Callable[[str], str] | None = None,
) -> nn.Module:
    """Return a copy of a model in which layers are choices between themselves and what fits in their place.

    Every choice has the candidate "original", the layer with its weights; where all take it, the space computes exactly
    what the model does. The other candidates begin with the layer's weights as far as these fit. An instance that the
    model uses several times is one choice. The model and its code stay as they are.

    Layers that no rule can replace without changing what they mean stay as they are, and a warning names them: those
    with hooks or parametrizations, convolutions of a class or `forward` of their own, those that share a parameter with
    another layer and, as far as a batch shows it, those that the model never calls but reads itself.

    Args:
        model: Any module.
        rules: What may stand in a layer's place, in the order of the candidates.
        batch: What the model takes: a tensor, a tuple of several or a dict of arguments, or a tuple or dict that it
            takes as one. It shows which layers are called, and is the proof that the space computes what the model
            does. None: neither is looked at.
        label: Path of a layer, such as "layer1.0.conv1" -> label of its choice. Choices of one label decide together,
            between the candidates that fit in all of their places. None: the path itself, with "/" between its parts.

    Raises:
        SpaceError: No layer has a candidate beside itself, rules are none, or the model does not run with choices.
    """
    if not isinstance(model, nn.Module):
        raise SpaceError(f"from_module needs a model, a torch.nn.Module, but got {shown(model)}.")
    if not isinstance(rules, Sequence) or not rules or not all(isinstance(rule, LayerRule) for rule in rules):
        raise SpaceError(
            f"from_module needs a list of rules, such as [archgrad.spaces.Kernels()], but got {shown(rules)}."
        )
    made = copied(model)
    _call_parts(made)
    if batch is not None and (opened := [path for path, part in made.named_modules() if isinstance(part, Choice)]):
        raise SpaceError(
            f"{type(model).__name__} has choices already, such as '{opened[0]}', and cannot run a batch. Leave "
            f"batch=... out."
        )
    places = layer_places(made)
    before = None if batch is None else _watched(made, places, batch)
    found: list[_Found] = []
    left: dict[str, str] = {}
    for place in places:
        asked = [rule for rule in rules if is_at(rule.at, place.path, place.layer)]
        if asked and (reason := place.left_because) is not None:
            left[place.path] = reason
            continue
        name = place.path.replace(".", "/") or "root" if label is None else label(place.path)
        one = _Found(place, name, _candidates(place, asked), _opened(place, asked, name))
        if one.candidates or one.opened is not None:
            found.append(one)
    told = ", ".join(f"'{path}' ({reason})" for path, reason in left.items())
    _check_some(model, rules, places, found, left=told)
    if left:
        warnings.warn(f"Layers of {type(model).__name__} that stay as they are: {told}.", stacklevel=2)
    space = _replaced(made, _choices(found), {})
    if batch is not None:
        _check_same(space, batch, before)
    return space


def _candidates(place: LayerPlace, rules: Sequence[LayerRule]) -> dict[str, nn.Module]:
    candidates: dict[str, nn.Module] = {}
    for rule in rules:
        for name, candidate in rule.candidates(place).items():
            if name in candidates or name == ORIGINAL:
                raise SpaceError(
                    f"Two candidates for '{place.path}' are called {shown(name)}, the second by {type(rule).__name__}. "
                    f"Leave one out, or give it another name."
                )
            candidates[name] = candidate
    return candidates


def _check_some(
    model: nn.Module, rules: Sequence[LayerRule], places: Sequence[LayerPlace], found: Sequence[_Found], *, left: str
) -> None:
    for rule in rules:
        if not any(is_at(rule.at, place.path, place.layer) for place in places) and rule.at != type(rule).at:
            raise SpaceError(
                f"{type(rule).__name__}(at={shown(rule.at)}) is for no layer of {type(model).__name__}. Its paths are "
                f"such as {', '.join(repr(place.path) for place in places[1:6])}; see model.named_modules()."
            )
    if not found:
        raise SpaceError(
            f"{type(model).__name__} has no layer in whose place something else fits, by the rules "
            f"{', '.join(type(rule).__name__ for rule in rules)}. Give other rules, or a Candidate of your own."
            + (f" These stay as they are: {left}." if left else "")
        )


def _opened(place: LayerPlace, rules: Sequence[LayerRule], label: str) -> nn.Module | None:
    every = {type(rule).__name__: made for rule in rules if (made := rule.opened(place, label)) is not None}
    if len(every) > 1 or len([rule for rule in rules if type(rule).__name__ in every]) > 1:
        raise SpaceError(
            f"Several rules open numbers of '{place.path}': {', '.join(every)}. Leave one of them, or give them "
            f"different layers (at=...)."
        )
    return next(iter(every.values()), None)


def _choices(found: Sequence[_Found]) -> dict[int, nn.Module]:
    """Return what stands for layers, by their identity: a choice between what fits in all places of its label."""
    fitting: dict[str, list[str]] = {}
    for one in found:
        if one.candidates:
            common = fitting.setdefault(one.label, list(one.candidates))
            fitting[one.label] = [name for name in common if name in one.candidates]
    choices: dict[int, nn.Module] = {}
    for one in found:
        own = one.place.layer if one.opened is None else one.opened
        if not one.candidates:
            choices[id(one.place.layer)] = own
            continue
        if not (names := fitting[one.label]):
            together = ", ".join(repr(other.place.path) for other in found if other.label == one.label)
            raise SpaceError(
                f"The layers of the label {shown(one.label)} have no candidate in common: {together}. Give them "
                f"several labels."
            )
        candidates = {ORIGINAL: own, **{name: one.candidates[name] for name in names}}
        choice = LayerChoice(candidates, label=one.label)
        choice.training = one.place.layer.training
        choices[id(one.place.layer)] = choice
    return choices


def _replaced(module: nn.Module, choices: Mapping[int, nn.Module], done: dict[int, nn.Module]) -> nn.Module:
    """Return what stands for a module: its choice, or itself, its parts replaced; an instance is replaced by one."""
    if id(module) not in done:
        done[id(module)] = choices.get(id(module), module)
        for name, child in list(module._modules.items()):
            if child is not None:
                module._modules[name] = _replaced(child, choices, done)
    return done[id(module)]


def _call_parts(made: nn.Module) -> None:
    """Let encoder layers of torch call their parts where they predict, too, and not read these parts' weights."""
    for layer in made.modules():
        if isinstance(layer, nn.TransformerEncoderLayer):
            layer.activation_relu_or_gelu = 0  # they ask for it before they compute all of themselves at once
        if isinstance(layer, nn.TransformerEncoder):
            layer.use_nested_tensor = False


def _watched(made: nn.Module, places: Sequence[LayerPlace], batch: Any) -> Any:
    """Return what a copy of the model makes of the batch, and let the places know of their calls."""
    copy = copied(made)
    twins = layer_places(copy)
    output = watch(twins, lambda: _run(copy, batch))
    for place, twin in zip(places, twins, strict=True):
        place.calls = twin.calls
    return output


def _run(network: nn.Module, batch: Any) -> Any:
    inputs = map_tensors(batch, torch.Tensor.clone)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        network.eval()
        args, kwargs = _arguments(network, inputs)
        return network(*args, **kwargs)


def _arguments(network: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the parts of a tuple or dict as arguments, or all of it as one where the model does not take such."""
    parts: Any = ((), batch) if isinstance(batch, dict) else (batch, {}) if isinstance(batch, tuple) else None
    if parts is None:
        return (batch,), {}
    try:
        inspect.signature(network.forward).bind(*parts[0], **parts[1])
    except TypeError:
        return (batch,), {}
    return cast("tuple[tuple[Any, ...], dict[str, Any]]", parts)


def _at_original(space: nn.Module) -> nn.Module:
    """Return a copy of a space that runs with every choice at "original"."""
    made = copied(space)
    for part in made.modules():
        if isinstance(part, Choice):  # the first candidate, or value, is the layer's own
            part.bind("all", MixtureTable({"all": Mixture(torch.ones(1, 1), (0,))}))
    return made


def _check_same(space: nn.Module, batch: Any, before: Any) -> None:
    """Raise SpaceError if the space, every choice at "original", does not compute what the model did."""
    copy = _at_original(space)
    open_parts = (LayerChoice, ValuedModule)
    asked = [LayerPlace(path, part) for path, part in copy.named_modules() if isinstance(part, open_parts)]
    try:
        watch(asked, lambda: _run(copy, batch))
        # Once more, since some modules go another way while a part of theirs is watched; of a copy that is as the model
        # was, since some change in every pass, such as by a step of a power iteration.
        after = _run(_at_original(space), batch)
    except (AttributeError, TypeError) as error:
        raise SpaceError(
            f"{type(space).__name__} does not run with choices in the place of layers: {error}. Its code reads a layer "
            f"itself; leave that layer out of the rules (at=...)."
        ) from error
    if uncalled := [place.path for place in asked if not place.calls]:
        raise SpaceError(
            f"The code of {type(space).__name__} calls the layer at '{uncalled[0]}' from elsewhere than its modules (a "
            f"plain list, a function), where no choice can stand. Leave it out of the rules (at=...)."
        )
    pairs = zip(tensors_in(before), tensors_in(after), strict=True)
    if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True) for a, b in pairs):
        raise SpaceError(
            f"{type(space).__name__} with its choices at '{ORIGINAL}' does not compute what the model "
            f"does. Its code asks for the class of its layers, or a layer changes its input; leave it out (at=...)."
        )
