"""A space of multilayer perceptrons, for rows of tables and other vectors."""

from __future__ import annotations

from torch import Tensor, nn

from archgrad.choices import LayerChoice
from archgrad.sizes import check_fits_memory, check_whole

__all__ = ["MlpNetwork", "mlp"]


class _Layer(nn.Module):
    """x + f(x), with f a normalised linear layer with a nonlinearity; "gated" multiplies one half by the other."""

    def __init__(self, width: int, activation: nn.Module, *, doubled: bool = False) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(width), nn.Linear(width, 2 * width if doubled else width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width) of (B, width)."""
        return x + self.activation(self.linear(self.norm(x)))


class MlpNetwork(nn.Module):
    """A linear layer to the width, layers of which each is chosen, and a linear layer to the outputs."""

    space_name = "mlp"

    def __init__(self, *, in_features: int, num_classes: int, width: int, layers: int) -> None:
        super().__init__()
        self.first = nn.Linear(in_features, width)
        self.layers = nn.Sequential(
            *(
                LayerChoice(
                    {
                        "skip": nn.Identity(),
                        "relu": _Layer(width, nn.ReLU()),
                        "silu": _Layer(width, nn.SiLU()),
                        "tanh": _Layer(width, nn.Tanh()),
                        "gated": _Layer(width, nn.GLU(dim=1), doubled=True),
                    },
                    label=f"layer{number}",
                )
                for number in range(layers)
            )
        )
        self.norm, self.last = nn.BatchNorm1d(width), nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (B, num_classes) of vectors (B, in_features)."""
        return self.last(self.norm(self.layers(self.first(x))))


def mlp(in_features: int = 8, num_classes: int = 1, *, width: int = 64, layers: int = 4) -> nn.Module:
    """Build a space of multilayer perceptrons for vectors, such as the rows of a table.

    Each layer is skipped, or has one of three nonlinearities or a gate; all add to what they get.

    Args:
        in_features: Length of the vectors, at least 1.
        num_classes: Number of outputs: classes, or values that are predicted.
        width: Of all layers, at least 1.
        layers: How many are chosen, at least 1.

    Raises:
        OptionError: A value outside its range.
    """
    sizes = {"in_features": in_features, "num_classes": num_classes, "width": width, "layers": layers}
    for name, value in sizes.items():
        check_whole(name, value, least=1)
    check_fits_memory(lambda _: MlpNetwork(**sizes), cells=1, channels=1, **sizes)
    return MlpNetwork(**sizes)
