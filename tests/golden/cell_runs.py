"""The authors' three steps in the space of DARTS, for methods whose cells differ from DARTS' own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from recorded_steps import recorded_step
from safetensors.torch import load_file
from torch import Tensor

import archgrad as ag
from archgrad.methods import Method
from archgrad.schedules import Progress

CELLS = ("normal", "reduce")
Golden = dict[str, Tensor]


def read(shared_dir: Path, name: str) -> Golden:
    values = load_file(shared_dir / "golden" / "methods" / f"{name}.safetensors")
    return {key: value.double() if value.is_floating_point() else value for key, value in values.items()}


def load(supernet: ag.Supernet, golden: Mapping[str, Tensor], own_name: Callable[[str], str]) -> None:
    """Give a supernet the weights and alphas that a run starts from."""
    given = {own_name(key.removeprefix("state/")): v for key, v in golden.items() if key.startswith("state/")}
    assert given.keys() == supernet.weights.keys()
    with torch.no_grad():
        for name, weight in supernet.weights.items():
            weight.copy_(given[name])
    set_alphas(supernet, {key: v for key, v in golden.items() if key.startswith("alphas_init/")})


def set_alphas(supernet: ag.Supernet, tables: Mapping[str, Tensor]) -> None:
    """Copy tables called .../alphas_normal and .../betas_normal."""
    with torch.no_grad():
        for key, table in tables.items():
            kind, cell = key.rpartition("/")[2].split("_")
            if kind == "alphas":
                for alpha, row in zip(rows_of(supernet, cell), table, strict=True):
                    alpha.copy_(row)
            else:
                for alpha, part in zip(edge_rows_of(supernet, cell), table.split([2, 3, 4, 5]), strict=True):
                    alpha.copy_(part)


def rows_of(supernet: ag.Supernet, cell: str) -> list[torch.nn.Parameter]:
    return [supernet.alphas[label] for label in supernet.rows if label.startswith(f"{cell}/")]


def edge_rows_of(supernet: ag.Supernet, cell: str) -> list[torch.nn.Parameter]:
    return [supernet.alphas[node] for node in supernet.nodes if node.startswith(f"{cell}/")]


def tables(supernet: ag.Supernet, *, gradient: bool = False) -> Golden:
    """The alphas, or their gradients, by the authors' names of their tables."""

    def values(rows: list[torch.nn.Parameter]) -> list[Tensor]:
        found = [row.grad if gradient else row.detach() for row in rows]
        return [value.clone() for value in found if value is not None]

    found = {f"alphas_{cell}": torch.stack(values(rows_of(supernet, cell))) for cell in CELLS}
    if supernet.nodes:
        found |= {f"betas_{cell}": torch.cat(values(edge_rows_of(supernet, cell))) for cell in CELLS}
    return found


def assert_three_steps(
    supernet: ag.Supernet, golden: Mapping[str, Tensor], method: Method, own_name: Callable[[str], str]
) -> None:
    """Take the steps of the group "run", and compare all that it recorded."""
    supernet.train()
    weights = torch.optim.SGD(supernet.weights.values(), 0.025, momentum=0.9, weight_decay=3e-4)
    alphas = method.alphas_optimizer.first(list(supernet.alphas.values()))
    gradients: list[Golden] = []
    alphas.register_step_pre_hook(lambda *_: gradients.append(tables(supernet, gradient=True)))
    for s in range(3):
        report = recorded_step(supernet, golden, s, weights, alphas, grad_clip=5.0, progress=Progress(0, 1))
        now = tables(supernet)
        assert {f"run/alphas/{s}/{name}" for name in now} == {k for k in golden if k.startswith(f"run/alphas/{s}/")}
        for name, value in now.items():
            expected = golden[f"run/alpha_grad/{s}/{name}"]
            assert (gradients[s][name] - expected).abs().max() < 1e-8 * expected.abs().max()
            assert (value - golden[f"run/alphas/{s}/{name}"]).abs().max() < 1e-9
        assert (report.train_outputs - golden[f"run/train_logits/{s}"]).abs().max() < 1e-9
        assert abs(report.train_loss - float(golden["run/train_loss"][s])) < 1e-9
        assert abs(float(report.valid_loss or 0.0) - float(golden["run/valid_loss"][s])) < 1e-9
        assert abs(report.weights_gradient_norm - float(golden["run/grad_norm"][s])) < 1e-9
    names = sorted(key.removeprefix("state/") for key in golden if key.startswith("state/"))
    for name, expected in zip(names, golden["run/checksums"], strict=True):
        x = supernet.weights[own_name(name)].detach().flatten()
        waves = torch.cos(0.1 * torch.arange(len(x), dtype=torch.float64))
        assert (torch.stack([x.norm(), x.sum(), (x * waves).sum()]) - expected).abs().max() < 1e-9, name
    supernet.eval()
    assert (supernet(golden["x_valid"][0]) - golden["run/final_eval_logits"]).abs().max() < 1e-9
