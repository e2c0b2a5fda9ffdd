"""Convolutions and linear layers of open size: one weight, of which each size has a part.

The weight is linear in what the layer computes, so the mixture of all sizes is one layer with a mixed weight:

    sum over a of w_a L(x; M_a * W) = L(x; (sum over a of w_a M_a) * W),

where M_a is one in the part of the widest weight W that the size a has, and zero elsewhere. Where channels out,
channels in and kernel depend on different rows of alphas, the sum over a is the product of the sums over each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from archgrad.channel_blocks import ChannelBlocks
from archgrad.errors import SpaceError
from archgrad.valued import ValuedLayer, assignments
from archgrad.values import Pick, ValueChoice, choices_in

__all__ = ["WeightedLayer"]


class WeightedLayer(ValuedLayer):
    """A layer with a weight (out, in, *kernel), or (in, out, *kernel), and perhaps a bias (out).

    Args:
        kind: See `ValuedLayer`.
        numbers: See `ValuedLayer`; `names` says which of them are what.
        options: See `ValuedLayer`.
    """

    multiplies = True
    out_name: str
    in_name: str
    n_kernel = 0
    """Dimensions of the kernel."""
    out_dim, in_dim = 0, 1
    """Where the channels stand in the weight."""

    # What a size has of the widest weight.

    def lay_out(self, picks: Sequence[Pick]) -> None:
        """Lay out channels, kernel and groups."""
        self.out = ChannelBlocks(self.numbers[self.out_name], picks, self.out_name)
        self.into = ChannelBlocks(self.numbers[self.in_name], picks, self.in_name)
        self.kernel: tuple[int, ...] = tuple(map(max, zip(*map(self.kernel_at, picks), strict=True)))
        groups = {self.groups_at(pick) for pick in picks}
        per_group = {self._per_group(pick) for pick in picks}
        self.keeps_groups = groups != {1} and len(per_group) == 1
        """Whether every group has the same channels in all sizes, as in a depthwise convolution."""
        self.reads_groups = groups != {1} and not self.keeps_groups
        if groups != {1} and not (self.out.is_one and self.into.is_one) and per_group != {(1, 1)}:
            raise SpaceError(
                f"{self.where()} has groups of channels that are concatenated: {self.out.text} and {self.into.text}. "
                f"Convolve them apart, or with groups=1."
            )
        self.n_groups = self.into.total // next(iter(per_group))[1] if self.keeps_groups else 1

    def widest(self, picks: Sequence[Pick]) -> nn.Module:
        """Return the widest layer."""
        layer = self.build_widest()
        self._register_masks(picks, cast(Tensor, layer.weight).dtype)
        return layer

    def build_widest(self) -> nn.Module:
        """Return a layer of `kind` with `out.total` and `into.total` channels, `kernel` and `n_groups`."""
        return self.kind(**{**self.options, self.out_name: self.out.total, self.in_name: self.into.total})

    def kernel_at(self, pick: Pick) -> tuple[int, ...]:
        """Return the size of the kernel."""
        return ()

    def kernel_start(self, pick: Pick) -> tuple[int, ...]:
        """Return where a smaller kernel begins in the widest."""
        return ()

    def groups_at(self, pick: Pick) -> int:
        """Return the number of groups."""
        return 1

    def _per_group(self, pick: Pick) -> tuple[int, int]:
        groups = max(self.groups_at(pick), 1)
        return sum(self.out.sizes(pick)) // groups, sum(self.into.sizes(pick)) // groups

    def sliced(self, pick: Pick) -> dict[str, Tensor]:
        """Return the part of weight and bias."""
        weight, bias = cast(Tensor, self.layer.weight), cast("Tensor | None", self.layer.bias)
        out, into = self.out.sizes(pick), self.into.sizes(pick)
        weight = self.out.narrow(weight, self.out_dim, out)
        if not self.keeps_groups:
            weight = self.into.narrow(weight, self.in_dim, into)
        for dim, (start, size) in enumerate(zip(self.kernel_start(pick), self.kernel_at(pick), strict=True), start=2):
            weight = weight.narrow(dim, start, size)
        if self.reads_groups and self.groups_at(pick) > 1:
            rows, columns = self._per_group(pick)
            places = range(self.groups_at(pick))
            weight = torch.cat([weight.narrow(0, j * rows, rows).narrow(1, j * columns, columns) for j in places])
        return {"weight": weight} if bias is None else {"weight": weight, "bias": self.out.narrow(bias, 0, out)}

    # The masks of all sizes.

    def _register_masks(self, picks: Sequence[Pick], dtype: torch.dtype) -> None:
        """Keep the masks of each number that occurs, so that a pass makes none; they follow the layer to its device."""
        self._places: dict[str, dict[Any, int]] = {}
        axes = [("out", self._out_key, self._out_mask), ("into", self._into_key, self._into_mask)]
        axes += [("kernel", self._kernel_key, self._kernel_mask), ("groups", self._groups_key, self._groups_mask)]
        for name, key_of, mask_of in axes:
            masks: dict[Any, Tensor] = {}
            for pick in picks:
                if (key := key_of(pick)) not in masks:
                    masks[key] = mask_of(pick)
            self._places[name] = {key: place for place, key in enumerate(masks)}
            stacked = torch.stack(list(masks.values())).to(dtype)
            self.register_buffer(f"{name}_masks", stacked, persistent=False)

    def _out_key(self, pick: Pick) -> Any:
        return self.out.sizes(pick)

    def _out_mask(self, pick: Pick) -> Tensor:
        return self._along(self.out_dim, self.out.mask(self.out.sizes(pick)))

    def _into_key(self, pick: Pick) -> Any:
        return None if self.keeps_groups else self.into.sizes(pick)

    def _into_mask(self, pick: Pick) -> Tensor:
        if self.keeps_groups:
            return torch.ones(1, 1, *self._ones)
        return self._along(self.in_dim, self.into.mask(self.into.sizes(pick)))

    def _along(self, dim: int, mask: Tensor) -> Tensor:
        """Return a mask of channels as it is multiplied with the weight."""
        return mask.view(*((-1, 1) if dim == 0 else (1, -1)), *self._ones)

    def _kernel_key(self, pick: Pick) -> Any:
        return self.kernel_at(pick), self.kernel_start(pick)

    def _kernel_mask(self, pick: Pick) -> Tensor:
        mask = torch.zeros(self.kernel)
        mask[tuple(slice(s, s + n) for s, n in zip(self.kernel_start(pick), self.kernel_at(pick), strict=True))] = 1
        return mask.view(1, 1, *self.kernel)

    def _groups_key(self, pick: Pick) -> Any:
        return (*self._per_group(pick), self.groups_at(pick)) if self.reads_groups else None

    def _groups_mask(self, pick: Pick) -> Tensor:
        if not self.reads_groups:
            return torch.ones(1, 1, *self._ones)
        rows, columns = self._per_group(pick)
        blocks = torch.block_diag(*[torch.ones(rows, columns)] * self.groups_at(pick))
        mask = torch.zeros(self.out.total, self.into.total)
        mask[: blocks.shape[0], : blocks.shape[1]] = blocks
        return mask.view(*mask.shape, *self._ones)

    @property
    def _ones(self) -> tuple[int, ...]:
        return (1,) * self.n_kernel

    def _mask(self, axis: str, pick: Pick) -> Tensor:
        keys = {"out": self._out_key, "into": self._into_key, "kernel": self._kernel_key, "groups": self._groups_key}
        masks = cast(Tensor, self._buffers[f"{axis}_masks"])
        return masks[self._places[axis][keys[axis](pick)]]

    # The mixture.

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixture of what the layer computes with each size, in the channels of the widest."""
        if not self.choices:
            return self.layer(x)
        if math.prod(len(choice.mixture.active) for choice in self.choices) == 1:
            return cast(Tensor, super().forward(x))
        dim = x.dim() - self.n_kernel - 1
        self.into.check(x, dim)
        weight, bias = cast(Tensor, self.layer.weight), cast("Tensor | None", self.layer.bias)
        mixed: dict[str, Any] = {"weight": weight * self._mixed_mask(("out", "into", "kernel", "groups"))}
        if bias is not None:
            mixed["bias"] = bias * self._mixed_mask(("out",)).flatten()
        return self.with_inactive(functional_call(self.layer, mixed, (x,)))

    def at(self, pick: Pick, x: Tensor, **options: Any) -> Tensor:
        """Return what the layer computes with one size, filled up to the widest."""
        dim = x.dim() - self.n_kernel - 1
        y = self.run(pick, self.into.narrow(x, dim, self.into.sizes(pick)), **options)
        return self.out.widen(y, dim, self.out.sizes(pick))

    def _choices_of(self, axis: str) -> tuple[ValueChoice, ...]:
        names = {
            "out": (self.out_name,), "into": () if self.keeps_groups else (self.in_name,),
            "kernel": self.kernel_names, "groups": (self.out_name, self.in_name, "groups"),
        }[axis]  # fmt: skip
        if axis == "groups" and not self.reads_groups:
            return ()
        return choices_in(tuple(self.numbers[name] for name in names))

    kernel_names: tuple[str, ...] = ()
    """The numbers that decide where a kernel lies in the widest."""

    def _mixed_mask(self, axes: Iterable[str]) -> Tensor:
        """Return the sum over all values of their weight times the product of their masks along the axes."""
        total: Tensor | None = None
        rest = {choice.row: choice for choice in self.choices}
        for together in _connected({axis: [c.row for c in self._choices_of(axis)] for axis in axes}):
            choices = [choice for axis in together for choice in self._choices_of(axis)]
            if not choices:
                continue  # every mask of the axis is one
            for choice in choices:
                rest.pop(choice.row, None)
            part: Tensor | None = None
            for pick, weight in assignments(choices):
                masks = [self._mask(axis, pick) for axis in together]
                term = weight * math.prod(masks[1:], start=masks[0])
                part = term if part is None else part + term
            assert part is not None
            total = part if total is None else total * part
        for choice in rest.values():  # nothing on these axes depends on them: all their values count
            weights = choice.mixture.weights
            whole = sum(weights[k] for k in choice.mixture.active)
            total = whole if total is None else total * whole  # type: ignore[assignment]
        assert total is not None
        return total


def _connected(rows: dict[str, list[str]]) -> list[list[str]]:
    """Return the axes in groups that share no row with each other."""
    groups: list[tuple[list[str], set[str]]] = []
    for axis, own in rows.items():
        joined, seen = [axis], set(own)
        for group in [group for group in groups if group[1] & seen]:
            groups.remove(group)
            joined, seen = [*group[0], *joined], seen | group[1]
        groups.append((joined, seen))
    return [axes for axes, _ in groups]
