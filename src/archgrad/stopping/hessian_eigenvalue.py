"""The stopping rule of RobustDARTS."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from archgrad.bilevel.passes import frozen_buffers, without_grad
from archgrad.bilevel.second_derivative import SecondDerivative
from archgrad.epoch_end import EpochEnd
from archgrad.errors import OptionError
from archgrad.schedules import check_number
from archgrad.stopping.stopping import Stop, Stopping

__all__ = ["HessianEigenvalue", "hessian_eigenvalue", "largest_eigenvalue"]

_COLUMN = "hessian_eigenvalue"


@dataclass(frozen=True)
class HessianEigenvalue(Stopping):
    """Stop when the validation loss has become sharp in the alphas, and go back to the epoch before it did.

    Measured is the largest eigenvalue of the Hessian of the validation loss, on the last validation batch of the epoch.
    Its average over `window` measurements stands for the middle one. The search stops where that average is more than
    `factor` times the one `delta` measurements earlier; the result is the architecture of that earlier middle epoch.
    The last epoch is neither measured nor tested. So the first epoch that may end a search is
    start_epoch + frequency (window // 2 + delta), 22 by default, and a search of less than 24 epochs is never stopped.

    Source: Zela et al. 2020 (R-DARTS), and the authors' code, whose defaults, for 50 epochs, these are; they do not
    follow the length of the search.
    """

    frequency: int = 2
    """Epochs from one measurement to the next, at least 1; epoch 0 is measured."""
    window: int = 5
    """Measurements that are averaged, at least 1; at the start, as few as half of them, rounded up."""
    factor: float = 1.3
    """Growth of the average that stops the search, above 0; exactly this growth does not."""
    start_epoch: int = 10
    """First epoch (0-based) whose architecture may be the result, at least 0."""
    delta: int = 4
    """Measurements between the two averages that are compared, at least 1."""
    weight_decay: float = 1e-3
    """Added to the diagonal of the Hessian, at least 0. The authors' code adds that of the alphas' optimizer; the paper
    has the loss alone, which is 0."""
    iterations: int = 50
    """Most Hessian-vector products of one measurement, at least 1; each costs about two passes."""

    def __post_init__(self) -> None:
        for name, least in (("frequency", 1), ("window", 1), ("start_epoch", 0), ("delta", 1), ("iterations", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise OptionError(f"{name} must be a whole number of at least {least}, but got {name}={value!r}.")
        check_number("factor", self.factor, above=0.0)
        check_number("weight_decay", self.weight_decay, least=0.0)

    def remark(self, epochs: int) -> str | None:
        """Return a warning if the search is too short to be stopped."""
        first = self.start_epoch + self.frequency * (self.window // 2 + self.delta)
        first += -first % self.frequency
        if first < epochs - 1:
            return None
        return (
            f"HessianEigenvalue cannot stop a search of {epochs} epochs: the first epoch that it tests is number "
            f"{first + 1}, and never the last. Lower start_epoch (now {self.start_epoch}) or frequency "
            f"(now {self.frequency}), or take {first + 2} epochs at least."
        )

    def probe(self, end: EpochEnd) -> Mapping[str, float | None]:
        """Measure the eigenvalue; None in the epochs between, in the last one, and where it is not finite."""
        epoch = end.progress.epoch
        if epoch % self.frequency != 0 or epoch == end.progress.epochs - 1:
            return {_COLUMN: None}
        value = hessian_eigenvalue(end, iterations=self.iterations) + self.weight_decay
        return {_COLUMN: value if math.isfinite(value) else None}

    def decide(self, history: Sequence[Mapping[str, Any]]) -> Stop | None:
        """Compare the average that ends with the last epoch with an earlier one."""
        if not history or history[-1][_COLUMN] is None:
            return None
        values = [float(row[_COLUMN]) for row in history if row[_COLUMN] is not None]
        epoch = int(history[-1]["epoch"]) - self.frequency * (self.window // 2 + self.delta)
        if epoch < self.start_epoch or len(values) - self.delta <= self.window // 2:
            return None
        now, before = self._average(values), self._average(values[: -self.delta])
        if not (before > 0.0 and now / before > self.factor):
            return None
        return Stop(
            epoch,
            f"the largest eigenvalue of the Hessian has grown {now / before:.2f} times since epoch {epoch + 1} "
            f"(limit {self.factor:g})",
        )

    def _average(self, values: Sequence[float]) -> float:
        last = values[-self.window :]
        return sum(last) / len(last)


@torch.enable_grad()
def hessian_eigenvalue(end: EpochEnd, *, iterations: int = 50, tolerance: float = 1e-4) -> float:
    """Return the largest (not the largest absolute) eigenvalue of the Hessian of the validation loss in all alphas.

    The loss is that of the last validation batch of the epoch, of all ranks and parts together, with BatchNorm in
    training mode.

    Args:
        end: Stays as it is, random states included.
        iterations: See `largest_eigenvalue`.
        tolerance: See `largest_eigenvalue`.
    """
    supernet = end.supernet
    alphas = list(supernet.alphas.values())
    device, drawn = alphas[0].device, supernet.generator.get_state()
    second = SecondDerivative(supernet, end.valid_batch(), end.loss, alphas, accumulation=end.accumulation)

    def product(vector: Tensor) -> Tensor:
        parts = vector.to(alphas[0]).split([alpha.numel() for alpha in alphas])
        found = second.along(parts, alphas)
        own = [torch.zeros_like(alpha) if g is None else g for g, alpha in zip(found, alphas, strict=True)]
        return torch.cat(own).detach().to("cpu", torch.float64)

    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        frozen_buffers(supernet),
        without_grad(list(supernet.weights.values())),
    ):
        try:
            with supernet.same_draw():
                size = sum(a.numel() for a in alphas)
                return largest_eigenvalue(product, size, iterations=iterations, tolerance=tolerance)
        finally:
            supernet.generator.set_state(drawn)


def largest_eigenvalue(
    product: Callable[[Tensor], Tensor], size: int, *, iterations: int = 50, tolerance: float = 1e-4
) -> float:
    """Return the largest eigenvalue of a symmetric matrix by the Lanczos method, with full orthogonalisation.

    Args:
        product: Multiplies the matrix with a (size,) vector; both on the CPU in float64.
        size: Rows of the matrix, at least 1.
        iterations: Most products; the result is then the best from below.
        tolerance: Ends the iterations where the residual is below this share of the largest eigenvalue in amount.
            The error of the eigenvalue is about the square of that.

    Returns:
        The eigenvalue; NaN where the products are not finite.
    """
    vector = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = [vector / vector.norm()]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    while True:
        image = product(basis[-1])
        if not bool(image.isfinite().all()):
            return math.nan
        diagonal.append(image @ basis[-1])
        matrix = torch.stack(diagonal).diag()
        if beside:
            off = torch.stack(beside)
            matrix = matrix + off.diag(1) + off.diag(-1)
        values, vectors = torch.linalg.eigh(matrix)
        known = torch.stack(basis)
        for _ in range(2):  # once more, since the first pass leaves rounding errors of the size of what it removes
            image = image - known.T @ (known @ image)
        rest = image.norm()
        residual, scale = float(rest * vectors[-1, -1].abs()), float(values.abs().max())
        if residual <= tolerance * scale or len(basis) >= min(size, iterations):
            return float(values[-1])
        beside.append(rest)
        basis.append(image / rest)
