"""Normalisations of open width: each width is normalised over the channels that it has, and over no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from archgrad.channel_blocks import ChannelBlocks
from archgrad.valued import ValuedLayer, assignments
from archgrad.values import Number, Pick, Value

__all__ = [
    *("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"),
    *("LayerNorm", "RMSNorm"),
]


class _BatchNorm(ValuedLayer):
    """BatchNorm of open width; the arguments are said at `BatchNorm2d`."""

    kind_of_layer: type[nn.Module]

    def __init__(
        self,
        num_features: Value | Number,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        options = {"eps": eps, "momentum": momentum, "affine": affine, "track_running_stats": track_running_stats}
        super().__init__(self.kind_of_layer, {"num_features": num_features}, options)

    def lay_out(self, picks: Sequence[Pick]) -> None:
        """Lay out the channels."""
        self.features = ChannelBlocks(self.numbers["num_features"], picks, "num_features")

    def widest(self, picks: Sequence[Pick]) -> nn.Module:
        """Return the widest BatchNorm."""
        return self.kind(self.features.total, **self.options)

    def sliced(self, pick: Pick) -> dict[str, Tensor]:
        """Return the entries of the width's channels."""
        return self._slices(self.features.sizes(pick))

    def _slices(self, sizes: Sequence[int]) -> dict[str, Tensor]:
        every = {**dict(self.layer.named_parameters()), **dict(self.layer.named_buffers())}
        return {name: self.features.narrow(x, 0, sizes) if x.dim() else x for name, x in every.items()}

    def at(self, pick: Pick, x: Tensor, **options: Any) -> Tensor:
        """Return what one width computes."""
        sizes = self.features.sizes(pick)
        return self.features.widen(self.run(pick, self.features.narrow(x, 1, sizes), **options), 1, sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, widest, ...) of (B, widest, ...)."""
        if not self.choices:
            return cast(Tensor, self.layer(x))
        found = assignments(self.choices)
        sizes = self.features.union([assignment.pick for assignment in found])
        y = self._normalised(x, sizes)
        shares = self.features.shares(found, y)
        return cast(Tensor, self.with_inactive(y * shares.view(-1, *(1,) * (x.dim() - 2))))

    def _normalised(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the normalised channels of blocks of these sizes, filled up to the widest."""
        if tuple(sizes) == self.features.widest:
            self.features.check(x, 1)
            return cast(Tensor, self.layer(x))
        parts = self._slices(sizes)
        y = functional_call(self._layer_of(sum(sizes)), parts, (self.features.narrow(x, 1, sizes),))
        if not self.features.is_one and self.layer.training:  # copies, where a single block has views
            at = torch.nonzero(self.features.mask(sizes)).flatten().to(x.device)
            for name, buffer in self.layer.named_buffers():
                if buffer.dim():
                    buffer.index_copy_(0, at, parts[name])
        return self.features.widen(y, 1, sizes)

    def _layer_of(self, features: int) -> nn.Module:
        """Return the layer that normalises so many channels, given their weights and buffers."""
        return self.layer


class BatchNorm1d(_BatchNorm):
    """`torch.nn.BatchNorm1d`, of which the width may be open; arguments as of `BatchNorm2d`."""

    kind_of_layer = nn.BatchNorm1d


class BatchNorm2d(_BatchNorm):
    """`torch.nn.BatchNorm2d`, of which the width may be open.

    A channel is normalised by its own statistics, so the mixture is the normalised widest input times the weight of the
    widths that have the channel. Channels that no width of a pass has leave no trace in the running statistics.

    Args:
        num_features: Channels; a sum stands for channels that were concatenated.
        eps: As in `torch.nn.BatchNorm2d`.
        momentum: As in `torch.nn.BatchNorm2d`.
        affine: Whether there is a scale and a shift.
        track_running_stats: Whether evaluation uses running statistics.
    """

    kind_of_layer = nn.BatchNorm2d


class BatchNorm3d(_BatchNorm):
    """`torch.nn.BatchNorm3d`, of which the width may be open; arguments as of `BatchNorm2d`."""

    kind_of_layer = nn.BatchNorm3d


class _InstanceNorm(_BatchNorm):
    """InstanceNorm of open width, which normalises each channel by itself, too."""

    def __init__(
        self,
        num_features: Value | Number,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)

    def _layer_of(self, features: int) -> nn.Module:
        if (features,) not in self.skeletons.built:  # it looks whether it is built for as many channels
            self.skeletons.built[features,] = self.kind(features, **self.options, device="meta")
        return self.skeletons.built[features,].train(self.training)


class InstanceNorm1d(_InstanceNorm):
    """`torch.nn.InstanceNorm1d`, of which the width may be open; arguments as of `InstanceNorm2d`."""

    kind_of_layer = nn.InstanceNorm1d


class InstanceNorm2d(_InstanceNorm):
    """`torch.nn.InstanceNorm2d`, of which the width may be open.

    Args:
        num_features: Channels; a sum stands for channels that were concatenated.
        eps: As in `torch.nn.InstanceNorm2d`.
        momentum: As in `torch.nn.InstanceNorm2d`.
        affine: Whether there is a scale and a shift.
        track_running_stats: Whether evaluation uses running statistics.
    """

    kind_of_layer = nn.InstanceNorm2d


