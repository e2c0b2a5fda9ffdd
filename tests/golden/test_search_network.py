"""The search network, its gradients and its steps against the authors' numbers, in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import archgrad as ag

pytestmark = pytest.mark.shared
CELLS = ("normal", "reduce")


@pytest.fixture(scope="module")
def path(shared_dir: Path) -> Path:
    return shared_dir / "golden" / "darts_cnn_search_c4_l5.safetensors"


@pytest.fixture(scope="module")
def golden(path: Path) -> dict[str, Tensor]:
    return load_file(path)


def group(golden: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in golden.items() if name.startswith(prefix)}


def build(golden: dict[str, Tensor]) -> ag.Supernet:
    return ag.official.supernet_from_state_dict(
        group(golden, "state/"),
        golden["alphas_normal"],
        golden["alphas_reduce"],
        channels=4,
        cells=5,
        num_classes=10,
    )


def official_names(supernet: ag.Supernet, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put tensors by weight name into the authors' names, by writing them through a state dict."""
    import copy

    other = copy.deepcopy(supernet)
    with torch.no_grad():
        for name, weight in other.weights.items():
            weight.copy_(tensors[name])
    state, _, _ = ag.official.to_official(other)
    return state


def sgd(supernet: ag.Supernet, golden: dict[str, Tensor]) -> torch.optim.SGD:
    optimizer = torch.optim.SGD(supernet.weights.values(), 0.025, momentum=0.9, weight_decay=3e-4)
    ours = {name: name for name in supernet.weights}
    momentum = group(golden, "momentum/")
    renamed = {name.replace(".graph.edges.", "._ops.").replace(".candidates.", "._ops."): name for name in ours}
    for name, buffer in momentum.items():
        optimizer.state[supernet.weights[renamed[name]]]["momentum_buffer"] = buffer.clone()
    assert len(momentum) == len(ours)
    return optimizer


def batches(golden: dict[str, Tensor]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return (golden["x_train"], golden["y_train"]), (golden["x_valid"], golden["y_valid"])


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def table(rows: dict[str, Tensor], label: str) -> Tensor:
    return torch.stack([row for name, row in rows.items() if name.startswith(f"{label}/")])


def test_logits_and_losses_are_the_authors(golden: dict[str, Tensor]) -> None:
    supernet = build(golden)
    loss = nn.CrossEntropyLoss()
    supernet.eval()
    assert (supernet(golden["x_valid"]) - golden["logits_eval_mode"]).abs().max() < 1e-9
    supernet.train()
    logits = supernet(golden["x_train"])
    assert (logits - golden["logits_train_mode"]).abs().max() < 1e-9
    assert (loss(logits, golden["y_train"]) - golden["loss_train"]).abs() < 1e-9
    assert (loss(supernet(golden["x_valid"]), golden["y_valid"]) - golden["loss_valid"]).abs() < 1e-9


def test_weight_gradients_are_the_authors(golden: dict[str, Tensor]) -> None:
    supernet = build(golden).train()
    loss = nn.functional.cross_entropy(supernet(golden["x_train"]), golden["y_train"])
    weights = supernet.weights
    gradients = torch.autograd.grad(loss, list(weights.values()))
    state = official_names(supernet, dict(zip(weights, gradients, strict=True)))
    expected = group(golden, "grad_train/")
    assert len(expected) == len(weights)
    for name, value in expected.items():
        assert (state[name] - value).abs().max() < 1e-9, name


@pytest.mark.parametrize(
    ("step", "prefix", "loss_name"),
    [
        (ag.bilevel.FirstOrder(), "first_order", "loss_valid"),
        (ag.bilevel.Unrolled(hvp="finite-difference"), "second_order_fd", "unrolled_loss_valid"),
        (ag.bilevel.Unrolled(hvp="exact"), "second_order_exact", "unrolled_loss_valid"),
    ],
)
def test_alpha_gradients_are_the_authors(
    golden: dict[str, Tensor], step: ag.bilevel.BilevelStep, prefix: str, loss_name: str
) -> None:
    supernet = build(golden).train()
    optimizer = sgd(supernet, golden)
    train_batch, valid_batch = batches(golden)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    found = step.alphas_gradient(
        supernet, train_batch, valid_batch, loss=nn.functional.cross_entropy, weights_optimizer=optimizer
    )
    for label in CELLS:
        expected = golden[f"{prefix}/alphas_{label}"]
        assert relative_error(table(found.gradients, label), expected) < 1e-8
    assert (found.valid_loss - golden[loss_name]).abs() < 1e-9
    if prefix != "first_order":  # looking ahead leaves weights, alphas and statistics bit for bit as they were
        after = supernet.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("step", "prefix"),
    [(ag.bilevel.FirstOrder(), "step_first"), (ag.bilevel.Unrolled(), "step_second")],
)
def test_one_whole_step_is_the_authors(golden: dict[str, Tensor], step: ag.bilevel.BilevelStep, prefix: str) -> None:
    supernet = build(golden).train()
    optimizer = sgd(supernet, golden)
    alphas = torch.optim.Adam(supernet.alphas.values(), 3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    report = ag.search_step(
        supernet, *batches(golden), step=step, weights_optimizer=optimizer, alphas_optimizer=alphas, grad_clip=5.0
    )
    state, normal, reduce = ag.official.to_official(supernet)
    assert report.train_loss == pytest.approx(float(golden[f"{prefix}/loss"]), abs=1e-9)
    assert report.weights_gradient_norm == pytest.approx(float(golden[f"{prefix}/grad_norm"]), abs=1e-9)
    assert (normal - golden[f"{prefix}/alphas_normal"]).abs().max() < 1e-9
    assert (reduce - golden[f"{prefix}/alphas_reduce"]).abs().max() < 1e-9
    names = set(build(golden).weights)
    expected = group(golden, f"{prefix}/state/")
    assert len(expected) >= len(names)
    for name, value in expected.items():
        if "running_" not in name and "num_batches" not in name:
            assert (state[name] - value).abs().max() < 1e-9, name


def test_the_stored_alphas_derive_the_authors_genotype(golden: dict[str, Tensor], path: Path) -> None:
    import json

    with safe_open(path, "pt") as file:
        expected = json.loads(file.metadata()["genotype"])
    architecture = ag.discretize(build(golden))
    for label in CELLS:
        nodes = architecture.choices[label]
        pairs = [list(pair) for node in ("2", "3", "4", "5") for pair in nodes[node]]
        assert pairs == [list(pair) for pair in expected[label]]


def test_official_weights_go_round(golden: dict[str, Tensor]) -> None:
    state, normal, reduce = ag.official.to_official(build(golden))
    expected = group(golden, "state/")
    assert set(state) == set(expected)
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert torch.equal(normal, golden["alphas_normal"])
    assert torch.equal(reduce, golden["alphas_reduce"])
