"""A second way through a supernet that computes the same numbers several times faster.

Nothing else in the package needs this room, and its results are held to the plain path's by tests. `accelerate` binds
an evaluator to every cell; the module tree, its parameters and its state dict stay as they are.

- `path_names`: the paths that there are, and which is taken where.
- `depthwise`: depthwise convolution with a fast backward.
- `pointwise`: pointwise convolution, BatchNorm and mixing weight as one matrix product, in two ways:
  `folded_matmul`, `batch_norm_matmul`; `composition` writes it with differentiable operations, and `over_ranks` with
  statistics over several processes.
- `products`: products of many pixels with small matrices.
- `batch_norms`, `normalised`: what BatchNorm modules do with these, and what they keep of a batch; `biases`: of what
  comes before them, which they take out again.
- `sums`: weighted sums in one buffer, and joined states.
- `recognise`, `activations`: which layers are known, by their exact settings; `chains`: which of them an input goes
  through, whoever wrote the operation (`dataflow` reads its code); `branches`: which operations are known; `lowering`:
  which edges of a cell may be computed in another way than by calling them; `unchanged`: for how long that holds. All
  else runs as it is written.
- `states`, `cells`: the forward pass of a cell, or of a layer choice, made of these; `derived`: that of a derived cell;
  `alone`: that of a single operation; `deferral`: layer choices that a person's code wires, computed together, and
  `deferred`: what they give until then; `grids`: what a FactorizedReduce reads.
- `memory_format`: which networks may be given images in channels_last, as their `source` says (`harmless_calls`: where
  it may say more); `turned_layers`: layers that are changed so that this is nothing to them; `memory_layout`: which
  format an image, or its gradient, has; `in_place`: which parts may change what something else holds.
- `grouped_cell`: the forward pass of a cell in few large operations, as other devices than the CPU want it, made of
  layers that `grouped_layers` puts side by side (`group_key` says which).
- `native`: compiled kernels that do the work of most of these on a CPU, image by image; where they were not built, or
  are not for something, the others compute. `native_cell`: a cell in which they know everything, as one function;
  `derived_program`: a derived cell in the same way; `recorder` writes down what that function consists of, `recorded`,
  by `operation_parts`; `affine_parts`: what it reads of BatchNorms.
- `inverted_residuals`: blocks of a pointwise, a depthwise and a pointwise convolution, by the kernels alone;
  `inverted_choice`: a layer choice between them.
- `fast_split`: the channels of cells with partial channels, where the kernels do not know them.
- `malloc`: a setting for programs that search.
"""

from archgrad.fast.accelerate import FastPath, accelerate, accelerated
from archgrad.fast.memory_format import accepts_channels_last
from archgrad.fast.memory_layout import is_channels_last
from archgrad.fast.path_names import Asked, Fast, Path, asked_path, check_path, open_paths
from archgrad.fast.turned_layers import in_order_of_contiguous

__all__ = [
    "Asked",
    "Fast",
    "FastPath",
    "Path",
    "accelerate",
    "accelerated",
    "accepts_channels_last",
    "asked_path",
    "check_path",
    "in_order_of_contiguous",
    "is_channels_last",
    "open_paths",
]
