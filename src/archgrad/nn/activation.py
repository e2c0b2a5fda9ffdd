"""An activation with weights, of which the width may be open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from archgrad.channel_blocks import ChannelBlocks
from archgrad.valued import ValuedLayer
from archgrad.values import Number, Pick, Value

__all__ = ["PReLU"]


class PReLU(ValuedLayer):
    """`torch.nn.PReLU` with a slope for each channel, of which there may be an open number.

    Args:
        num_parameters: Channels; a sum stands for channels that were concatenated.
        init: First slope.
    """

    def __init__(self, num_parameters: Value | Number, init: float = 0.25) -> None:
        super().__init__(nn.PReLU, {"num_parameters": num_parameters}, {"init": init})

    def lay_out(self, picks: Sequence[Pick]) -> None:
        """Lay out the channels."""
        self.channels = ChannelBlocks(self.numbers["num_parameters"], picks, "num_parameters")

    def widest(self, picks: Sequence[Pick]) -> nn.Module:
        """Return the widest one."""
        return self.kind(self.channels.total, **self.options)

    def sliced(self, pick: Pick) -> dict[str, Tensor]:
        """Return the slopes of the width's channels."""
        return {"weight": self.channels.narrow(cast(Tensor, self.layer.weight), 0, self.channels.sizes(pick))}

    def at(self, pick: Pick, x: Tensor, **options: Any) -> Tensor:
        """Return what one width computes."""
        sizes = self.channels.sizes(pick)
        return self.channels.widen(self.run(pick, self.channels.narrow(x, 1, sizes), **options), 1, sizes)
