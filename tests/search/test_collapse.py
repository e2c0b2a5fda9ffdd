"""What a search watches, and its warning when skip connections or "none" take over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import archgrad as ag
from archgrad import methods
from archgrad.choices import AlphaRow
from archgrad.methods import Method
from archgrad.runs import read_metrics
from archgrad.search.collapse import HELPFUL, collapse_warning, skip_share
from parts_of_methods import CellNetwork, images

NAMES = ("none", "skip_connect", "conv")
ROWS = {f"cell/{source}->2": AlphaRow(NAMES) for source in range(2)} | {
    f"cell/{source}->3": AlphaRow(NAMES) for source in range(3)
}


def warning(*row: float, **watched: tuple[float, float]) -> str | None:
    return collapse_warning(ag.Architecture({}), dict.fromkeys(ROWS, row), ROWS, watched)


def test_the_share_of_skips_is_the_mean_over_rows_that_have_one() -> None:
    rows = {"a": AlphaRow(NAMES), "b": AlphaRow(("skip", "identity", "conv")), "c": AlphaRow(("conv", "pool"))}
    shares = {"a": [0.2, 0.3, 0.5], "b": [0.25, 0.25, 0.5], "c": [0.5, 0.5]}
    assert skip_share(shares, rows) == pytest.approx((0.3 + 0.5) / 2)
    assert skip_share({"c": [0.5, 0.5]}, {"c": rows["c"]}) is None


@pytest.mark.parametrize(("row", "what"), [((0.6, 0.2, 0.2), "'none'"), ((0.2, 0.6, 0.2), "skip connections")])
def test_the_warning_says_what_takes_over_what_was_measured_and_what_helps(row: tuple[float, ...], what: str) -> None:
    said = warning(*row, layer_cosine=(0.9, 0.01))
    assert said is not None
    assert said.startswith(f"Warning: {what} ha")
    assert "on 5 of 5 edges. Measured: layer_cosine 0.01 (0.9 at first)." in said
    for name in HELPFUL[what]:
        assert isinstance(getattr(methods, name), Method)
        assert name.replace("_", "-") in said


def test_a_half_is_no_reason_to_warn_and_neither_is_a_skip_in_a_space_of_few_choices() -> None:
    assert warning(0.5, 0.5, 0.0) is None
    few = {"a": AlphaRow(NAMES)}
    assert collapse_warning(ag.Architecture({}), {"a": [0.1, 0.8, 0.1]}, few) is None


def test_a_candidate_called_none_outside_cells_may_be_anything() -> None:
    likely, unlikely = [0.9, 0.05, 0.05], [0.05, 0.05, 0.9]
    outside = {"extra": AlphaRow(NAMES), "more": AlphaRow(NAMES)}
    assert collapse_warning(ag.Architecture({}), dict.fromkeys(outside, likely), outside) is None
    beside = dict.fromkeys(outside, likely) | dict.fromkeys(ROWS, unlikely)
    assert collapse_warning(ag.Architecture({}), beside, outside | ROWS) is None


@pytest.mark.parametrize(
    ("method", "columns"),
    [
        ("lambda_darts", ["layer_cosine"]),
        ("oles", ["gradient_match", "frozen_operations"]),
        ("r_darts", ["hessian_eigenvalue"]),
        ("darts_plus", ["most_skips"]),
    ],
)
def test_what_parts_tell_is_in_metrics_and_in_the_warning(
    method: str, columns: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    torch.manual_seed(0)
    space = ag.Supernet(CellNetwork(), seed=0)
    for alpha in space.alphas.values():
        alpha.data[NAMES.index("none")] = 5.0
    ag.search(space, images(16), method=method, epochs=2, batch_size=4, cutout=0, device="cpu", run_dir=folder)
    rows = read_metrics(folder / "metrics.csv")
    for name in ["skip_share", *columns]:
        assert isinstance(rows[0][name], float | int)
    said = capsys.readouterr().err
    assert "Warning: 'none' has more than half of the probability" in said
    for name in ["skip_share", *columns]:
        assert f"{name} {rows[0][name]:.3g} (" in said
