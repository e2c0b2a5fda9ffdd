"""The retraining network against the authors' numbers, and all parameter counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import archgrad as ag

pytestmark = pytest.mark.shared


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_logits_of_the_derived_network_are_the_authors(shared_dir: Path) -> None:
    golden = load_file(shared_dir / "golden" / "darts_cnn_derived_v2_c4_l5.safetensors")
    state = {name.removeprefix("state/"): value for name, value in golden.items() if name.startswith("state/")}
    network = ag.official.network_from_state_dict(
        state, ag.architectures.DARTS_V2, channels=4, cells=5, num_classes=10, auxiliary=True
    )
    network.eval()
    assert (network(golden["x"]) - golden["logits_eval"]).abs().max() < 1e-9
    network.train()
    logits, auxiliary = network(golden["x"])
    assert (logits - golden["logits"]).abs().max() < 1e-9
    assert (auxiliary - golden["logits_aux"]).abs().max() < 1e-9
    assert count(network) == 422_444
    head = network.auxiliary_head
    assert isinstance(head, torch.nn.Module)
    assert count(network) - count(head) == 11_554


def rows() -> list[int]:
    return list(range(15))


@pytest.mark.parametrize("row", rows())
def test_parameter_counts_are_the_authors(shared_dir: Path, row: int) -> None:
    table: list[dict[str, Any]] = json.loads((shared_dir / "golden" / "parameter_counts.json").read_text())
    assert len(table) == len(rows())
    entry = table[row]
    if entry["net"] == "search":
        assert count(ag.spaces.darts_cifar(entry["C"], entry["layers"], 10)) == entry["params"]
        return
    space, classes = (ag.spaces.darts_cifar, 10) if entry["net"] == "cifar" else (ag.spaces.darts_imagenet, 1000)
    architecture = getattr(ag.architectures, entry["arch"])
    for auxiliary, key in ((False, "params"), (True, "params_with_auxiliary")):
        template = space(entry["C"], entry["layers"], classes, auxiliary=auxiliary, stage="retrain")
        assert count(ag.derive(template, architecture)) == entry[key]
