"""The laws of a search as a whole."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import archgrad as ag
from archgrad.errors import DataError, NonFiniteError, OptionError, RunError, SpaceError
from archgrad.search.optimizers import cosine


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = ag.LayerChoice({"linear": nn.Linear(4, 4), "skip": nn.Identity()}, label="layer")
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x))


def table(samples: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 4, generator=generator)
    return x, (x[:, 0] > 0).long()


def found(**options: Any) -> ag.SearchResult:
    torch.manual_seed(0)
    return ag.search(Small(), table(), **{"epochs": 2, "batch_size": 8, "quiet": True, **options})


def test_learning_rate_of_the_last_of_fifty_epochs_is_the_authors() -> None:
    # eta_min + (lr0 - eta_min)(1 + cos(pi e / E)) / 2 with e = 49, E = 50: 1.0237e-3 in the authors' logs
    assert cosine(0, 50, first=0.025, last=0.001) == 0.025
    assert cosine(49, 50, first=0.025, last=0.001) == pytest.approx(1.0237e-3, abs=5e-8)
    assert [row["learning_rate"] for row in found(epochs=3).history] == [
        pytest.approx(cosine(e, 3, first=0.025, last=0.001)) for e in range(3)
    ]


def test_a_constant_schedule_stays() -> None:
    assert [row["learning_rate"] for row in found(schedule="constant", learning_rate=0.07).history] == [0.07, 0.07]


def test_the_same_seed_repeats_a_search_exactly_and_another_differs() -> None:
    first, second, other = found(seed=3), found(seed=3), found(seed=4)
    assert first.history == second.history
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.supernet.state_dict().values(), second.supernet.state_dict().values(), strict=True)
    )
    assert first.history != other.history


def test_the_callers_random_numbers_and_space_stay_as_they_are() -> None:
    space = Small()
    before = {name: value.clone() for name, value in space.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    ag.search(space, table(), epochs=1, batch_size=8, quiet=True)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, space.state_dict()[name]) for name, value in before.items())


def test_one_architecture_an_epoch_and_a_config_that_says_everything(tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = found(run_dir=run, epochs=3, step=ag.bilevel.Unrolled(), seed=7)
    stored = [ag.Architecture.load(run / "checkpoints" / f"epoch_{epoch}.json") for epoch in range(3)]
    assert stored[-1] == result.architecture
    assert [dict(one.provenance)["epoch"] for one in stored] == [0, 1, 2]
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["train_loss"]) for row in rows] == [row["train_loss"] for row in result.history]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["command"] == "search"
    for name, value in {
        "epochs": 3,
        "seed": 7,
        "batch_size": 8,
        "grad_clip": 5.0,
    }.items():
        assert config[name] == value
    assert config["method"]["alphas_optimizer"] == {
        "name": "adam", "learning_rate": 3e-4, "betas": [0.5, 0.999], "weight_decay": 1e-3,
    }  # fmt: skip
    assert config["method"]["step"] == {
        "name": "unrolled",
        "hvp": "finite-difference",
        "finite_difference_radius": 0.01,
        "steps": 1,
        "truncation": None,
    }
    assert "for weights/alphas" in json.loads((run / "environment.json").read_text())["data"]


def test_a_finished_run_is_not_overwritten_without_being_told(tmp_path: Path) -> None:
    found(run_dir=tmp_path / "run", epochs=1)
    content = (tmp_path / "run" / "metrics.csv").read_bytes()
    with pytest.raises(RunError, match="not empty"):
        found(run_dir=tmp_path / "run", epochs=2)
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == content
    found(run_dir=tmp_path / "run", epochs=2, overwrite=True)
    assert (tmp_path / "run" / "metrics.csv").read_bytes() != content


def test_resuming_with_other_options_is_refused_with_the_difference(tmp_path: Path) -> None:
    found(run_dir=tmp_path / "run")
    with pytest.raises(RunError, match=r"batch_size.*8.*4"):
        found(run_dir=tmp_path / "run", resume=True, batch_size=4)


def test_alphas_are_not_clipped_and_weights_are() -> None:
    free, clipped = found(grad_clip=0.0), found(grad_clip=1e-3)
    assert free.history[0]["weights_gradient_norm"] > 1e-2  # reported before clipping
    torch.manual_seed(0)
    start = Small().head.weight.detach()

    def moved(result: ag.SearchResult) -> float:
        return float((result.supernet.weights["head.weight"].detach() - start).norm())

    # 2 epochs of 3 steps; momentum 0.9 at most adds up to 10 times lr 0.025 times norm 1e-3, plus weight decay
    assert moved(clipped) < 6 * 10 * 0.025 * (1e-3 + 3e-4 * float(start.norm())) < moved(free)


def test_metrics_are_means_over_samples_with_an_uneven_last_batch() -> None:
    # halves of 20 samples in batches of 8: parts of 8, 8 and 4 samples; the mean of n is (64 + 64 + 16) / 20
    sizes = found(epochs=1, metrics=lambda outputs, targets: {"size": float(len(targets))})
    assert sizes.history[0]["train_size"] == pytest.approx((64 + 64 + 16) / 20)
    assert sizes.history[0]["valid_size"] == pytest.approx((64 + 64 + 16) / 20)


def test_a_loss_that_is_not_finite_stops_or_is_left_out() -> None:
    x, y = table()

    def broken(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs, targets) + (float("nan") if int(targets[0]) else 0.0)

    with pytest.raises(NonFiniteError, match=r"epoch 1 at step \d"):
        ag.search(Small(), (x, y), epochs=2, batch_size=5, loss=broken, quiet=True)
    skipped = ag.search(Small(), (x, y), epochs=2, batch_size=5, loss=broken, on_nonfinite="skip", quiet=True)
    assert 0 < skipped.history[-1]["skipped_steps"] < 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": -1}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"weights_fraction": 1.0}, "weights_fraction"),
        ({"alphas_betas": (0.5, 1.0)}, "alphas_betas"),
        ({"grad_clip": -1.0}, "grad_clip"),
        ({"precision": "16"}, "precision"),
        ({"schedule": "linear"}, "schedule"),
        ({"checkpoint_minutes": 0.0}, "checkpoint_minutes"),
        ({"accumulation": 0}, "accumulation"),
        ({"seed": -1}, "seed"),
        ({"resume": True}, "run_dir"),
        ({"overwrite": True}, "run_dir"),
        ({"run_dir": "x", "resume": True, "overwrite": True}, "Give one of them"),
    ],
)
def test_an_option_outside_its_range_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        found(**options)


def test_data_smaller_than_a_batch_and_spaces_without_choices_are_refused() -> None:
    with pytest.raises(DataError, match="the data has 20"):
        found(batch_size=21)
    with pytest.raises(SpaceError, match="no open choice"):
        ag.search(nn.Linear(4, 2), table(), quiet=True)


def test_a_batch_of_one_under_batchnorm_is_refused_at_the_door() -> None:
    class Normed(Small):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))  # type: ignore[assignment]

    with pytest.raises(DataError, match="BatchNorm"):
        ag.search(Normed(), table(), batch_size=1, quiet=True)


def test_gdas_updates_the_weights_first_and_cools_down() -> None:
    result = found(relaxation=ag.relaxation.Gumbel(), weights_first=True, epochs=3)
    assert [row["temperature"] for row in result.history] == pytest.approx([10.0, 5.05, 0.1])


def test_double_precision_reaches_weights_alphas_and_data() -> None:
    supernet = found(precision="64", epochs=1).supernet
    assert {p.dtype for p in supernet.parameters()} == {torch.float64}


def test_auto_begins_a_run_where_there_is_none_and_goes_on_with_it_where_there_is(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = found(run_dir=run, resume="auto")
    again = found(run_dir=run, resume="auto")
    assert again.history == first.history
    assert len((run / "timings.csv").read_text().splitlines()) == 1 + 2  # no epoch was run twice
    with pytest.raises(RunError, match="other options"):
        found(run_dir=run, resume="auto", learning_rate=0.5)


def test_auto_leaves_alone_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match=r"thesis\.txt"):
        found(run_dir=tmp_path, resume="auto")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resume": "yes"}, "'auto'"),
        ({"resume": "auto"}, "resume='auto' needs a run folder"),
        ({"resume": "auto", "run_dir": "run", "overwrite": True}, "Give one of them"),
    ],
)
def test_what_resume_does_not_take_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        found(**options)
