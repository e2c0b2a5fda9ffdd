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
_SPACED = re.compile(r"[-+]?\d{1,3}([ \u00a0\u2009\u202f'\u2019]\d{3})+([.,]\d*)?")  # 1 234,5 and 1'234.50
_AROUND = "€$£¥% \t\u00a0\u2009\u202f"  # currencies, percents, blanks
_UNIT = re.compile(r"(?<=\d)\s*([^\W\d_]|[°µ/])\D*$")
_SURE = (
    r"[-+]?(\d+{0}(\d{{1,2}}|\d{{4,}})|(\d{{4,}}|0?){0}\d+|\d{{1,3}}({1}\d{{3}})+{0}\d*|\d{{1,3}}({1}\d{{3}}){{2,}})"
)
_SURE_POINT, _SURE_COMMA = (
    re.compile(_SURE.format(*marks) + r"([eE][-+]?\d+)?") for marks in ((r"\.", ","), (",", r"\."))
)
"""Numbers that can be read in one way alone, other than 1,234 and 1.234."""
_DAY_MONTH = re.compile(
    r"(\d{1,2})([./-])(\d{1,2})\2(\d{4})(?:[ T]+(\d{1,2})(:\d{2}(?::\d{2}(?:\.\d+)?)?)(?: ?([AaPp])[Mm])?)?"
)
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


def read_column(name: str, cells: Sequence[Any], *, decimal_comma: bool | None) -> Column:
    """Find out what a column holds.

    Args:
        name: Of the column.
        cells: As they stand in the table.
        decimal_comma: Whether numbers are written as 1.234,5; None lets the column tell.
    """
    cells = [_plain_value(cell) for cell in cells]
    present = [cell for cell in cells if not is_missing(cell)]
    if all(isinstance(cell, datetime.date) for cell in present) and present:
        return Column(name, np.array([_days(cell) for cell in cells]), None, dates=True)
    if all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in present):
        return Column(name, np.array([math.nan if is_missing(cell) else float(cell) for cell in cells]), None)
    texts = [None if is_missing(cell) else str(cell) for cell in cells]
    if (numbers := _as_numbers(name, texts, decimal_comma)) is not None:
        return Column(name, numbers, None)
    if (dates := _as_dates(name, texts)) is not None:
        return Column(name, dates, None, dates=True)
    return Column(name, None, texts)


def _plain_value(cell: Any) -> Any:
    """Return texts of bytes, and seconds of spans of time, as Parquet has them."""
    if isinstance(cell, bytes):
        return cell.decode("utf-8", errors="replace")
    return cell.total_seconds() if isinstance(cell, datetime.timedelta) else cell


def is_missing(cell: Any) -> bool:
    """Whether a cell holds no value."""
    if isinstance(cell, str):
        return cell.strip().lower() in _MISSING
    return cell is None or (isinstance(cell, float) and not math.isfinite(cell))


def decimal_comma_of(cells: Sequence[str]) -> bool | None:
    """Return whether numbers are written with a comma, as those tell that can be read in one way; None if none do."""
    in_question = [cell for cell in cells if "," in cell or cell.count(".") > 1]
    if not in_question:
        return None
    comma = any(_SURE_COMMA.fullmatch(_bare(cell)) for cell in in_question)
    point = any(_SURE_POINT.fullmatch(_bare(cell)) for cell in cells if "." in cell or "," in cell)
    return None if point == comma else comma


def _bare(text: str) -> str:
    """Return a number without currency and spaces between thousands, its sign in front."""
    if _PLAIN.fullmatch(text):
        return text
    text = text.replace("\u2212", "-").strip(_AROUND)
    if text[:1] == "(" and text[-1:] == ")":  # (5) and 5- of accounts
        text = "-" + text[1:-1]
    elif text[-1:] == "-" and len(text) > 1:
        text = "-" + text[:-1]
    if text[:1] in ("-", "+"):
        text = text[0] + text[1:].strip(_AROUND)
    return re.sub(r"[^\d.,+-]", "", text) if _SPACED.fullmatch(text) else text


def _as_numbers(name: str, texts: list[str | None], decimal_comma: bool | None) -> np.ndarray | None:
    present = [text for text in texts if text is not None]
    with_unit = False  # the same one everywhere, as in 5 kg
    if present and not present[0][-1:].isdigit():
        units = {found and found[0].strip() for found in map(_UNIT.search, set(present))}
        with_unit = len(units) == 1 and None not in units
    bare = {text: _bare(_UNIT.sub("", text) if with_unit else text) for text in set(present)}
    comma = decimal_comma
    if comma is None:  # if one of them is and none says otherwise; 1.234 is then a thousand
        comma = any("," in text for text in bare.values())
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


def _as_dates(name: str, texts: list[str | None]) -> np.ndarray | None:
    written = {text: _DAY_MONTH.fullmatch(text) for text in texts if text is not None}
    parts = [found for found in written.values() if found is not None]
    if not written or (parts and len(parts) < len(written)):
        return None
    day_first = any(int(found[1]) > 12 or found[2] == "." for found in parts)
    if parts and not day_first and all(int(found[3]) <= 12 for found in parts):
        warnings.warn(
            f"The column {shown(name)} holds dates such as {shown(parts[0][0])}, which may begin with the day or the "
            f"month, and is not read as dates. Write them as 2024-05-31.",
            stacklevel=2,
        )
        return None
    try:
        days = {text: _days(_moment(text, written[text], day_first=day_first)) for text in written}
    except ValueError:
        return None
    return np.array([math.nan if text is None else days[text] for text in texts])


def _moment(text: str, parts: re.Match[str] | None, *, day_first: bool) -> datetime.datetime:
    if parts is None:
        return datetime.datetime.fromisoformat(text.replace("Z", "+00:00").replace("/", "-"))
    day, month = (parts[1], parts[3]) if day_first else (parts[3], parts[1])
    hour = int(parts[5] or 0)
    if parts[7]:
        hour = hour % 12 + 12 * (parts[7] in "pP")
    return datetime.datetime.fromisoformat(f"{parts[4]}-{int(month):02}-{int(day):02} {hour:02}{parts[6] or ':00'}")


def _days(moment: Any) -> float:
    """Return days since 1970 of a date or a time."""
    if is_missing(moment):
        return math.nan
    if not isinstance(moment, datetime.datetime):
        moment = datetime.datetime(moment.year, moment.month, moment.day)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return moment.timestamp() / _DAY
