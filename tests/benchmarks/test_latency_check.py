"""The check of a budget in milliseconds, on a clock that says what the test wants."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag

FOLDER = Path(__file__).parents[2] / "benchmarks"
NOW = [0.0]


def clock() -> float:
    return NOW[0]


class Takes(nn.Module):
    """Takes so many milliseconds of the clock, and a learnt factor."""

    def __init__(self, milliseconds: float) -> None:
        super().__init__()
        self.milliseconds = milliseconds
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        NOW[0] += 1e-3 * self.milliseconds
        return self.factor * x


class Space(nn.Module):
    """Two choices of 1 or 4 ms behind 2 ms: 4, 7 or 10 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Takes(2.0)
        self.a = ag.LayerChoice({"long": Takes(4.0), "short": Takes(1.0)}, label="a")
        self.b = ag.LayerChoice({"long": Takes(4.0), "short": Takes(1.0)}, label="b")
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(self.first(x))).mean((2, 3)))


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import latency_check

    return latency_check


def rows_of(check: ModuleType, **more: Any) -> list[dict[str, Any]]:
    options = {"budget": 5.0, "share": 1.0, "seeds": 2, "rounds": 3, "clock": clock, "epochs": 8, "device": "cpu"}
    return check.checked(Space, check.images(8), **{**options, **more})


def test_what_is_derived_within_a_budget_is_predicted_and_timed(check: ModuleType) -> None:
    for seed, row in enumerate(rows_of(check)):
        assert row["seed"] == seed
        assert row["predicted_ms"] == row["measured_ms"] == pytest.approx(4.0)
        assert (row["over_prediction"], row["over_budget"]) == (pytest.approx(0.0), pytest.approx(-0.2))
        assert all(row[name] for name in ("predicted_keeps", "keeps", "keeps_within_tolerance"))
        assert row["passes"] == 3


def test_without_a_budget_it_is_between_the_smallest_and_the_median_network(check: ModuleType) -> None:
    (row,) = rows_of(check, budget=None, share=0.8, seeds=1, epochs=1)
    assert row["budget_ms"] == pytest.approx(4 + 0.8 * (7 - 4))


@pytest.mark.parametrize(("measured", "keeps", "within"), [(5.0, True, True), (5.4, False, True), (5.6, False, False)])
def test_a_network_may_be_a_tenth_above_its_budget(
    check: ModuleType, measured: float, keeps: bool, within: bool
) -> None:
    row = check.compared(5.0, 4.0, [0.1, measured, measured, measured, 99.0])
    assert row["measured_ms"] == measured
    assert (row["keeps"], row["keeps_within_tolerance"]) == (keeps, within)
    assert row["over_prediction"] == pytest.approx(measured / 4 - 1)


def test_networks_take_turns_after_a_warm_up(check: ModuleType) -> None:
    seen: list[int] = []

    class Noted(nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def forward(self, x: Tensor) -> Tensor:
            seen.append(self.number)
            NOW[0] += 1e-3 * len(seen)
            return x

    times = check.timed([Noted(0), Noted(1)], torch.zeros(1), rounds=2, clock=clock)
    assert seen == [0, 1] * (check.WARM_UP + 2)
    assert [one for each in times for one in each] == pytest.approx([11, 13, 12, 14])


def test_the_exit_status_tells_whether_all_keep_it(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["latency_check.py", "--threads", str(torch.get_num_threads())])
    for keeps in (True, False):
        monkeypatch.setattr(check, "checked", lambda *_, keeps=keeps, **__: [{"keeps_within_tolerance": keeps}])
        assert check.main() == (0 if keeps else 1)
        first, last = capsys.readouterr().out.splitlines()
        assert '"space": "mobile"' in first
        assert '"torch"' in last
