"""From an architecture to a plain network: every choice is replaced by what was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from archgrad.architecture import Architecture, as_architecture
from archgrad.cell import Cell
from archgrad.choices import Choice, LayerChoice, SelectInputs
from archgrad.copying import copied
from archgrad.decision import cell_nodes
from archgrad.derived_cell import DerivedCell
from archgrad.errors import ArchitectureError, SpaceError
from archgrad.fast.accelerate import restore
from archgrad.isolation import has_in_place, write_anew
from archgrad.json_text import shown
from archgrad.labels import label_choices
from archgrad.nested import is_structure, map_leaves, places
from archgrad.skip_dropout import take_off_skip_dropout
from archgrad.skip_noise import take_off_noise
from archgrad.supernet import Supernet
from archgrad.valued import ValuedModule
from archgrad.values import ChosenValue, Number, Value, ValueChoice, choices_in

__all__ = ["derive"]


def derive(
    space: nn.Module, architecture: Architecture | Any, *, keep_weights: bool = False, supernet: Supernet | None = None
) -> nn.Module:
    """Return the plain network of an architecture: chosen parts only, no alphas, no open choices.

    The space is copied and stays as it is. Without `keep_weights` the network has fresh weights: those that the space
    was built with, or, given a supernet as the space, new ones from each layer's `reset_parameters`.

    A space may define `sized_for(architecture)`, which returns the module with open choices to derive from. That may
    have `optional_labels`, which an architecture may decide though a small network has no such choice. A module in it
    may define `after_derive()`, called once its choices are replaced.

    Args:
        space: A module with open choices, or a `Supernet`.
        architecture: Its choices must be the space's. Also taken are a result that has one, the path of a file or of a
            run folder, and a dict (see `archgrad.architecture.as_architecture`).
        keep_weights: Keep the weights of the supernet: of `space` itself if that is one, else of `supernet`, wherever
            name and shape agree.
        supernet: Where the weights come from when `space` is not a supernet.

    Returns:
        A module that takes the same inputs as the space. A layer that feeds only inputs that an `InputChoice` did not
        take is still in it, unless the space drops it in `after_derive()`.

    Raises:
        ArchitectureError: A label or candidate is unknown, or a label is missing.
        SpaceError: Weights cannot be kept or renewed as asked.
    """
    if not isinstance(space, nn.Module):
        raise SpaceError(
            f"derive needs the space as a module, but got {shown(space)}. Give for example archgrad.spaces.tiny(), or "
            f"the supernet of a search's result."
        )
    architecture = as_architecture(architecture)
    if supernet is not None and isinstance(space, Supernet):
        raise SpaceError("derive was given two supernets. Leave supernet=... out, or give the plain space first.")
    if supernet is not None and not keep_weights:
        raise SpaceError("derive was given a supernet but not keep_weights=True. Leave it out, or keep its weights.")
    searched = space if isinstance(space, Supernet) else supernet
    if keep_weights and searched is not None:
        _check_keeps(searched)
    if isinstance(space, Supernet):
        network = copied(space.network)
        take_off_skip_dropout(network)  # what a search put on its skip connections is no part of the architecture
        take_off_noise(network)
        network = _close(network, architecture, keep_weights=keep_weights)
        restore(network)
        if not keep_weights:
            _renew(network)
        return network
    if keep_weights and supernet is None:
        raise SpaceError(
            "keep_weights=True needs a supernet to take the weights from. Give supernet=..., or leave it out."
        )
    sized_for = getattr(space, "sized_for", None)
    # Most of a space is not taken, and need not be copied.
    left_out = _not_taken(space, architecture) if sized_for is None else ()
    open_network = copied(space, left_out=left_out) if sized_for is None else sized_for(architecture)
    network = _close(open_network, architecture, keep_weights=False)
    if supernet is not None:
        _take_weights(network, _close(copied(supernet.network), architecture, keep_weights=True))
    return network


def _check_keeps(supernet: Supernet) -> None:
    for cell in supernet.network.modules():
        if isinstance(cell, Cell) and cell.partial_channels > 1:
            raise SpaceError(
                f"keep_weights=True needs the operations that were searched, but in a cell with partial_channels="
                f"{cell.partial_channels} those have fewer channels than the derived ones. Set keep_weights=False."
            )


def _not_taken(space: nn.Module, architecture: Architecture) -> list[nn.Module]:
    """Return the candidates that an architecture does not take, but for those of which a part is somewhere else too."""
    taken: dict[int, set[str]] = {}  # of each layer choice whose decision is known, by identity
    for entry in label_choices(space):
        choice, decision = entry.choice, architecture.choices.get(entry.label)
        if isinstance(choice, Cell) and type(choice).fix is Cell.fix and isinstance(decision, Mapping):
            nodes = cell_nodes(decision)
            for (source, node), edge in zip(choice.pairs, choice.edges, strict=False):
                taken[id(edge)] = {kept.operation for kept in nodes.get(node, ()) if kept.source == source}
        elif isinstance(choice, LayerChoice) and type(choice).fix is LayerChoice.fix and isinstance(decision, str):
            taken[id(choice)] = {decision}
    left: list[nn.Module] = []
    reached: set[int] = set()

    def visit(module: nn.Module) -> None:
        if id(module) in reached:
            return
        reached.add(id(module))
        out: list[nn.Module] = []
        if isinstance(module, LayerChoice) and id(module) in taken:
            named = zip(module.names, module.candidates, strict=False)
            out = [candidate for name, candidate in named if name not in taken[id(module)]]
            left.extend(out)
            reached.add(id(module.candidates))
        inside = [*module.children(), *(module.candidates if isinstance(module, LayerChoice) else ())]
        for child in inside:
            if not any(child is each for each in out):
                visit(child)

    visit(space)
    return [candidate for candidate in left if reached.isdisjoint(map(id, candidate.modules()))]


def _close(network: nn.Module, architecture: Architecture, *, keep_weights: bool) -> nn.Module:
    labels = {id(entry.choice): entry.label for entry in label_choices(network)}
    allowed = {*labels.values(), *getattr(network, "optional_labels", ())}
    unknown = [label for label in architecture.choices if label not in allowed]
    if unknown:
        known = ", ".join(repr(label) for label in dict.fromkeys(labels.values())) or "none"
        raise ArchitectureError(
            f"The architecture has the unknown label {unknown[0]!r}. The labels of this space are {known}."
        )
    builds_anew = any(isinstance(module, ValuedModule) for module in network.modules())
    with torch.random.fork_rng(devices=[], enabled=builds_anew):
        closed = _Closing(labels, architecture.choices, keep_weights).replaced(network)
    for module in closed.modules():
        after_derive = getattr(module, "after_derive", None)
        if after_derive is not None:
            after_derive()
    in_place = has_in_place(closed)
    for module in closed.modules():
        if isinstance(module, SelectInputs):
            module.copies = in_place
    return closed


class _Closing:
    """Puts what was chosen in the place of every choice, and plain layers in that of layers with open numbers.

    Args:
        labels: Of the choices, by identity.
        decisions: Of the architecture, by label.
        keep_weights: Whether layers of open size keep their part of the weights.
    """

    def __init__(self, labels: Mapping[int, str], decisions: Mapping[str, Any], keep_weights: bool) -> None:
        self._labels, self._decisions, self._keep_weights = labels, decisions, keep_weights
        self._done: dict[int, tuple[nn.Module, nn.Module]] = {}
        """Module and what stands for it, by identity; the module too, so that its identity stays taken."""

    def replaced(self, module: nn.Module) -> nn.Module:
        """Return what stands for `module`; an instance that is used twice is replaced by one instance."""
        if id(module) in self._done:
            return self._done[id(module)][1]
        if isinstance(module, ValuedModule):
            plain = module.closed(self._value, keep_weights=self._keep_weights)
            self._done[id(module)] = (module, plain)
            self._replace_parts(plain)
            return plain
        if isinstance(module, Choice):
            self._done[id(module)] = (module, self.replaced(module.fix(*self._decision(module))))
            chosen = self._done[id(module)][1]
            for operation in chosen.operations.values() if isinstance(chosen, DerivedCell) else [chosen]:
                write_anew(operation)  # others may read what it reads
            return chosen
        self._done[id(module)] = (module, module)
        self._replace_parts(module)
        return module

    def _decision(self, choice: Choice) -> tuple[str, Any]:
        label = self._labels[id(choice)]
        if label not in self._decisions:
            raise ArchitectureError(
                f"The architecture has no decision for '{label}'. It decides {', '.join(map(repr, self._decisions))}."
            )
        return label, self._decisions[label]

    def _value(self, choice: ValueChoice) -> Number:
        return choice.value(*self._decision(choice))

    def _replace_parts(self, module: nn.Module) -> None:
        for name, child in list(module._modules.items()):
            if isinstance(child, ValueChoice):
                self._hold_number(module, name, child)
            elif child is not None:
                module._modules[name] = self.replaced(child)
        for name, held in list(vars(module).items()):
            if isinstance(held, Value) or (is_structure(held) and any(isinstance(v, Value) for _, v in places(held))):
                vars(module)[name] = map_leaves(held, lambda v: self._number(v) if isinstance(v, Value) else v)

    def _hold_number(self, module: nn.Module, name: str, choice: ValueChoice) -> None:
        """Give a module the number as the attribute that held the choice; containers of modules get a module."""
        if isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential):
            module._modules[name] = ChosenValue(self._number(choice))
        else:
            del module._modules[name]
            vars(module)[name] = self._number(choice)

    def _number(self, value: Value) -> Any:
        """Return the number; None where the architecture does not decide it, since no layer that is left reads it."""
        decided = all(self._labels.get(id(choice)) in self._decisions for choice in choices_in(value))
        return value.at(self._value) if decided else None


def _renew(network: nn.Module) -> None:
    for path, module in network.named_modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            continue  # what is frozen is no weight: it was given, not learnt
        if computed := [name for name, value in vars(module).items() if isinstance(value, Tensor)]:
            spelt = [name for name, _ in module.named_parameters(recurse=False)]
            if any(weight.startswith(f"{name}_") for name in computed for weight in spelt):
                raise SpaceError(
                    f"'{path}' ({type(module).__name__}) computes its {computed[0]} from {', '.join(spelt)}, so that "
                    f"reset_parameters() does not renew them. Derive from the space instead of the supernet, or set "
                    f"keep_weights=True."
                )
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
        elif own:
            raise SpaceError(
                f"'{path or type(network).__name__}' ({type(module).__name__}) has parameters but no "
                f"reset_parameters(), so that its weights cannot be renewed. Give it one, derive from the space "
                f"instead of the supernet, or set keep_weights=True."
            )


def _take_weights(network: nn.Module, source: nn.Module) -> None:
    theirs = {**dict(source.named_parameters()), **dict(source.named_buffers())}
    with torch.no_grad():
        for name, own in [*network.named_parameters(), *network.named_buffers()]:
            if name in theirs and theirs[name].shape == own.shape:
                own.copy_(theirs[name])
