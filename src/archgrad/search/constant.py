"""The last look at what a search found: a network that gives the same for every input is no result."""

from __future__ import annotations

from archgrad.architecture import Architecture
from archgrad.batches import prepare
from archgrad.data import Data, first_batch
from archgrad.dependence import depends_on_inputs, suspects
from archgrad.derive import derive
from archgrad.supernet import Supernet

__all__ = ["constant_warning"]

_SAMPLES = 4


def constant_warning(supernet: Supernet, architecture: Architecture, data: Data) -> str | None:
    """Return a warning if the network of the architecture does not depend on its inputs; None if all is well.

    Args:
        supernet: After the search, on its device; stays as it is.
        architecture: What it decided.
        data: Tells what the network takes.
    """
    try:
        if _depends(supernet, architecture, data):
            return None
    except Exception:  # a user's network may raise anything, and a finished search is not lost to a look at it
        return None
    chosen = suspects(supernet.choices, architecture)
    return (
        f"The derived network gives the same outputs for every input. These choices took candidates that pass "
        f"nothing on, or inputs that carry nothing: {chosen or 'its cells'}. Retraining refuses such a network. Leave "
        f"the candidate out of one of them, search longer, or take the architecture of another epoch."
    )


def _depends(supernet: Supernet, architecture: Architecture, data: Data) -> bool:
    alpha = next(iter(supernet.alphas.values()))
    transform = data.evaluation_transform(dtype=alpha.dtype)
    inputs, _ = first_batch(data.train, samples=_SAMPLES, transform=transform, device=alpha.device)
    inputs = prepare(inputs, dtype=alpha.dtype, channels_last=False)
    return depends_on_inputs(derive(supernet, architecture, keep_weights=True), inputs)
