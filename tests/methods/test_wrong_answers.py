"""What a part of somebody's own must not answer is refused where it answers, and not where it does harm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest

import archgrad as ag
from archgrad.methods import Method
from archgrad.selection import Selection
from archgrad.stopping import Stop, Stopping
from parts_of_methods import SPACES


@dataclass(frozen=True)
class Answering(Stopping):
    measured: Any = ()
    decided: Any = None

    def probe(self, end: Any) -> Any:
        return dict.fromkeys(self.measured, 0.5)

    def decide(self, history: Any) -> Any:
        return self.decided


@dataclass(frozen=True)
class Scoring(Selection):
    first: tuple[float, ...]

    def scores(self, supernet: ag.Supernet) -> Any:
        rows = supernet.probabilities()
        return {**rows, next(iter(rows)): list(self.first)}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"stopping": Answering(decided=True)}, "Answering must decide for None"),
        ({"stopping": Answering(decided=Stop(7, "why"))}, "epoch from 0 to the last, 0, but"),
        ({"stopping": Answering(measured=("train_loss",))}, "Answering measures train_loss"),
        ({"selection": Scoring((0.5, math.nan, 0.5))}, "needs a finite score.*0.5, nan, 0.5"),
        ({"selection": Scoring((0.5,))}, "needs a finite score.*are 0.5"),
        ({"selection": Scoring(())}, "needs a finite score.*are none"),
    ],
)
def test_it_is_refused(part: dict[str, Any], message: str) -> None:
    space = SPACES["table"]
    with pytest.raises(ag.errors.OptionError, match=message):
        ag.search(space.build(), space.data(), method=Method(**part), epochs=2, batch_size=4, quiet=True, device="cpu")
