"""How fast a step could be if it were nothing but its multiplications, at the rate at which this machine multiplies.

The floor of a step is its multiply-adds over the measured rate of a large matrix product, with as many threads and in
the same precision. Counted are convolutions and matrix products of all candidates: M for a pass forward, as much again
for gradients by inputs, and as much for gradients by weights. What cannot be left out is

- of a first-order step 5 M: 2 M for the alphas, whose pass needs no gradients by weights, and 3 M for the weights;
- of a second-order step 13 M: 3 M for the step ahead, 3 M behind it, 4 M for the product with the second derivative
  (two passes for the alphas by finite differences, or one differentiated twice), and 3 M for the weights;
- of a retraining step 3 M.

No step reaches it: depthwise convolutions, pools, BatchNorm and sums move more numbers than they multiply.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import nn

from archgrad.cost import count_multiply_adds

PASSES = {"first-order": 5, "unrolled": 13, "exact": 13, "retraining": 3}
"""Passes forward that a step is worth."""
_SIZE = {"cpu": 1024, "cuda": 8192}
_ROUNDS = 7


def floor_seconds(network: nn.Module, step: str, options: argparse.Namespace, flops_per_second: float) -> float:
    """Return the seconds of a step that does nothing but multiply, in four digits.

    Args:
        network: A supernet on the plain path, or a network, that takes images.
        step: What is counted, a key of `PASSES`.
        options: Has `batch` and `image_size`.
        flops_per_second: Of this machine, two for each multiply-add.
    """
    images = (3, options.image_size, options.image_size)
    seconds = 2.0 * PASSES[step] * options.batch * count_multiply_adds(network, images) / flops_per_second
    return float(f"{seconds:.4g}")


def product_rate(options: argparse.Namespace, timed: Callable[[argparse.Namespace, Callable], float]) -> float:
    """Return the FLOPs a second of a large matrix product: the median of several.

    Args:
        options: Has `device`, and what `timed` reads; called in the precision that is meant.
        timed: (options, run) -> seconds.
    """
    n = _SIZE[options.device]
    a, b = (torch.randn(n, n, device=options.device) for _ in range(2))
    torch.mm(a, b)
    return 2.0 * n**3 / statistics.median(timed(options, lambda: torch.mm(a, b)) for _ in range(_ROUNDS))
