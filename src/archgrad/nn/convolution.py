"""Convolutions, and transposed ones, of which channels, kernel and groups may be open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import nn

from archgrad.channel_blocks import whole_number
from archgrad.errors import SpaceError
from archgrad.nn.weighted import WeightedLayer
from archgrad.values import Number, Pick, Value

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]

Size: TypeAlias = "Value | int | tuple[Value | int, ...]"


class _Conv(WeightedLayer):
    """A convolution of `n_kernel` dimensions; the arguments are said at `Conv2d`."""

    kind_of_layer: type[nn.Module]
    out_name = "out_channels"
    in_name = "in_channels"
    kernel_names = ("kernel_size", "padding")

    def __init__(
        self,
        in_channels: Value | Number,
        out_channels: Value | Number,
        kernel_size: Size,
        stride: int | tuple[int, ...] = 1,
        padding: Size | str = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: Value | Number = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        numbers: dict[str, Any] = {"in_channels": in_channels, "out_channels": out_channels, "kernel_size": kernel_size}
        numbers |= {"padding": padding, "groups": groups}
        options = {"stride": stride, "dilation": dilation, "bias": bias, "padding_mode": padding_mode}
        super().__init__(self.kind_of_layer, numbers, options)

    def lay_out(self, picks: Sequence[Pick]) -> None:
        """Lay out channels, kernel and groups; the padding of the widest is that of its kernel."""
        kernels = {pick: self.kernel_at(pick) for pick in picks}
        largest = tuple(map(max, zip(*kernels.values(), strict=True)))
        paddings = [max(p for pick in picks if kernels[pick][d] == n for p in [self._padding_at(pick)[d]])
                    for d, n in enumerate(largest)]  # fmt: skip
        for pick, kernel in kernels.items():
            for n, most, p, padding, dilation in zip(
                kernel, largest, self._padding_at(pick), paddings, self._dilation, strict=True
            ):
                if dilation * (most - n) != 2 * (padding - p) and not self._is_same:
                    raise SpaceError(
                        f"{self.where()} needs outputs of one size, but kernel {n} with padding {p} gives another than "
                        f"kernel {most} with padding {padding} (dilation {dilation}). Compute the padding from the "
                        f"kernel (padding=kernel // 2), or give padding='same', and leave out kernels that are even "
                        f"where others are odd."
                    )
                if dilation > 1 and (most - n) % 2:
                    raise SpaceError(
                        f"{self.where()} has even and odd kernels, {n} and {most}, with a dilation, whose centres do "
                        f"not meet. Give either."
                    )
        self._widest_padding = tuple(paddings)
        super().lay_out(picks)

    def build_widest(self) -> nn.Module:
        """Return the widest convolution."""
        padding = "same" if self._is_same else self._widest_padding
        sizes = {"kernel_size": self.kernel, "padding": padding, "groups": self.n_groups}
        return self.kind(in_channels=self.into.total, out_channels=self.out.total, **sizes, **self.options)

    def kernel_at(self, pick: Pick) -> tuple[int, ...]:
        """Return the size of the kernel in each dimension."""
        return self._each("kernel_size", self.number("kernel_size", pick))

    def kernel_start(self, pick: Pick) -> tuple[int, ...]:
        """Return where a smaller kernel begins: it is the centre; an even one is padded more behind, as "same" does."""
        return tuple((most - 1) // 2 - (n - 1) // 2 for n, most in zip(self.kernel_at(pick), self.kernel, strict=True))

    def groups_at(self, pick: Pick) -> int:
        """Return the number of groups."""
        return whole_number(self.number("groups", pick), "groups")

    @property
    def _is_same(self) -> bool:
        return self.numbers["padding"] == "same"

    @property
    def _dilation(self) -> tuple[int, ...]:
        return self._each("dilation", self.options["dilation"])

    def _padding_at(self, pick: Pick) -> tuple[int, ...]:
        padding = self.number("padding", pick)
        return (0,) * self.n_kernel if isinstance(padding, str) else self._each("padding", padding)

    def _each(self, name: str, given: Any) -> tuple[int, ...]:
        numbers = given if isinstance(given, tuple) else (given,) * self.n_kernel
        return tuple(whole_number(number, name) for number in numbers)


class Conv1d(_Conv):
    """`torch.nn.Conv1d`, of which the numbers may be open as those of `Conv2d`, whose arguments it has."""

    kind_of_layer = nn.Conv1d
    n_kernel = 1


class Conv2d(_Conv):
    """`torch.nn.Conv2d`, of which channels, kernel, padding and groups may be open.

    A smaller kernel is the centre of the largest; the padding
    must go with it, so that all outputs are equally large (`padding=kernel // 2`, or "same").

    Args:
        in_channels: See `torch.nn.Conv2d`; a sum stands for channels that were concatenated.
        out_channels: As above.
        kernel_size: All sizes even, or all odd.
        stride: As in `torch.nn.Conv2d`; never open.
        padding: A number of pixels, open or not, or "same".
        dilation: As in `torch.nn.Conv2d`; never open.
        groups: The number of groups; where it changes, but not the channels of each group (`groups=hidden`), as in a
            depthwise convolution, the groups keep their weights. Else the weights of all are parts of that without
            groups.
        bias: Whether there is one.
        padding_mode: As in `torch.nn.Conv2d`.

    Raises:
        SpaceError: Some values do not go together, or outputs would be of different sizes.
    """

    kind_of_layer = nn.Conv2d
    n_kernel = 2


class Conv3d(_Conv):
    """`torch.nn.Conv3d`, of which the numbers may be open as those of `Conv2d`, whose arguments it has."""

    kind_of_layer = nn.Conv3d
    n_kernel = 3


class _ConvTranspose(_Conv):
    """A transposed convolution; its weight is (in, out, *kernel). The arguments are said at `ConvTranspose2d`."""

    out_dim, in_dim = 1, 0

    def __init__(
        self,
        in_channels: Value | Number,
        out_channels: Value | Number,
        kernel_size: Size,
        stride: int | tuple[int, ...] = 1,
        padding: Size = 0,
        output_padding: int | tuple[int, ...] = 0,
        bias: bool = True,
        dilation: int | tuple[int, ...] = 1,
    ) -> None:
        if isinstance(padding, str):
            raise SpaceError(f"{type(self).__name__} takes a padding of so many pixels, but got padding={padding!r}.")
        numbers: dict[str, Any] = {"in_channels": in_channels, "out_channels": out_channels, "kernel_size": kernel_size}
        options = {"stride": stride, "output_padding": output_padding, "bias": bias, "dilation": dilation}
        WeightedLayer.__init__(self, self.kind_of_layer, {**numbers, "padding": padding}, options)

    def build_widest(self) -> nn.Module:
        """Return the widest transposed convolution."""
        sizes: dict[str, Any] = {"kernel_size": self.kernel, "padding": self._widest_padding}
        return self.kind(in_channels=self.into.total, out_channels=self.out.total, **sizes, **self.options)

    def groups_at(self, pick: Pick) -> int:
        """Return 1."""
        return 1


class ConvTranspose1d(_ConvTranspose):
    """`torch.nn.ConvTranspose1d`, of which numbers may be open as those of `ConvTranspose2d`; its arguments, too."""

    kind_of_layer = nn.ConvTranspose1d
    n_kernel = 1


class ConvTranspose2d(_ConvTranspose):
    """`torch.nn.ConvTranspose2d` without groups, of which channels, kernel and padding may be open.

    A smaller kernel is the centre of the largest; the padding must go with it, so that all outputs are equally large.

    Args:
        in_channels: See `torch.nn.ConvTranspose2d`; a sum stands for channels that were concatenated.
        out_channels: As above.
        kernel_size: All sizes even, or all odd.
        stride: Never open.
        padding: A number of pixels, open or not.
        output_padding: Never open.
        bias: Whether there is one.
        dilation: Never open.

    Raises:
        SpaceError: Some values do not go together, or outputs would be of different sizes.
    """

    kind_of_layer = nn.ConvTranspose2d
    n_kernel = 2


class ConvTranspose3d(_ConvTranspose):
    """`torch.nn.ConvTranspose3d`, of which numbers may be open as those of `ConvTranspose2d`; its arguments, too."""

    kind_of_layer = nn.ConvTranspose3d
    n_kernel = 3