class InstanceNorm3d(_InstanceNorm):
    """`torch.nn.InstanceNorm3d`, of which the width may be open; arguments as of `InstanceNorm2d`."""

    kind_of_layer = nn.InstanceNorm3d


class _FeatureNorm(ValuedLayer):
    """A normalisation over the last dimensions; the arguments are said at `LayerNorm`."""

    kind_of_layer: type[nn.Module]

    def __init__(self, normalized_shape: Value | int | Sequence[Value | int], options: Mapping[str, Any]) -> None:
        several = isinstance(normalized_shape, Sequence)
        shape = tuple(normalized_shape) if several else (normalized_shape,)  # type: ignore[arg-type]
        super().__init__(self.kind_of_layer, {"normalized_shape": shape}, options)

    def lay_out(self, picks: Sequence[Pick]) -> None:
        """Lay out the features of each dimension."""
        self.features = [ChannelBlocks(n, picks, "normalized_shape") for n in self.numbers["normalized_shape"]]

    def widest(self, picks: Sequence[Pick]) -> nn.Module:
        """Return the widest normalisation."""
        return self.kind(tuple(blocks.total for blocks in self.features), **self.options)

    def sliced(self, pick: Pick) -> dict[str, Tensor]:
        """Return the entries of the width's features."""
        return {name: self._narrow(parameter, pick) for name, parameter in self.layer.named_parameters()}

    def at(self, pick: Pick, x: Tensor, **options: Any) -> Tensor:
        """Return what one width computes."""
        y = self.run(pick, self._narrow(x, pick), **options)
        for dim, blocks in self._dims():
            y = blocks.widen(y, dim, blocks.sizes(pick))
        return cast(Tensor, y)

    def _narrow(self, x: Tensor, pick: Pick) -> Tensor:
        for dim, blocks in self._dims():
            x = blocks.narrow(x, dim, blocks.sizes(pick))
        return x

    def _dims(self) -> list[tuple[int, ChannelBlocks]]:
        return list(zip(range(-len(self.features), 0), self.features, strict=True))


class LayerNorm(_FeatureNorm):
    """`torch.nn.LayerNorm`, over the features that a width has alone.

    Args:
        normalized_shape: Features in the last dimension, or in the last ones, open or not.
        eps: As in `torch.nn.LayerNorm`.
        elementwise_affine: Whether there is a scale.
        bias: Whether there is a shift beside the scale.
    """

    kind_of_layer = nn.LayerNorm

    def __init__(
        self,
        normalized_shape: Value | int | Sequence[Value | int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__(normalized_shape, {"eps": eps, "elementwise_affine": elementwise_affine, "bias": bias})


class RMSNorm(_FeatureNorm):
    """`torch.nn.RMSNorm`, over the features that a width has alone.

    Args:
        normalized_shape: Features in the last dimension, or in the last ones, open or not.
        eps: As in `torch.nn.RMSNorm`.
        elementwise_affine: Whether there is a scale.
    """

    kind_of_layer = nn.RMSNorm

    def __init__(
        self,
        normalized_shape: Value | int | Sequence[Value | int],
        eps: float | None = None,
        elementwise_affine: bool = True,
    ) -> None:
        super().__init__(normalized_shape, {"eps": eps, "elementwise_affine": elementwise_affine})


class GroupNorm(ValuedLayer):
    """`torch.nn.GroupNorm`, over the channels that a width has alone.

    Args:
        num_groups: Groups, open or not.
        num_channels: Channels, open or not.
        eps: As in `torch.nn.GroupNorm`.
        affine: Whether there is a scale and a shift.
    """

    def __init__(
        self, num_groups: Value | Number, num_channels: Value | Number, eps: float = 1e-5, affine: bool = True
    ) -> None:
        numbers = {"num_groups": num_groups, "num_channels": num_channels}
        super().__init__(nn.GroupNorm, numbers, {"eps": eps, "affine": affine})

    def lay_out(self, picks: Sequence[Pick]) -> None:
        """Lay out the channels."""
        self.channels = ChannelBlocks(self.numbers["num_channels"], picks, "num_channels")

    def widest(self, picks: Sequence[Pick]) -> nn.Module:
        """Return a GroupNorm of the widest scale and shift."""
        groups = self.numbers["num_groups"]
        return nn.GroupNorm(1 if isinstance(groups, Value) else int(groups), self.channels.total, **self.options)

    def sliced(self, pick: Pick) -> dict[str, Tensor]:
        """Return the entries of the width's channels."""
        sizes = self.channels.sizes(pick)
        return {name: self.channels.narrow(x, 0, sizes) for name, x in self.layer.named_parameters()}

    def at(self, pick: Pick, x: Tensor, **options: Any) -> Tensor:
        """Return what one width computes."""
        sizes = self.channels.sizes(pick)
        return self.channels.widen(self.run(pick, self.channels.narrow(x, 1, sizes), **options), 1, sizes)
