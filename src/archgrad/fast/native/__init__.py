"""Compiled kernels for the CPU, and the stage of a cell that is made of them.

An image's separable convolutions fit the second-level cache, where operations of a library, each over the whole batch,
pass through main memory dozens of times. Nothing is computed here that the rest of `fast` does not compute too.

- `job.hpp`: what the kernels are given.
- `tiles.hpp`, `gather.hpp`, `channels.hpp`, `pools.hpp`, `grids.hpp`, and for dense convolutions `taps.hpp`,
  `winograd.hpp` and `wide.hpp`: what they do to one image; `stages.hpp`: to one batch, with what `vectors.hpp`,
  `storage.hpp` and `ahead.hpp` have for it.
- `weave.hpp`: states that pass by a cell's operations.
- `inverted.hpp`, `inverted_back.hpp`: inverted residuals.
- `kernels.cpp`: all of it, compiled for several instruction sets.
- `library`: how they are found and called.
- `plan`, `stage`: several depthwise convolutions and projections as one function of PyTorch's; `passes` is what it does
  forward and backward; `weaving`: what passes by; `noisy`: noise; `pooled`: pools alone;
  `activated`, `added`, `convolved`: what PyTorch computes between stages;
  `program`: stages one after the other, `program_function` as one function, of `program_gradients`.
- `second_backward`: these gradients, differentiated once more by the same kernels, as `tangents` says; `pushed` goes
  through a stage forward, and `pulled` backward.
- `inverted`: a sum of inverted residuals as one function, of `inverted_passes`.
- `composed`, `composed_program`: the same written with PyTorch's operations.
"""

from archgrad.fast.native.activated import Activated, Activation
from archgrad.fast.native.added import Added
from archgrad.fast.native.convolved import Convolved
from archgrad.fast.native.inverted import Blend, Statistics, blend_inverted
from archgrad.fast.native.inverted_passes import Inverted, InvertedOperands
from archgrad.fast.native.library import allowed, instruction_set, is_built, takes, why_missing
from archgrad.fast.native.native_stage import run
from archgrad.fast.native.noisy import Noisy
from archgrad.fast.native.other_step import OtherStep
from archgrad.fast.native.plan import Plan, Pool, Unit, understands
from archgrad.fast.native.pooled import Pooled
from archgrad.fast.native.program import Affine, Program, Step
from archgrad.fast.native.program_function import run_program
from archgrad.fast.native.weaving import Weave

__all__ = [
    "Activated",
    "Activation",
    "Added",
    "Affine",
    "Blend",
    "Convolved",
    "Inverted",
    "InvertedOperands",
    "Noisy",
    "OtherStep",
    "Plan",
    "Pool",
    "Pooled",
    "Program",
    "Statistics",
    "Step",
    "Unit",
    "Weave",
    "allowed",
    "blend_inverted",
    "instruction_set",
    "is_built",
    "run",
    "run_program",
    "takes",
    "understands",
    "why_missing",
]
