"""FairDARTS against the authors' numbers, in float64 and in the space of DARTS without "none"."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from recorded_steps import recorded_step
from safetensors.torch import load_file
from torch import Tensor

import archgrad as ag
from archgrad.optimizers import Adam
from archgrad.regularizers import ZeroOne
from archgrad.relaxation import Sigmoid

pytestmark = pytest.mark.shared
CELLS = ("normal", "reduce")
ADAM = Adam(learning_rate=3e-3, betas=(0.9, 0.999))


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> dict[str, Tensor]:
    values = load_file(shared_dir / "golden" / "methods" / "fairdarts_c4_l3_n10.safetensors")
    return {key: value.double() if value.is_floating_point() else value for key, value in values.items()}


def own_name(name: str) -> str:
    """A weight's name here, from the authors', whose candidates are counted without "none"."""
    return re.sub(
        r"\._ops\.(\d+)\._ops\.(\d+)",
        lambda m: f".graph.edges.{m[1]}.candidates.{int(m[2]) + 1}",
        name[len("state/") :],
    )


def build(golden: dict[str, Tensor], *, zero: bool) -> ag.Supernet:
    """The network at the start of a run; "none" is pruned from every edge."""
    supernet = ag.Supernet(ag.spaces.darts_cifar(4, 3, 10).double(), Sigmoid())
    supernet.prune(7, {label: [0.0] + [1.0] * 7 for label in supernet.rows})
    given = {own_name(key): value for key, value in golden.items() if key.startswith("state/")}
    assert given.keys() == supernet.weights.keys()
    with torch.no_grad():
        for name, weight in supernet.weights.items():
            weight.copy_(given[name])
        if not zero:
            for cell in CELLS:
                rows = [alpha for label, alpha in supernet.alphas.items() if label.startswith(cell)]
                for alpha, row in zip(rows, golden[f"alphas_init/alphas_{cell}"], strict=True):
                    alpha[1:].copy_(row)
    return supernet.train()


def table(supernet: ag.Supernet, cell: str, *, gradient: bool = False) -> Tensor:
    rows = [alpha for label, alpha in supernet.alphas.items() if label.startswith(cell)]
    return torch.stack([(alpha.grad if gradient else alpha.detach())[1:].clone() for alpha in rows])


@pytest.mark.parametrize(
    ("run", "norm", "optimizer", "rate"),
    [
        ("l2", "l2", Adam(), 0.025),
        ("l1", "l1", Adam(), 0.025),
        ("zero_l2", "l2", Adam(), 0.025),
        ("zero_l1", "l1", Adam(), 0.025),
        ("own", "l2", ADAM, 0.005),
    ],
)
def test_gates_and_the_zero_one_term_are_the_authors(
    golden: dict[str, Tensor], run: str, norm: str, optimizer: Adam, rate: float
) -> None:
    supernet = build(golden, zero=run.startswith("zero"))
    weights = torch.optim.SGD(supernet.weights.values(), rate, momentum=0.9, weight_decay=3e-4)
    alphas = optimizer.first(list(supernet.alphas.values()))
    gradients: list[dict[str, Tensor]] = []
    alphas.register_step_pre_hook(
        lambda *_: gradients.append({cell: table(supernet, cell, gradient=True) for cell in CELLS})
    )
    regularizer = ZeroOne(norm=norm)
    for s in range(3):
        report = recorded_step(supernet, golden, s, weights, alphas, regularizers=(regularizer,), grad_clip=5.0)
        for cell in CELLS:
            expected = golden[f"{run}/alpha_grad/{s}/alphas_{cell}"]
            assert (gradients[s][cell] - expected).abs().max() < 1e-8 * expected.abs().max()
            assert (table(supernet, cell) - golden[f"{run}/alphas/{s}/alphas_{cell}"]).abs().max() < 1e-9
        term = report.regularizers["ZeroOne"]
        assert abs(float(term) - 10.0 * float(golden[f"{run}/regularizer"][s])) < 1e-9
        assert abs(float(report.valid_loss) - float(golden[f"{run}/valid_ce"][s])) < 1e-9
        assert abs(float(report.train_loss) - float(golden[f"{run}/train_loss"][s])) < 1e-9
        assert abs(float(report.weights_gradient_norm) - float(golden[f"{run}/grad_norm"][s])) < 1e-9


@pytest.mark.parametrize("start", ["random", "zero"])
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_the_zero_one_term_alone_is_the_authors(golden: dict[str, Tensor], start: str, norm: str) -> None:
    supernet = build(golden, zero=start == "zero")
    rows, meanings = supernet.open_rows()
    value = ZeroOne(norm=norm).value(rows, meanings, supernet.relaxation)
    assert abs(float(value.detach()) - float(golden[f"zero_one/{start}_{norm}/value"])) < 1e-12
    value.backward()
    for cell in CELLS:
        expected = golden[f"zero_one/{start}_{norm}/grad/alphas_{cell}"]
        assert (table(supernet, cell, gradient=True) - expected).abs().max() < 1e-12
