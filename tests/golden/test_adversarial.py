"""The adversarial perturbation against the authors' numbers of SmoothDARTS, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recorded_steps import recorded_step
from safetensors.torch import load_file
from test_methods import assert_the_authors, searched, supernet_of
from torch import Tensor

import archgrad as ag
from archgrad.bilevel.probe import probe_of
from archgrad.optimizers import Adam
from archgrad.perturbations import Adversarial, attacked
from archgrad.relaxation import Softmax

pytestmark = pytest.mark.shared
TABLES = ("alphas_normal", "alphas_reduce")


def read(shared_dir: Path, name: str) -> dict[str, Tensor]:
    values = load_file(shared_dir / "golden" / "methods" / f"{name}.safetensors")
    return {key: value.double() if value.is_floating_point() else value for key, value in values.items()}


class Started(Adversarial):
    """The adversarial perturbation from starts that were drawn elsewhere; keeps what it saw."""

    def __init__(self, noise: Tensor, radius: float = 0.1, steps: int = 7) -> None:
        super().__init__(radius=radius, steps=steps)
        object.__setattr__(self, "starts", list(noise))
        object.__setattr__(self, "seen", [])

    def draw(self, mixtures: Any, rows: Any, progress: Any, generator: Any, probe: Any) -> Any:
        noise = {label: row.unsqueeze(0) for label, row in zip(mixtures, self.starts.pop(0), strict=True)}
        attack: dict[str, list[Tensor]] = {"path": [], "loss": [], "gradient": []}

        def watched(weights: Any) -> Any:
            loss, gradients = probe(weights)
            attack["path"].append(torch.cat(list(weights.values())))
            attack["loss"].append(loss)
            attack["gradient"].append(torch.cat(list(gradients.values())))
            return loss, gradients

        found = attacked(mixtures, noise, self.radius, self.steps, watched)
        self.seen.append({**{k: torch.stack(v) for k, v in attack.items()}, "end": torch.cat(list(found.values()))})
        return {label: {"slots": slots} for label, slots in found.items()}


def assert_the_attack(seen: dict[str, Tensor], golden: dict[str, Tensor], s: int, tables: tuple[str, ...]) -> None:
    steps = len(seen["loss"]) - 2
    joined = {key: torch.cat([golden[f"{key}/{s}/{t}"] for t in tables], -2) for key in ("attack_path", "attack_grad")}
    assert (seen["path"][: steps + 1] - joined["attack_path"]).abs().max() < 1e-9
    theirs = -joined["attack_grad"]  # they descend minus the loss
    assert (seen["gradient"][:steps] - theirs).abs().max() < 1e-9 * theirs.abs().max()
    losses = torch.cat([seen["loss"][-1:], seen["loss"][:-1]])
    assert (losses - golden[f"attack_loss/{s}"]).abs().max() < 1e-9
    end = torch.cat([golden[f"perturbed/{s}/{table}"] for table in tables])
    assert (seen["end"] - end).abs().max() < 1e-9


def test_three_steps_are_smooth_darts(shared_dir: Path) -> None:
    golden = read(shared_dir, "sdarts_adv_nb201_c4_n1")
    part = Started(golden["draws/noise/alphas"])
    found = searched(golden, table="alphas", relaxation=Softmax(), optimizer=Adam(), perturbation=part)
    for s, seen in enumerate(part.seen):
        assert_the_attack(seen, golden, s, ("alphas",))
    golden = {**golden, "grad_norm": golden["grad_norm_weights"]}  # the authors clip the alphas' gradient along
    assert_the_authors(found, golden, "", "alphas")


def test_three_steps_are_smooth_darts_on_darts_cells(shared_dir: Path) -> None:
    golden, given = read(shared_dir, "sdarts_adv_darts_c4_l3"), read(shared_dir, "darts_c4_l3_inputs")
    state = {key.removeprefix("state/"): value for key, value in given.items() if key.startswith("state/")}
    tables = [given[f"alphas_init/{table}"] for table in TABLES]
    supernet = ag.official.supernet_from_state_dict(state, *tables, channels=4, cells=3, num_classes=10).train()
    part = Started(torch.cat([golden[f"draws/noise/{table}"] for table in TABLES], 1))
    weights = torch.optim.SGD(supernet.weights.values(), 0.025, momentum=0.9, weight_decay=3e-4)
    alphas = Adam().first(list(supernet.alphas.values()))
    for s in range(3):
        report = recorded_step(supernet, given, s, weights, alphas, perturbation=part)
        assert_the_attack(part.seen[s], golden, s, TABLES)
        assert abs(report.train_loss - golden["train_loss"][s]) < 1e-9
        assert abs(report.valid_loss - golden["valid_loss"][s]) < 1e-9
        theirs = torch.cat([golden[f"alphas/{s}/{table}"] for table in TABLES])
        assert (torch.stack([a.detach() for a in supernet.alphas.values()]) - theirs).abs().max() < 1e-9


@pytest.mark.parametrize("case", range(4))
def test_single_attacks_are_the_authors(shared_dir: Path, case: int) -> None:
    golden, given = read(shared_dir, "sdarts_attack_nb201_c4_n1"), read(shared_dir, "sdarts_adv_nb201_c4_n1")
    supernet = supernet_of(given, "alphas", Softmax())
    draws = {key: golden[f"draws/{case}/{key}"] for key in ("noise", "epsilon", "steps")}
    part = Started(draws["noise"][None], float(draws["epsilon"]), int(draws["steps"]))
    probe = probe_of(supernet, (given["x_train"][0], given["y_train"][0]), F.cross_entropy, 1)
    with supernet.perturbed(part, probe), supernet.same_draw():
        pass
    (seen,) = part.seen
    losses = torch.cat([seen["loss"][-1:], seen["loss"][:-1]])
    assert (losses - golden[f"case{case}/loss"]).abs().max() < 1e-9
    assert (seen["end"] - golden[f"case{case}/perturbed"]).abs().max() < 1e-9
    reverted = bool((seen["end"] == seen["path"][-1]).all())
    assert reverted == bool(golden[f"case{case}/reverted"])
