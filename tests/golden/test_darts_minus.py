"""The auxiliary skip connection of DARTS- against the authors' numbers, in float64."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cell_runs import Golden, assert_three_steps, load, read

import archgrad as ag
from archgrad.always_on import AuxiliarySkip
from archgrad.methods import darts_minus
from archgrad.schedules import Cosine, Linear, Progress

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> Golden:
    return read(shared_dir, "dartsminus_c4_l3_n10")


def own_name(name: str) -> str:
    """A weight's name here, from the authors'."""
    name = re.sub(r"\._ops\.(\d+)\._ops\.", r".graph.edges.\1.candidates.", name)
    return re.sub(r"\._ops\.(\d+)\.auxiliary_op\.", r".graph.edges.\1.candidates.8.", name)


@pytest.mark.parametrize("fast", [True, False])
def test_three_steps_are_the_authors(golden: Golden, fast: bool) -> None:
    method = replace(darts_minus, always_on=AuxiliarySkip(weight=0.7))
    assert golden["run/beta_t"].tolist() == [0.7] * 3
    supernet = ag.Supernet(ag.spaces.darts_cifar(4, 3, 10).double(), always_on=method.always_on, fast=fast)
    load(supernet, golden, own_name)
    assert_three_steps(supernet, golden, method, own_name)
    derived = ag.derive(ag.spaces.darts_cifar(4, 3, 10), ag.discretize(supernet))
    assert not any("candidates" in name for name, _ in derived.named_parameters())


@pytest.mark.parametrize("case", ["s1", "s2"])
def test_a_mixed_edge_alone_is_the_authors(golden: Golden, case: str) -> None:
    channels, cell = (4, 0) if case == "s1" else (2, 1)  # the second cell reduces, and has twice the channels
    cells = [m for m in ag.spaces.darts_cifar(channels, 3, 10).double().modules() if isinstance(m, ag.Cell)]
    supernet = ag.Supernet(cells[cell].edges[0], always_on=AuxiliarySkip(weight=0.7))
    given = {key.split("/", 2)[2]: v for key, v in golden.items() if key.startswith(f"mixed_state/{case}/")}
    own = {re.sub(r"auxiliary_op", "_ops.8", name): value for name, value in given.items()}
    with torch.no_grad():
        for name, weight in supernet.weights.items():
            weight.copy_(own.pop(name.replace("candidates.", "_ops.")))
    assert not own
    group = {key.removeprefix(f"mixed/{case}/"): v for key, v in golden.items() if key.startswith(f"mixed/{case}/")}
    alpha = supernet.alphas["root"]
    with torch.no_grad():
        alpha.copy_(group["logits"])
    x = group["x"].requires_grad_()
    y = supernet.train()(x)
    assert (y - group["out"]).abs().max() < 1e-9
    names = [key.removeprefix("grad_state/") for key in group if key.startswith("grad_state/")]
    weights = [supernet.weights[name.replace("auxiliary_op", "candidates.8")] for name in names]
    gradients = torch.autograd.grad((y * group["grad_out"]).sum(), [x, alpha, *weights])
    expected = [group["grad_x"], group["grad_logits"], *(group[f"grad_state/{name}"] for name in names)]
    for found, wanted in zip(gradients, expected, strict=True):
        assert (found - wanted).abs().max() < 1e-8 * wanted.abs().max()


def test_the_schedules_are_the_authors(golden: Golden) -> None:
    assert isinstance(darts_minus.always_on, AuxiliarySkip)
    for name, schedule in (("linear", darts_minus.always_on.weight), ("cosine", Cosine(1.0, 0.0))):
        assert isinstance(schedule, Linear | Cosine)
        found = torch.tensor([schedule.value(Progress(epoch, 50)) for epoch in range(50)], dtype=torch.float64)
        assert (found - golden[f"schedule/{name}"][:50]).abs().max() < 1e-12
