"""The short form of budgets: "multiply-adds<=300M, latency<=8ms"."""

from __future__ import annotations

import re
from collections.abc import Sequence

from archgrad.cost_names import COSTS, unit_of_cost
from archgrad.errors import OptionError, did_you_mean
from archgrad.json_text import shown
from archgrad.regularizers.cost_penalty import CostBudget

__all__ = ["budgets_of"]

_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_FORM = re.compile(r"\s*([A-Za-z][\w -]*?)\s*<=\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*")


def budgets_of(given: str | Sequence[str]) -> tuple[CostBudget, ...]:
    """Return the budgets that a text asks for, each with the defaults of `CostBudget`.

    Args:
        given: Such as "parameters<=20k" or "multiply-adds<=300M, latency<=8ms"; or several of such texts. Numbers may
            end with k (thousand), M (million) or G (billion), and those of latency end with ms. Columns of a search's
            `cost_table` whose names end with _ms or _mj are written as they are: "raspi4_ms<=8".

    Raises:
        OptionError: It is something else, there is no such cost, or a cost has two budgets.
    """
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, Sequence) or not texts or not all(isinstance(text, str) for text in texts):
        raise OptionError(
            f"budget must be a text such as 'multiply-adds<=300M', or a list of such, but got budget={shown(given)}."
        )
    found = tuple(_budget(part) for text in texts for part in text.split(","))
    costs = [budget.cost for budget in found]
    if twice := [cost for cost in dict.fromkeys(costs) if costs.count(cost) > 1]:
        raise OptionError(f"budget has {twice[0]} more than once: {shown(given)}. Give each cost one limit.")
    return found


def _budget(text: str) -> CostBudget:
    match = _FORM.fullmatch(text)
    if match is None:
        raise OptionError(
            f"budget takes COST<=NUMBER, such as 'multiply-adds<=300M' or 'latency<=8ms', but got {shown(text)}. "
            f"Several have commas between."
        )
    name, number, unit = match[1], float(match[2]), match[3]
    word = name.replace("_", "-").replace(" ", "-")
    cost = word if word in COSTS else name
    measured = unit_of_cost(cost)
    if cost not in COSTS and not measured:
        hint = did_you_mean(word, COSTS)
        raise OptionError(
            f"There is no cost {shown(name)} to give a budget for.{hint} Known are {', '.join(COSTS)}, and columns of "
            f"a cost_table whose names end with _ms or _mj."
        )
    allowed = _UNITS
    if measured:  # a column says its unit itself
        allowed = {measured: 1.0} | ({} if cost in COSTS else {"": 1.0})
    if unit not in allowed:
        plain = f"plain or with {', '.join(filter(None, _UNITS))}"
        units = f"in {measured}, such as 8{measured}" if measured else plain
        raise OptionError(f"A budget of {cost} is a number {units}, but got {shown(text.strip())}.")
    return CostBudget(limit=number * allowed[unit], cost=cost)
