"""A second way through a supernet that computes the same numbers several times faster.

Nothing else in the package needs this room, and its results are held to the plain path's by tests. `accelerate` binds
an evaluator to every cell; the module tree, its parameters and its state dict stay as they are.

- `depthwise`: depthwise convolution with a fast backward.
- `pointwise`: pointwise convolution, BatchNorm and mixing weight as one matrix product.
- `products`: products of many pixels with small matrices.
- `sums`: weighted sums in one buffer.
- `norms`: what BatchNorm modules keep of a batch.
- `over_ranks`: the same product with statistics over several processes.
- `cells`: the forward pass of a cell made of these.
"""

from archgrad.fast.accelerate import accelerate

__all__ = ["accelerate"]
