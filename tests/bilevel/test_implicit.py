"""The implicit step against the exact implicit gradient: w*(a) = A p on the quadratic, where H = I."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from bilevel_problems import (
    A,
    B,
    W,
    gradient,
    half_square,
    quadratic,
    relative_error,
    table_batch,
    tabular,
    through_softmax,
)
from torch import Tensor

import archgrad as ag
from archgrad.bilevel import Implicit, Unrolled

SCALES = torch.tensor([1.0, 4.0], dtype=torch.float64)


def scaled(outputs: Tensor, targets: Tensor) -> Tensor:
    """H = diag(1, 4) for the training batch."""
    return half_square(outputs * SCALES.sqrt(), targets * SCALES.sqrt())


def expected(inverse: Tensor) -> Tensor:
    """-(d2 L/dp dw) H^-1 v with d2 L/dp dw = -A' S and v = S (w - b)."""
    return through_softmax(A.T @ (SCALES * inverse * SCALES * (W - B)))


def of(step: Implicit) -> Tensor:
    supernet = quadratic()
    found = gradient(step, supernet, torch.optim.SGD(supernet.weights.values(), 0.1), loss=scaled)["a"]
    assert torch.equal(supernet.weights["w"], W)
    return found


def test_cg_is_exact_within_as_many_iterations_as_weights() -> None:
    assert torch.allclose(of(Implicit(solver="cg", iterations=2)), expected(1 / SCALES), rtol=1e-10)
    assert torch.allclose(of(Implicit(solver="cg", iterations=9)), expected(1 / SCALES), rtol=1e-10)
    damped = Implicit(solver="cg", iterations=2, damping=0.5)
    assert torch.allclose(of(damped), expected(1 / (SCALES + 0.5)), rtol=1e-10)


def test_neumann_sums_its_series_and_converges() -> None:
    series = sum(0.1 * (1 - 0.1 * SCALES) ** j for j in range(4))
    assert torch.allclose(of(Implicit(iterations=3)), expected(series), rtol=1e-10)
    assert torch.allclose(of(Implicit(iterations=80, neumann_rate=0.4)), expected(1 / SCALES), rtol=1e-8)


def test_no_iteration_is_unrolled_for_a_small_learning_rate() -> None:
    supernet = tabular()
    optimizer = torch.optim.SGD(supernet.weights.values(), 1e-6)
    batches = (table_batch(1), table_batch(2))
    ours = gradient(Implicit(iterations=0), supernet, optimizer, *batches, loss=F.cross_entropy)
    theirs = gradient(Unrolled(hvp="exact"), supernet, optimizer, *batches, loss=F.cross_entropy)
    assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize("step", [Implicit(), Implicit(solver="cg", iterations=3, damping=2.0)])
def test_parts_add_up_to_the_whole(step: Implicit) -> None:
    supernet = tabular()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1)
    whole, parts = (
        step.alphas_gradient(
            supernet, table_batch(1), table_batch(2), loss=F.cross_entropy, weights_optimizer=optimizer, accumulation=n
        ).gradients
        for n in (1, 4)
    )
    for name, g in whole.items():
        torch.testing.assert_close(parts[name], g, rtol=1e-8, atol=1e-11)


def test_negative_curvature_is_an_error() -> None:
    supernet = quadratic()
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.1)
    with pytest.raises(ag.errors.OptionError, match="damping"):
        gradient(Implicit(solver="cg"), supernet, optimizer, loss=lambda o, t: -half_square(o, t))


@pytest.mark.parametrize(
    "options", [{"solver": "x"}, {"iterations": -1}, {"damping": -1.0}, {"solver": "cg", "neumann_rate": 0.1}]
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ag.errors.OptionError):
        Implicit(**options)  # type: ignore[arg-type]
