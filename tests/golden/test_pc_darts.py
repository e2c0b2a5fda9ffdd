"""PC-DARTS' edge weights and partial channels against the authors' numbers, in float64."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from cell_runs import CELLS, Golden, assert_three_steps, load, read, set_alphas
from safetensors import safe_open

import archgrad as ag
from archgrad.methods import Method
from archgrad.optimizers import Adam, ExponentiatedGradient
from archgrad.partial_channels import interleaved
from archgrad.relaxation import Softmax

pytestmark = pytest.mark.shared
NAME = "pcdarts_c8_l3_n10"


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> Golden:
    return read(shared_dir, NAME)


@pytest.fixture(scope="module")
def meta(shared_dir: Path) -> dict:
    import json

    with safe_open(shared_dir / "golden" / "methods" / f"{NAME}.safetensors", "pt") as file:
        return json.loads(file.metadata()["meta"])


def own_name(name: str) -> str:
    """A weight's name here, from the authors'."""
    return re.sub(r"\._ops\.(\d+)\._ops\.", r".graph.edges.\1.candidates.", name)


def supernet_of(golden: Golden, *, fast: bool = True) -> ag.Supernet:
    space = ag.spaces.darts_cifar(8, 3, 10, partial_channels=4).double()
    supernet = ag.Supernet(space, edge_weights=Softmax(), fast=fast)
    load(supernet, golden, own_name)
    return supernet


def decided(supernet: ag.Supernet) -> dict[str, list[list[object]]]:
    choices = ag.discretize(supernet).choices
    return {cell: [[*edge] for node in ("2", "3", "4", "5") for edge in choices[cell][node]] for cell in CELLS}


@pytest.mark.parametrize("fast", [True, False])
def test_three_steps_are_the_authors(golden: Golden, meta: dict, fast: bool) -> None:
    supernet = supernet_of(golden, fast=fast)
    assert_three_steps(supernet, golden, Method(alphas_optimizer=Adam(learning_rate=3e-4)), own_name)
    assert decided(supernet) == {cell: meta["run_genotypes"][-1][cell] for cell in CELLS}


@pytest.mark.parametrize("i", range(4))
def test_edges_are_ranked_as_the_authors_do(golden: Golden, meta: dict, i: int) -> None:
    supernet = supernet_of(golden)
    set_alphas(supernet, {key: value for key, value in golden.items() if key.startswith(f"derive/{i}/")})
    assert decided(supernet) == {cell: meta["derive_genotypes"][i][cell] for cell in CELLS}


@pytest.mark.parametrize("case", ["k4_s1", "k4_s2", "k2_s1", "k2_s2"])
def test_a_mixed_edge_alone_is_the_authors(golden: Golden, case: str) -> None:
    parts = int(case[1])
    channels, number = (8, 0) if case.endswith("s1") else (4, 1)  # the second cell reduces, and has twice the channels
    space = ag.spaces.darts_cifar(channels, 3, 10, nodes=1, partial_channels=parts).double()
    cell = [module for module in space.modules() if isinstance(module, ag.Cell)][number]
    supernet = ag.Supernet(cell, fast=False).train()
    given = {key.split("/", 2)[2]: v for key, v in golden.items() if key.startswith(f"mixed_state/{case}/")}
    group = {key.removeprefix(f"mixed/{case}/"): v for key, v in golden.items() if key.startswith(f"mixed/{case}/")}
    alpha, other = (supernet.alphas[label] for label in supernet.rows)
    with torch.no_grad():
        for name, weight in supernet.weights.items():
            weight.copy_(given[name.split(".", 2)[2].replace("candidates.", "_ops.")])
        alpha.copy_(group["logits"])
        other.copy_(torch.tensor([1e4] + [0.0] * 7))  # the other edge gives "none", and what passes by it is 0
    x = group["x"].requires_grad_()
    y = supernet([x, torch.zeros_like(x)])
    assert (y - group["out"]).abs().max() < 1e-9
    names = [key.removeprefix("grad_state/") for key in group if key.startswith("grad_state/")]
    weights = [supernet.weights[f"edges.0.{name.replace('_ops.', 'candidates.')}"] for name in names]
    gradients = torch.autograd.grad((y * group["grad_out"]).sum(), [x, alpha, *weights])
    expected = [group["grad_x"], group["grad_logits"], *(group[f"grad_state/{name}"] for name in names)]
    for found, wanted in zip(gradients, expected, strict=True):
        assert (found - wanted).abs().max() < 1e-8 * wanted.abs().max()


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_shuffle_is_the_authors(golden: Golden, parts: int, memory_format: torch.memory_format) -> None:
    x = torch.arange(8.0).reshape(1, 8, 1, 1).expand(2, 8, 3, 3).contiguous(memory_format=memory_format)
    first = x[:, : 8 // parts].contiguous(memory_format=memory_format)
    shuffled = interleaved(first, x[:, 8 // parts :])
    assert shuffled.is_contiguous(memory_format=memory_format)
    assert torch.equal(shuffled, x[:, golden[f"shuffle/c8_k{parts}"]])


def test_chained_updates_of_edges_are_gaeas_which_have_no_floor(shared_dir: Path) -> None:
    golden = read(shared_dir, "gaea_chains")
    sizes = [2, 3, 4, 5]
    rows = [torch.nn.Parameter(part) for part in golden["edarts_edges_in/edges"].split(sizes)]
    optimizer = ExponentiatedGradient(floor=1e-300).first(rows)
    gradients, outputs = golden["edarts_edges_in/edge_grads"], golden["edarts_edges_out/edges"]
    for gradient, expected in zip(gradients, outputs, strict=True):
        for row, part in zip(rows, gradient.split(sizes), strict=True):
            row.grad = part.clone()
        optimizer.step()
        assert (torch.cat([row.detach() for row in rows]) - expected).abs().max() < 1e-9
