"""Count the operations of one pass of the search, on the plain and on the fast path, as a GPU would be given them.

    python benchmarks/launches.py --channels 16 --cells 8

On a GPU each of them is one kernel or a few. They are counted on PyTorch's meta device, which computes shapes and no
numbers, and takes the way of devices that are not the CPU; so no GPU is needed. Operations that only make views or
unwritten memory are left out. One JSON line a path, then one with the ratios fast / plain.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import archgrad as ag
from archgrad.bilevel.passes import local_pass, without_grad

VIEWS = frozenset(
    (
        *(
            "alias",
            "as_strided",
            "detach",
            "diagonal",
            "expand",
            "permute",
            "promote_types",
            "select",
            "slice",
            "split",
        ),
        *("split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "_unsafe_view"),
        *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    )
)


class Counter(TorchDispatchMode):
    """Counts operations that a device would have to run."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ not in VIEWS
        return func(*args, **(kwargs or {}))


def count(space: torch.nn.Module, *, fast: bool, batch: int, image_size: int) -> dict[str, int]:
    """Return the operations of the pass for the alphas and of that for the weights."""
    supernet = ag.Supernet(space, fast=fast).to("meta")
    images = torch.empty(batch, 3, image_size, image_size, device="meta")
    targets = torch.empty(batch, dtype=torch.long, device="meta")
    alphas, weights = list(supernet.alphas.values()), list(supernet.weights.values())
    counts = {}
    for name, wanted, other in (("alpha_pass", alphas, weights), ("weight_pass", weights, alphas)):
        with without_grad(other), Counter() as counter:
            local_pass(supernet, (images, targets), F.cross_entropy, wanted)
        counts[name] = counter.count
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=["darts-cifar", "nasbench201"], default="darts-cifar")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cells", type=int, default=8, help="nasbench201: cells in each of three groups")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=32)
    options = parser.parse_args()
    build = ag.spaces.darts_cifar if options.space == "darts-cifar" else ag.spaces.nasbench201
    counts = {}
    for path in ("plain", "fast"):
        space = build(options.channels, options.cells)
        counts[path] = count(space, fast=path == "fast", batch=options.batch, image_size=options.image_size)
        print(json.dumps({"path": path, **vars(options), **counts[path]}))
    ratios = {f"ratio_{name}": round(counts["fast"][name] / counts["plain"][name], 3) for name in counts["plain"]}
    print(json.dumps({**ratios, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
