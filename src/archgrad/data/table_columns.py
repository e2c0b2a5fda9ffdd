"""What the cells of a table's column are: numbers, dates, or names of categories."""

import datetime
import math
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from archgrad.json_text import shown

_MISSING = frozenset(
    (
        "",
        "na",
        "n/a",
        "#n/a",
        "nan",
        "-nan",
        "null",
        "none",
        "nil",
        "?",
        "-",
        "--",
        ".",
        "missing",
        "unknown",
        "#div/0!",
        "#value!",
        "#ref!",
        "#name?",
        "#num!",
        "#null!",
        "<na>",
        "nat",
        "inf",
        "-inf",
        "infinity",
    )
)
"""What stands where there is no value, in any case."""
_NUMBERS_SHARE = 0.9
"""Share of a column's cells from which on it is one of numbers, in which other words are told of."""
_PLAIN = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_GROUPED = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d*)?")  # 1,234.5
_COMMA = re.compile(r"[-+]?(\d{1,3}(\.\d{3})+|\d+)?(,\d*)?([eE][-+]?\d+)?")  # 1.234,5
_AROUND = re.compile(r"^[€$£¥\s]+|[€$£¥%\s]+$")  # currencies, percents
_DAY = 86400.0


class Column(NamedTuple):
    """One column, read."""

    name: str
    numbers: np.ndarray | None
    """(N,) float64, nan where there is none; None of a column of names."""
    names: list[str | None] | None
    """N of them; None of a column of numbers."""
    dates: bool = False
    """Whether the numbers are days since 1970."""

    def missing(self) -> np.ndarray:
        """(N,) bool, where there is no value."""
        if self.numbers is not None:
            return np.isnan(self.numbers)
        assert self.names is not None
        return np.array([name is None for name in self.names])

    def distinct(self) -> list[Any]:
        """Return the values that there are, in order."""
        if self.numbers is not None:
            return np.unique(self.numbers[~np.isnan(self.numbers)]).tolist()
        assert self.names is not None
        return sorted({name for name in self.names if name is not None})


def read_column(name: str, cells: Sequence[Any], *, decimal_comma: bool) -> Column:
    """Find out what a column holds.

    Args:
        name: Of the column.
        cells: As they stand in the table.
        decimal_comma: Whether 1,5 may be a number.
    """
    present = [cell for cell in cells if not _is_missing(cell)]
    if all(isinstance(cell, datetime.date) for cell in present) and present:
        return Column(name, np.array([_days(cell) for cell in cells]), None, dates=True)
    if all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in present):
        return Column(name, np.array([math.nan if _is_missing(cell) else float(cell) for cell in cells]), None)
    texts = [None if _is_missing(cell) else str(cell) for cell in cells]
    if (numbers := _as_numbers(name, texts, decimal_comma)) is not None:
        return Column(name, numbers, None)
    if (dates := _as_dates(texts)) is not None:
        return Column(name, dates, None, dates=True)
    return Column(name, None, texts)


def _is_missing(cell: Any) -> bool:
    if isinstance(cell, str):
        return cell.strip().lower() in _MISSING
    return cell is None or (isinstance(cell, float) and not math.isfinite(cell))


def _as_numbers(name: str, texts: list[str | None], decimal_comma: bool) -> np.ndarray | None:
    present = [text for text in texts if text is not None]
    bare = {text: _AROUND.sub("", text) for text in set(present)}
    # Written with a comma, if one of them is and none says otherwise; 1.234 is then a thousand.
    comma = decimal_comma and any("," in text for text in bare.values())
    comma = comma and all("," not in text or _COMMA.fullmatch(text) for text in bare.values() if text[:1].isdigit())
    read = {text: _number(plain, comma=comma) for text, plain in bare.items()}
    strange = Counter(text for text in present if read[text] is None)
    if not present or sum(strange.values()) > (1 - _NUMBERS_SHARE) * len(present):
        return None
    if strange:
        examples = ", ".join(shown(text) for text, _ in strange.most_common(3))
        warnings.warn(
            f"The column {shown(name)} holds numbers, but other things in {sum(strange.values())} of {len(texts)} "
            f"rows, such as {examples}; these are taken as missing.",
            stacklevel=2,
        )
    return np.array(
        [math.nan if text is None or read[text] is None else read[text] for text in texts], dtype=np.float64
    )


def _number(text: str, *, comma: bool) -> float | None:
    if comma:
        return float(text.replace(".", "").replace(",", ".")) if _COMMA.fullmatch(text) and text.strip("+-,") else None
    if _PLAIN.fullmatch(text):
        value = float(text)
        return value if math.isfinite(value) else None
    return float(text.replace(",", "")) if _GROUPED.fullmatch(text) else None


def _as_dates(texts: list[str | None]) -> np.ndarray | None:
    days = np.full(len(texts), math.nan)
    found = False
    for place, text in enumerate(texts):
        if text is None:
            continue
        try:
            days[place] = _days(datetime.datetime.fromisoformat(text.replace("Z", "+00:00").replace("/", "-")))
            found = True
        except ValueError:
            return None
    return days if found else None


def _days(moment: Any) -> float:
    """Return days since 1970 of a date or a time."""
    if _is_missing(moment):
        return math.nan
    if not isinstance(moment, datetime.datetime):
        moment = datetime.datetime(moment.year, moment.month, moment.day)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return moment.timestamp() / _DAY
