"""Three steps of a search in the space of NAS-Bench-201 against authors' numbers, which lie in the repository."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import archgrad as ag

PATH = Path(__file__).parent / "data" / "betadarts_nb201_c4_n1.safetensors"
EDGES = ("1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2")


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    # What is stored in half precision is exact there.
    return {name: value.double() if value.is_floating_point() else value for name, value in load_file(PATH).items()}


def metadata() -> dict[str, Any]:
    with safe_open(PATH, "pt") as file:
        return dict(json.loads(file.metadata()["meta"]))


def own_name(name: str) -> str:
    """A weight's name here, from the authors'."""
    name = re.sub(
        r"cells\.(\d+)\.edges\.(\d<-\d)\.(\d+)\.",
        lambda m: f"blocks.{m[1]}.graph.edges.{EDGES.index(m[2])}.candidates.{m[3]}.",
        name,
    )
    for theirs, ours in ((r"^cells\.", "blocks."), (r"\.downsample\.", ".shortcut."), (r"^lastact\.", "last.")):
        name = re.sub(theirs, ours, name)
    return name


def build(golden: dict[str, Tensor]) -> ag.Supernet:
    supernet = ag.Supernet(ag.spaces.nasbench201(4, 1, 10).double())
    given = {own_name(k.removeprefix("state/")): v for k, v in golden.items() if k.startswith("state/")}
    assert set(given) == set(supernet.weights)
    with torch.no_grad():
        for name, weight in supernet.weights.items():
            weight.copy_(given[name])
        for alpha, row in zip(supernet.alphas.values(), golden["alphas_init/arch_parameters"], strict=True):
            alpha.copy_(row)
    return supernet.train()


def rows(of: dict[str, Any]) -> Tensor:
    return torch.stack([value.detach() for value in of.values()])


def checksum(x: Tensor) -> Tensor:
    flat = x.detach().flatten()
    return torch.stack(
        [flat.norm(), flat.sum(), (flat * torch.cos(0.1 * torch.arange(len(flat), dtype=flat.dtype))).sum()]
    )


def test_three_steps_of_a_search_are_the_authors(golden: dict[str, Tensor]) -> None:
    supernet, options = build(golden), metadata()["run"]
    weights = torch.optim.SGD(supernet.weights.values(), 0.025, momentum=0.9, weight_decay=3e-4)
    alphas = torch.optim.Adam(supernet.alphas.values(), 3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    sgd = {"optimizer": "SGD", "lr": 0.025, "momentum": 0.9, "weight_decay": 3e-4, "grad_clip": 5.0}
    adam = {"optimizer": "Adam", "lr": 3e-4, "betas": [0.5, 0.999], "eps": 1e-8, "weight_decay": 1e-3}
    assert (options["weights"], options["alphas"]) == (sgd, adam)
    gradients: list[Tensor] = []
    alphas.register_step_pre_hook(
        lambda *_: gradients.append(rows({label: alpha.grad for label, alpha in supernet.alphas.items()}))
    )
    entropies: list[float] = []
    for s in range(3):
        factor = golden["run/lambda"][s]

        def loss(outputs: Tensor, targets: Tensor, factor: Tensor = factor) -> Tensor:
            # Beta-DARTS adds lambda times the mean over edges of logsumexp(alpha); weights have no gradient of it.
            value = F.cross_entropy(outputs, targets)
            entropies.append(value.item())
            return value + factor * torch.stack(list(supernet.alphas.values())).logsumexp(1).mean()

        report = ag.search_step(
            supernet,
            (golden["x_train"][s], golden["y_train"][s]),
            (golden["x_valid"][s], golden["y_valid"][s]),
            step=ag.bilevel.FirstOrder(),
            weights_optimizer=weights,
            alphas_optimizer=alphas,
            loss=loss,
            grad_clip=5.0,
        )
        expected = golden[f"run/alpha_grad/{s}/arch_parameters"]
        assert (gradients[s] - expected).abs().max() < 1e-9 * expected.abs().max()
        assert report.valid_loss == pytest.approx(float(golden["run/valid_loss"][s]), abs=1e-10)
        assert entropies[2 * s] == pytest.approx(float(golden["run/valid_ce"][s]), abs=1e-10)
        assert entropies[2 * s + 1] == pytest.approx(float(golden["run/train_loss"][s]), abs=1e-10)
        assert report.weights_gradient_norm == pytest.approx(float(golden["run/grad_norm_weights"][s]), abs=1e-9)
        assert (report.train_outputs - golden[f"run/train_logits/{s}"]).abs().max() < 1e-9
        assert (rows(supernet.alphas) - golden[f"run/alphas/{s}/arch_parameters"]).abs().max() < 1e-10
        assert chosen(supernet) == metadata()["run_genotypes"][s]

    names = sorted(name.removeprefix("state/") for name in golden if name.startswith("state/"))
    for name, expected in zip(names, golden["run/checksums"], strict=True):
        assert (checksum(supernet.weights[own_name(name)]) - expected).abs().max() < 1e-9, name
    for name, expected in golden.items():
        if name.startswith("run/weights/"):
            ours = supernet.weights[own_name(name.removeprefix("run/weights/"))]
            assert (ours - expected).abs().max() < 1e-10, name
    supernet.eval()  # by the statistics of six passes in training mode
    assert (supernet(golden["x_valid"][0]) - golden["run/final_eval_logits"]).abs().max() < 1e-9


def chosen(supernet: ag.Supernet) -> str:
    """The architecture as NAS-Bench-201 writes it."""
    nodes = ag.discretize(supernet).choices["cell"]
    return "+".join("|" + "".join(f"{name}~{source}|" for name, source in nodes[node]) for node in ("1", "2", "3"))


def test_the_file_is_small_and_says_where_it_comes_from() -> None:
    assert PATH.stat().st_size < 300_000
    assert metadata()["repository"] == "Sunshine-Ye/Beta-DARTS"
    assert metadata()["commit"] in (PATH.parent / "README.md").read_text(encoding="utf-8")
