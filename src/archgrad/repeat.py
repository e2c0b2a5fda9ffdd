"""Depth as a choice: the first blocks of a sequence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from archgrad.channel_blocks import whole_number
from archgrad.errors import SpaceError
from archgrad.isolation import run_isolated, write_anew
from archgrad.json_text import shown
from archgrad.valued import ValuedModule, assignments, every_pick
from archgrad.values import Pick, Value, ValueChoice

__all__ = ["Repeat", "Repeated"]


class Repeat(ValuedModule):
    """As many blocks, one after the other, as an open depth says.

    Let x_d be what the first d blocks make of the input, and x_0 the input. Relaxed, the output is the sum over the
    depths d of w_d x_d, where w_d are the mixing weights: no more blocks run than the deepest depth has.

    Args:
        block: A function of the block's number, from 0 on, that builds the block, which then has weights of its own.
            With `shared_weights`, the one module that is applied again and again.
        depth: Whole numbers of at least 0: a `ValueChoice`, arithmetic on some, or a range of depths, which is then a
            choice called `label`.
        label: Of the choice that a range becomes; see `LayerChoice`.
        shared_weights: Whether all blocks are one module.

    Raises:
        SpaceError: An argument is of another kind.
    """

    def __init__(
        self,
        block: Callable[[int], nn.Module] | nn.Module,
        depth: Value | range | int,
        label: str | None = None,
        *,
        shared_weights: bool = False,
    ) -> None:
        if isinstance(depth, range):
            depth = ValueChoice(list(depth), label)
        elif label is not None:
            raise SpaceError(
                f"Repeat(label={label!r}) has a label only for a range of depths, but got depth={_text(depth)}. Give "
                f"the label to the ValueChoice."
            )
        super().__init__({"depth": depth})
        depths = [self.depth_at(pick) for pick in every_pick(self.choices, self.where())]
        if min(depths) < 0 or max(depths) < 1:
            raise SpaceError(
                f"Repeat needs depths of at least 0, one of them at least 1, but {_text(depth)} may be {min(depths)}."
            )
        self.shared_weights = shared_weights
        self.blocks = nn.ModuleList(_built(block, max(depths), shared_weights))

    def extra_repr(self) -> str:
        """Return the depth as it was written."""
        return f"depth={_text(self.numbers['depth'])}, shared_weights={self.shared_weights}"

    def depth_at(self, pick: Pick) -> int:
        """Return the number of blocks."""
        return whole_number(self.number("depth", pick), "depth")

    def inside(self, pick: Pick) -> Iterable[nn.Module]:
        """Return the blocks that are left."""
        return list(self.blocks)[: self.depth_at(pick)]

    def closed(self, pick: Pick, *, keep_weights: bool) -> nn.Module:
        """Return the first blocks, which have the weights that they have here."""
        blocks = Repeated(*self.inside(pick)).train(self.training)
        if len(blocks):
            write_anew(blocks[0])  # others may read what it reads
        return blocks

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the mixture of the outputs of all depths; blocks get all arguments but the first as they are."""
        if not self.choices:
            found, depths = [], [self.depth_at(_none)]
        else:
            found = assignments(self.choices)
            depths = [self.depth_at(pick) for pick, _ in found]
        reached = [x]
        for block in list(self.blocks)[: max(depths)]:
            reached.append(run_isolated(block, reached[-1], *args, where=self.where, **kwargs))
        return self.mixed([reached[depth] for depth in depths], found) if found else reached[depths[0]]


class Repeated(nn.Sequential):
    """The blocks that are left of a `Repeat`: a `torch.nn.Sequential` that gives each block all arguments."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Return what the blocks make of `x`, one after the other."""
        for block in self:
            x = block(x, *args, **kwargs)
        return x


def _none(choice: ValueChoice) -> int:
    raise AssertionError(choice)  # nothing is open


def _text(depth: Any) -> str:
    return depth.text() if isinstance(depth, Value) else shown(depth)


def _built(block: Any, deepest: int, shared_weights: bool) -> list[nn.Module]:
    if shared_weights:
        if not isinstance(block, nn.Module):
            raise SpaceError(f"Repeat with shared_weights=True applies one module, but got {shown(block)}.")
        return [block] * deepest
    if isinstance(block, nn.Module):
        raise SpaceError(
            f"Repeat needs a function that builds a block, so that each has weights of its own, but got the module "
            f"{type(block).__name__}. Give lambda number: {type(block).__name__}(...), or shared_weights=True to "
            f"apply the one module again and again."
        )
    if not callable(block):
        raise SpaceError(f"Repeat needs a function of the block's number that builds a block, but got {shown(block)}.")
    if isinstance(block, type) and not _takes_number(block):
        raise SpaceError(
            f"Repeat calls {block.__name__} with the block's number, which it does not take. Give "
            f"lambda number: {block.__name__}(...)."
        )
    blocks = [block(number) for number in range(deepest)]
    for built in blocks:
        if not isinstance(built, nn.Module):
            raise SpaceError(f"Repeat needs a function that returns a module, but it returned {shown(built)}.")
    return blocks


def _takes_number(block: Callable[..., Any]) -> bool:
    try:
        inspect.signature(block).bind(0)
    except TypeError:
        return False
    return True
