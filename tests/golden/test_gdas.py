"""GDAS against the numbers of its authors' code: the sample alone, and three steps, weights first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_methods import EDGES, assert_the_authors, given, searched
from torch import Tensor

from archgrad.choices import AlphaRow
from archgrad.optimizers import Adam
from archgrad.relaxation import Gumbel

pytestmark = pytest.mark.shared
ROW = AlphaRow(EDGES[:5])


def read(shared_dir: Path, name: str) -> dict[str, Tensor]:
    values = load_file(shared_dir / "golden" / "methods" / f"{name}.safetensors")
    return {key: value.double() if value.is_floating_point() else value for key, value in values.items()}


@pytest.mark.parametrize("t", range(3))
def test_the_sample_and_its_gradients_are_the_authors(shared_dir: Path, t: int) -> None:
    golden = read(shared_dir, "gdas_sample")
    draws = golden["gumbel"].flatten(0, 1)
    for i, alpha in enumerate(golden["alphas_in"].flatten(0, 1)):
        expected = {key: golden[f"tau{t}/{key}"].flatten(0, 1)[i] for key in ("index", "hard", "alpha_grad")}
        cotangent = golden["cotangent"].flatten(0, 1)[i]
        alpha.requires_grad_()
        mixture = Gumbel().mix(alpha, ROW, {"noise": draws[i], "temperature": golden["tau"][t]})
        assert mixture.active == (int(expected["index"]),)
        torch.testing.assert_close(mixture.weights, expected["hard"], rtol=0.0, atol=1e-15)
        alone = torch.zeros(5, dtype=torch.float64)
        alone[mixture.active[0]] = cotangent[mixture.active[0]]
        of_chosen = golden[f"tau{t}/alpha_grad_chosen_only"].flatten(0, 1)[i]
        for g, gradient in ((cotangent, expected["alpha_grad"]), (alone, of_chosen)):
            (found,) = torch.autograd.grad(mixture.weights @ g, alpha, retain_graph=True)
            torch.testing.assert_close(found, gradient, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize(
    ("tau", "group", "relaxation", "grad_clip"),
    [
        (10.0, "", Gumbel(), 5.0),
        (0.5, "", Gumbel(), 5.0),
        (10.0, "clip1_weights/", Gumbel(), 1.0),
        (0.5, "no_constant/", Gumbel(constant_gradient=False), 5.0),
    ],
)
def test_three_steps_are_the_authors(
    shared_dir: Path, tau: float, group: str, relaxation: Gumbel, grad_clip: float
) -> None:
    golden = read(shared_dir, f"gdas_tau{tau:g}_nb201_c4_n1")
    temperature = torch.tensor(tau, dtype=torch.float64)
    passes = [golden[f"draws/gumbel_{which}"][s] for s in range(3) for which in ("train", "valid")]
    draws: list[dict[str, Any]] = [{"noise": row, "temperature": temperature} for table in passes for row in table]
    found = searched(
        golden,
        table="alphas",
        relaxation=given(relaxation, draws),
        optimizer=Adam(),
        sgd={"nesterov": True, "weight_decay": 5e-4},
        grad_clip=grad_clip,
        weights_first=True,
    )
    golden = {**golden, f"{group}grad_norm": golden[f"{group}grad_norm_weights"]}  # the authors clip the alphas' along
    assert_the_authors(found, golden, group, "alphas")
