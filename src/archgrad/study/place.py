"""Where scores compare, and what they count: of one space, data set and judge, by one metric."""

from __future__ import annotations

import math
from dataclasses import dataclass

from archgrad.checks import check_word
from archgrad.tasks.base_task import BestIs

__all__ = ["Place", "measured_by"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where scores compare, and what they count.

    Attributes:
        space: Name in the study.
        data: Name in the study.
        judge: Name in the study, and the column if it is a table, or the metric if it is another than accuracy.
        metric: What the scores are.
        unit: "%" of an accuracy, that of a table's column, or empty: the metric as it is.
        best_is: Whether the "highest" or the "lowest" score is best.
    """

    space: str
    data: str
    judge: str
    metric: str = "accuracy"
    unit: str = "%"
    best_is: BestIs = "highest"

    def __post_init__(self) -> None:
        check_word("best_is", self.best_is, ("highest", "lowest"))

    @property
    def place(self) -> Place:
        """The place of a score or of a row, which is one with more to it."""
        return Place(**{name: getattr(self, name) for name in Place.__dataclass_fields__})

    @property
    def name(self) -> str:
        """What headings call it."""
        return f"{self.space}, {self.data}, {self.judge}"

    @property
    def quantity(self) -> str:
        """The metric with its unit."""
        name = self.metric.removesuffix(f"_{self.unit}").replace("_", " ")
        return name + (f" in {self.unit}" if self.unit else "")

    @property
    def axis(self) -> str:
        """What an axis of scores says."""
        return f"{self.quantity}{', lower is better' if self.best_is == 'lowest' else ''}"

    @property
    def short(self) -> str:
        """The unit, or the metric where it has none."""
        return self.unit or self.metric.replace("_", " ")

    def merit(self, score: float) -> float:
        """Return a number that is the higher the better a score is."""
        return score if self.best_is == "highest" else -score

    def text(self, score: float, *, unit: bool = False, sign: str = "-") -> str:
        """Return a score in words: two digits after the point of percent, four digits of others; empty for NaN.

        Args:
            score: Or a difference of scores.
            unit: Whether its unit follows.
            sign: "+" where a sign is always shown.
        """
        if math.isnan(score):
            return ""
        digits = ".2f" if self.unit == "%" else ".4g"
        return f"{score:{sign}{digits}}{f' {self.unit}' if unit and self.unit else ''}"


def measured_by(metric: str, best_is: BestIs) -> tuple[str, float]:
    """Return the unit in which a metric of a task is shown, and by how much it is multiplied for it.

    Args:
        metric: As in summary.json after "test_".
        best_is: An accuracy is a share of which the highest is best, and shown in percent.
    """
    share = best_is == "highest" and (metric == "accuracy" or metric.endswith("_accuracy"))
    return ("%", 100.0) if share else ("", 1.0)
