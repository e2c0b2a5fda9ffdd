"""Problems whose hypergradients are known, by algebra or by taking the optimizer's own step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

import archgrad as ag
from toys import TabularSpace, relaxed, vector

Batch = tuple[Tensor, Tensor]


class Constant(nn.Module):
    """Returns a fixed vector whatever the input."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, x: Tensor) -> Tensor:
        return self.value


class Quadratic(nn.Module):
    """Returns s w - t A p for the input (s, t), with p = softmax(a) over the columns of A.

    With the squared loss below and the targets b this gives L_train = |w - A p|^2 / 2 for the training batch
    ((1, 1), 0) and L_valid = |w - b|^2 / 2 for the validation batch ((1, 0), b).
    """

    def __init__(self, w: Tensor, columns: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w.clone())
        self.mix = ag.LayerChoice([Constant(column) for column in columns.T], label="a")
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(self.w.detach().clone())
        return x[0] * self.w - x[1] * self.mix(x)


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs - targets).square().sum()


W = vector(1.0, -2.0)
A = torch.stack([vector(0.5, 1.5, -1.0), vector(2.0, -0.3, 0.7)])
B = vector(0.4, 1.2)
ALPHAS = (0.1, -0.4, 0.8)
P = torch.softmax(vector(*ALPHAS), 0)
TRAIN: Batch = (vector(1.0, 1.0), torch.zeros(2, dtype=torch.float64))
VALID: Batch = (vector(1.0, 0.0), B)


def quadratic() -> ag.Supernet:
    return relaxed(Quadratic(W, A), {"a": ALPHAS}).train()


def through_softmax(by_p: Tensor) -> Tensor:
    """dL/da of dL/dp: (diag(p) - p p') dL/dp."""
    return P * (by_p - (P * by_p).sum())


def gradient(
    step: ag.bilevel.BilevelStep,
    supernet: ag.Supernet,
    optimizer: Optimizer,
    train: Batch = TRAIN,
    valid: Batch = VALID,
    loss: Callable[..., Tensor] = half_square,
) -> dict[str, Tensor]:
    """The alphas' gradient, zero where the step says None."""
    found = step.alphas_gradient(supernet, train, valid, loss=loss, weights_optimizer=optimizer)
    return {label: torch.zeros_like(supernet.alphas[label]) if g is None else g for label, g in found.gradients.items()}


def warm_up(optimizer: Optimizer, steps: int = 2, seed: int = 5) -> None:
    """Give the optimizer a state by steps of random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def tabular(relaxation: Any = None, seed: int = 0) -> ag.Supernet:
    """A smooth network (tanh, softplus) with alphas that are not near zero."""
    torch.manual_seed(seed)
    alphas = {"first": [0.5, -0.3], "activation": [0.2, -0.9], "second": [-0.4, 0.6], "join": [0.3, -0.2, 0.7]}
    return relaxed(TabularSpace(), alphas, relaxation=relaxation).train()


def table_batch(seed: int, rows: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(3, (rows,), generator=generator)
    return torch.randn(rows, 4, generator=generator, dtype=torch.float64), targets


def value_after_steps(supernet: ag.Supernet, optimizer: Optimizer, train: Batch, valid: Batch, steps: int = 1) -> float:
    """L_valid after the optimizer's own steps on L_train, taken on copies."""
    supernet, optimizer = copy.deepcopy((supernet, optimizer))
    weights = list(supernet.weights.values())
    for _ in range(steps):
        train_loss = F.cross_entropy(supernet(train[0]), train[1])
        for weight, g in zip(weights, torch.autograd.grad(train_loss, weights, allow_unused=True), strict=True):
            weight.grad = g
        optimizer.step()
    with torch.no_grad():
        return F.cross_entropy(supernet(valid[0]), valid[1]).item()


def by_central_differences(
    supernet: ag.Supernet, optimizer: Optimizer, train: Batch, valid: Batch, h: float = 1e-5, steps: int = 1
) -> dict[str, Tensor]:
    """d L_valid(w'(a), a) / da, entry by entry, from the definition of the derivative."""
    gradients = {}
    for label, alpha in supernet.alphas.items():
        entries = []
        for k in range(len(alpha)):
            values = []
            for sign in (1.0, -1.0):
                with torch.no_grad():
                    alpha[k] += sign * h
                values.append(value_after_steps(supernet, optimizer, train, valid, steps))
                with torch.no_grad():
                    alpha[k] -= sign * h
            entries.append((values[0] - values[1]) / (2 * h))
        gradients[label] = vector(*entries)
    return gradients


def relative_error(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    a, b = (torch.cat(list(rows.values())) for rows in (ours, theirs))
    return ((a - b).norm() / b.norm()).item()


def two_groups(supernet: ag.Supernet) -> list[dict[str, Sequence[nn.Parameter] | float]]:
    """Stem and head with their own learning rate."""
    own = [p for name, p in supernet.weights.items() if name.startswith(("stem", "head"))]
    rest = [p for name, p in supernet.weights.items() if not name.startswith(("stem", "head"))]
    return [{"params": own, "lr": 0.3}, {"params": rest}]
