"""How fast a network is in which one operation, or the head, is written in another way than the library's own.

    python benchmarks/user_operations.py

The network of `user_darts.py` with 3 cells, and one of the seven operations of every edge replaced (both pools in one
line): the plain path against the fast one, a forward and a backward pass by all parameters, medians of several,
processor time of one core. One line for each kind.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from search_step import machine_of
from torch import nn
from user_darts import UserDarts

import archgrad as ag


def conv(c: int, kernel: int = 3, stride: int = 1, *, groups: int = 1, norm: bool = True) -> list[nn.Module]:
    layer = nn.Conv2d(c, c, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(c)] if norm else [layer]


def separable(c: int, s: int, activation: Callable[[], nn.Module]) -> nn.Module:
    def half(stride: int) -> list[nn.Module]:
        return [activation(), *conv(c, 3, stride, groups=c, norm=False), *conv(c, 1)]

    return nn.Sequential(*half(s), *half(1))


KINDS: dict[str, Callable[[int, int], dict[str, nn.Module]]] = {
    "as it is": lambda c, s: {},
    "separable, its BatchNorms with weights and biases": lambda c, s: {"sepconv3x3": separable(c, s, nn.ReLU)},
    "pools without BatchNorm, averages that count padding": lambda c, s: {
        "maxpool": nn.MaxPool2d(3, s, 1),
        "avgpool": nn.AvgPool2d(3, s, 1),
    },
    "convolution, BatchNorm, ReLU": lambda c, s: {"sepconv3x3": nn.Sequential(*conv(c, 3, s), nn.ReLU())},
    "depthwise, pointwise, BatchNorm, ReLU": lambda c, s: {
        "sepconv3x3": nn.Sequential(*conv(c, 3, s, groups=c, norm=False), *conv(c, 1), nn.ReLU())
    },
    "depthwise, BatchNorm, ReLU, pointwise, BatchNorm, ReLU": lambda c, s: {
        "sepconv3x3": nn.Sequential(*conv(c, 3, s, groups=c), nn.ReLU(), *conv(c, 1), nn.ReLU())
    },
    "convolution, BatchNorm, ReLU, convolution, BatchNorm": lambda c, s: {
        "sepconv3x3": nn.Sequential(*conv(c, 3, s), nn.ReLU(), *conv(c))
    },
    "1x7 and 7x1 convolutions": lambda c, s: {
        "sepconv3x3": nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(c, c, (1, 7), (1, s), (0, 3), bias=False),
            nn.Conv2d(c, c, (7, 1), (s, 1), (3, 0), bias=False),
            nn.BatchNorm2d(c),
        )
    },
    "separable with SiLU": lambda c, s: {"sepconv3x3": separable(c, s, nn.SiLU)},
    "convolutions of two groups": lambda c, s: {
        "sepconv3x3": nn.Sequential(nn.ReLU(), *conv(c, 3, s, groups=2), nn.ReLU(), *conv(c, 3, groups=2))
    },
    "nn.Dropout before the classifier": lambda c, s: {},
    "x.view(len(x), -1) before the classifier": lambda c, s: {},
}


class Viewed(UserDarts):
    """Flattens by a view, as most code does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = last = self.stem(x)
        for cell in self.cells:
            before, last = last, cell(before, last)
        x = F.adaptive_avg_pool2d(last, 1)
        return self.classifier(x.view(len(x), -1))


def network(kind: str) -> nn.Module:
    """Return a user's DARTS with operations of this kind in the place of its own."""
    torch.manual_seed(0)
    found = (Viewed if "view" in kind else UserDarts)(16, 3)
    if "Dropout" in kind:
        found.classifier = nn.Sequential(nn.Dropout(0.2), found.classifier)
    for parent in list(found.modules()):
        for name, choice in parent.named_children():
            if isinstance(choice, ag.LayerChoice):
                own = dict(zip(choice.names, choice.candidates, strict=True))
                pool = own["maxpool"].pool
                channels = own["maxpool"].bn.num_features
                own |= KINDS[kind](channels, pool.stride)
                setattr(parent, name, ag.LayerChoice(own, label=choice.label))
    return found


def seconds(net: ag.Supernet, x: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the processor time of a pass forward and backward."""
    began = time.process_time()
    torch.autograd.grad(F.cross_entropy(net(x), targets), list(net.parameters()), allow_unused=True)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, targets = torch.randn(options.batch, 3, 32, 32), torch.randint(0, 10, (options.batch,))
    for kind in options.kinds:
        space = network(kind)
        nets = [ag.Supernet(copy.deepcopy(space), fast=fast) for fast in (False, True)]
        taken = [[seconds(net, x, targets) for net in nets] for _ in range(options.rounds + 1)][1:]
        plain, fast = map(statistics.median, zip(*taken, strict=True))
        print(f"| {kind} | {plain:.2f} s | {fast:.2f} s | {plain / fast:.1f} |", flush=True)
    print(json.dumps({"batch": options.batch, "load_average": round(os.getloadavg()[0], 1), **machine_of("cpu")}))


if __name__ == "__main__":
    main()
