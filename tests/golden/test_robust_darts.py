"""The Hessian of the validation loss and the rule of RobustDARTS against the authors' numbers, in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from test_methods import supernet_of
from torch import Tensor

import archgrad as ag
from archgrad.discretize import discretize
from archgrad.epoch_end import EpochEnd
from archgrad.relaxation import Softmax
from archgrad.schedules import Progress
from archgrad.stopping import HessianEigenvalue, hessian_eigenvalue

pytestmark = pytest.mark.shared


def read(shared_dir: Path, name: str) -> dict[str, Tensor]:
    values = load_file(shared_dir / "golden" / "methods" / f"{name}.safetensors")
    return {key: value.double() if value.is_floating_point() else value for key, value in values.items()}


def start(shared_dir: Path, space: str) -> tuple[ag.Supernet, tuple[Tensor, Tensor]]:
    if space == "nb201_c4_n1":
        given = read(shared_dir, "sdarts_rs_nb201_c4_n1")
        supernet = supernet_of(given, "alphas", Softmax())
    else:
        given = read(shared_dir, "darts_c4_l3_inputs")
        state = {key.removeprefix("state/"): value for key, value in given.items() if key.startswith("state/")}
        tables = (given["alphas_init/alphas_normal"], given["alphas_init/alphas_reduce"])
        supernet = ag.official.supernet_from_state_dict(state, *tables, channels=4, cells=3, num_classes=10).train()
    return supernet, (given["x_valid"][0], given["y_valid"][0])


@pytest.mark.parametrize("space", ["nb201_c4_n1", "darts_c4_l3"])
def test_the_largest_eigenvalue_is_the_authors(shared_dir: Path, space: str) -> None:
    golden = read(shared_dir, f"robustdarts_hessian_{space}")
    supernet, batch = start(shared_dir, space)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    end = EpochEnd(
        supernet, discretize(supernet), Progress(0, 50), F.cross_entropy, lambda: batch, lambda: iter([batch])
    )
    found = hessian_eigenvalue(end, iterations=100, tolerance=1e-6)
    assert abs(found - golden["lambda_max_no_decay"]) < 1e-9
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())
    if space == "nb201_c4_n1":  # the other takes long
        measured = HessianEigenvalue().probe(end)["hessian_eigenvalue"]
        assert abs(measured - golden["lambda_max"]) < 1e-6 * golden["lambda_max"]


SEQUENCES = ["slow_growth", "late_jump", "early_growth", "jump_in_last_epochs", "spike_then_decay"]


@pytest.mark.parametrize("name", [*SEQUENCES, "step_ratio_exactly_1.3", "step_ratio_just_above_1.3"])
def test_the_rule_stops_where_the_authors_does(shared_dir: Path, name: str) -> None:
    golden = read(shared_dir, "robustdarts_early_stop")
    values, rule = golden[f"ev/{name}"].tolist(), HessianEigenvalue()
    # the authors measure the 50th epoch as well, and do not test it
    rows = [{"epoch": e, "hessian_eigenvalue": values[e // 2] if e % 2 == 0 else None} for e in range(50)]
    stops = [(e, rule.decide(rows[: e + 1])) for e in range(50)]
    at, stop = next(((e, stop) for e, stop in stops if stop is not None), (-1, None))
    assert at == golden[f"rule/{name}/stopped_at"]
    assert (49 if stop is None else stop.epoch) == golden[f"rule/{name}/returned_epoch"]
