"""The regulariser of DU-DARTS against algebra."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import archgrad as ag
from archgrad.choices import AlphaRow
from archgrad.errors import OptionError
from archgrad.methods import du_darts, fair_darts
from archgrad.regularizers import Entropy
from archgrad.relaxation import Simplex, Softmax
from archgrad.testing import TabularSpace

ROWS = {"edge": AlphaRow(("a", "b", "c")), "alone": AlphaRow(("a",)), "pair": AlphaRow(("a", "b"))}


def test_value_and_gradient_are_those_of_the_formula() -> None:
    # d/da_k of -sum p log p is -p_k (log p_k + H)
    alphas = {"edge": [0.3, -1.0, 0.5], "alone": [2.0], "pair": [0.1, 0.1]}
    given = {label: torch.tensor(a, dtype=torch.float64, requires_grad=True) for label, a in alphas.items()}
    value = Entropy().value(given, ROWS, Softmax())
    p = torch.softmax(given["edge"].detach(), 0)
    entropy = -(p * p.log()).sum()
    assert value.item() == pytest.approx(entropy.item() / math.log(3) + 1.0, rel=1e-12)
    gradients = torch.autograd.grad(value, list(given.values()))
    torch.testing.assert_close(gradients[0], -p * (p.log() + entropy) / math.log(3), rtol=1e-12, atol=0.0)
    assert gradients[1].abs().max() == 0.0
    assert gradients[2].abs().max() < 1e-15  # undecided is the top


def test_a_decided_row_counts_nothing_and_has_a_finite_gradient() -> None:
    for relaxation, row in ((Softmax(), [0.0, -2000.0, -2000.0]), (Simplex(), [1.0, 0.0, 0.0])):
        alpha = torch.tensor(row, dtype=torch.float64, requires_grad=True)
        value = Entropy().value({"edge": alpha}, ROWS, relaxation)
        assert value.item() == 0.0
        assert bool(torch.autograd.grad(value, alpha)[0].isfinite().all())


def test_gates_are_no_distribution() -> None:
    data = (torch.randn(44, 4), torch.arange(44) % 3)
    with pytest.raises(OptionError, match="those of Sigmoid do not"):
        ag.search(
            TabularSpace(chosen=1),
            data,
            method=replace(fair_darts, regularizers=(Entropy(),)),
            batch_size=8,
            quiet=True,
        )


def test_it_makes_a_search_decide() -> None:
    data = (torch.randn(44, 4, generator=torch.Generator().manual_seed(0)), torch.arange(44) % 3)
    alphas = replace(du_darts.alphas_optimizer, learning_rate=0.1)

    def entropy(method: ag.Method) -> float:
        torch.manual_seed(0)
        result = ag.search(
            TabularSpace(), data, method=replace(method, alphas_optimizer=alphas), epochs=8, batch_size=8, quiet=True
        )
        found: float = result.history[-1]["alphas_entropy"]
        return found

    assert entropy(du_darts) < entropy(ag.methods.darts) - 0.1
