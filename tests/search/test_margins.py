"""A search says how clearly it decided, and that its alphas hardly moved where they did not."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import archgrad as ag
from archgrad.margins import UNDECIDED, margins_of, row_entropy, undecided_note


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = ag.LayerChoice({"linear": nn.Linear(4, 4), "zero": nn.Threshold(1e9, 0.0)}, label="layer")
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x))


def searched(alphas_learning_rate: float, run_dir: Path) -> ag.SearchResult:
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    return ag.search(
        Two(),
        (x, (x[:, 0] > 0).long()),
        epochs=10,
        batch_size=8,
        alphas_learning_rate=alphas_learning_rate,
        run_dir=run_dir,
        device="cpu",
    )


def test_alphas_that_hardly_moved_are_said_in_terminal_result_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = searched(1e-4, tmp_path / "slow")
    printed = " ".join("".join(capsys.readouterr()).split())
    assert "The alphas hardly moved" in printed
    assert "layer 0.0" in printed  # the margin
    assert "the alphas hardly moved" in repr(result)
    assert 0 <= result.margins["layer"] < 0.01
    assert "The alphas hardly moved" in ag.write_report([tmp_path / "slow"]).read_text(encoding="utf-8")

    result = searched(0.1, tmp_path / "fast")
    assert "alphas hardly moved" not in "".join(capsys.readouterr()) + repr(result)
    assert result.margins["layer"] > 0.1
    assert "The alphas hardly moved" not in ag.write_report([tmp_path / "fast"]).read_text(encoding="utf-8")


def test_entropy_and_the_spread_that_the_rule_names() -> None:
    assert row_entropy([0.25] * 4, n_chosen=1) == pytest.approx(1)
    assert row_entropy([1.0, 0.0], n_chosen=1) == 0
    assert row_entropy([1.0, 1.0], n_chosen=2) == pytest.approx(1)
    spread = 0.2  # of eight logits
    values = [math.exp(spread * sign) for sign in (1, -1) * 4]
    assert row_entropy([v / sum(values) for v in values], n_chosen=1) == pytest.approx(UNDECIDED, abs=1e-3)


def test_margins_of_every_kind_of_decision() -> None:
    architecture = ag.Architecture(
        {"layer": "b", "inputs": [0, 2], "cell": {"2": [["conv", 0], ["skip", 1]]}},
        provenance={
            "probabilities": {
                "layer": {"a": 0.3, "b": 0.5, "c": 0.2},
                "inputs": [0.9, 0.4, 0.7],
                "cell/0->2": {"none": 0.6, "conv": 0.3, "skip": 0.1},  # a cell keeps no "none"
                "cell/1->2": {"none": 0.1, "conv": 0.5, "skip": 0.4},  # another rule than the likeliest decided
                "left/out": {"a": 0.5, "b": 0.5},
            }
        },
    )
    margins = margins_of(architecture)
    assert list(margins.values()) == sorted(margins.values())
    expected = {"cell/1->2": -0.1, "cell/0->2": 0.2, "layer": 0.2, "inputs": 0.3}
    assert margins == pytest.approx(expected)
    assert undecided_note(architecture) is None


@pytest.mark.parametrize("rows", [None, [], {"layer": None}, {"layer": {"a": "x", "b": 2}}, {"layer": {"b": True}}])
def test_an_architecture_without_usable_probabilities_has_no_margins(rows: object) -> None:
    architecture = ag.Architecture({"layer": "b"}, provenance={"probabilities": rows})
    assert margins_of(architecture) == {}
    assert undecided_note(architecture) is None
