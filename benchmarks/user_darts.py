"""A DARTS network as users write it: layer choices, input choices, operation classes and cells of their own.

    python benchmarks/search_step.py --space benchmarks/user_darts.py:UserDarts --channels 16
    python benchmarks/search_step.py --space benchmarks/user_darts.py:UserDartsAffine --channels 16

Seven operations an edge, an input choice of two for every node, and no class of archgrad's but the two choices.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import archgrad as ag


class PoolNorm(nn.Module):
    """A pool and a BatchNorm."""

    def __init__(self, pool: nn.Module, channels: int) -> None:
        super().__init__()
        self.pool = pool
        self.bn = nn.BatchNorm2d(channels, affine=False)

    def forward(self, x):
        out = self.pool(x)
        out = self.bn(out)
        return out


class Convolution(nn.Sequential):
    """ReLU, convolution, BatchNorm."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(nn.ReLU(), nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out, affine=False))


class Depthwise(nn.Module):
    """ReLU, depthwise convolution, pointwise convolution, BatchNorm."""

    def __init__(self, channels: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels, channels, kernel, stride, padding, dilation=dilation, groups=channels, bias=False
        )
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels, affine=False)

    def forward(self, x):
        x = F.relu(x)
        return self.bn(self.pointwise(self.depthwise(x)))


class Separable(nn.Module):
    """Two of them."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.first = Depthwise(channels, kernel, stride, kernel // 2)
        self.second = Depthwise(channels, kernel, 1, kernel // 2)

    def forward(self, x):
        return self.second(self.first(x))


class Halve(nn.Module):
    """Half the height and width, in two shifted convolutions."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.conv2 = nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(c_out, affine=False)

    def forward(self, x):
        x = self.relu(x)
        out = torch.cat([self.conv1(x), self.conv2(x[:, :, 1:, 1:])], dim=1)
        return self.bn(out)


def edge(channels: int, stride: int, label: str) -> nn.Module:
    return ag.LayerChoice(
        {
            "maxpool": PoolNorm(nn.MaxPool2d(3, stride, 1), channels),
            "avgpool": PoolNorm(nn.AvgPool2d(3, stride, 1, count_include_pad=False), channels),
            "skipconnect": nn.Identity() if stride == 1 else Halve(channels, channels),
            "sepconv3x3": Separable(channels, 3, stride),
            "sepconv5x5": Separable(channels, 5, stride),
            "dilconv3x3": Depthwise(channels, 3, stride, 2, 2),
            "dilconv5x5": Depthwise(channels, 5, stride, 4, 2),
        },
        label=label,
    )


class Node(nn.Module):
    """The sum of two of all that came before, each through an operation."""

    def __init__(self, name: str, n_before: int, channels: int, reduction: bool) -> None:
        super().__init__()
        self.edges = nn.ModuleList(
            edge(channels, 2 if reduction and source < 2 else 1, f"{name}_p{source}") for source in range(n_before)
        )
        self.inputs = ag.InputChoice(n_before, 2, label=f"{name}_inputs")

    def forward(self, before):
        return self.inputs([operation(x) for operation, x in zip(self.edges, before, strict=True)])


class UserCell(nn.Module):
    """Four nodes after two inputs."""

    def __init__(self, before: int, last: int, channels: int, reduced_before: bool, reduction: bool) -> None:
        super().__init__()
        self.first = Halve(before, channels) if reduced_before else Convolution(before, channels)
        self.second = Convolution(last, channels)
        kind = "reduce" if reduction else "normal"
        self.nodes = nn.ModuleList(Node(f"{kind}_n{n}", n, channels, reduction) for n in range(2, 6))

    def forward(self, before, last):
        states = [self.first(before), self.second(last)]
        for node in self.nodes:
            states.append(node(states))
        return torch.cat(states[2:], dim=1)


class UserDarts(nn.Module):
    """Eight cells; the third and the sixth reduce."""

    def __init__(self, channels: int = 16, cells: int = 8, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(3 * channels))
        before, last, reduced = 3 * channels, 3 * channels, False
        self.cells = nn.ModuleList()
        for k in range(cells):
            reduction = k in (cells // 3, 2 * cells // 3)
            channels *= 2 if reduction else 1
            self.cells.append(UserCell(before, last, channels, reduced, reduction))
            before, last, reduced = last, 4 * channels, reduction
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, x):
        before = last = self.stem(x)
        for cell in self.cells:
            before, last = last, cell(before, last)
        return self.classifier(F.adaptive_avg_pool2d(last, 1).flatten(1))


class UserDartsAffine(UserDarts):
    """The same with weights and biases in all BatchNorms, which is what PyTorch makes unless told otherwise."""

    def __init__(self, channels: int = 16, cells: int = 8, num_classes: int = 10) -> None:
        super().__init__(channels, cells, num_classes)
        for norm in self.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.BatchNorm2d.__init__(norm, norm.num_features)
