"""NAS-Bench-Macro: the networks that are built are those of the table."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

import archgrad as ag
from archgrad.cost import count_multiply_adds, count_parameters
from archgrad.errors import OptionError
from archgrad.nasbench import parse_arch
from archgrad.spaces import nasbench_macro

Costs = dict[str, tuple[int, int]]
IMAGE = (3, 32, 32)


def network(code: str) -> nn.Module:
    return ag.derive(nasbench_macro(stage="retrain"), parse_arch(code))


def costs(code: str) -> tuple[int, int]:
    built = network(code)
    return count_parameters(built), count_multiply_adds(built, IMAGE)


@pytest.fixture(scope="module")
def table(shared_dir: Path) -> Costs:
    with open(shared_dir / "data" / "nasbench-macro.csv", encoding="utf-8") as file:
        return {row["arch"]: (int(row["parameters"]), int(row["multiply_adds"])) for row in csv.DictReader(file)}


@pytest.mark.shared
@pytest.mark.parametrize("code", ["00000000", "11111111", "22222222", "22212220", "01201201", "21002110"])
def test_a_network_costs_what_the_table_says(table: Costs, code: str) -> None:
    assert costs(code) == table[code]


@pytest.mark.shared
def test_all_networks_cost_what_the_table_says(table: Costs) -> None:
    """A network costs the base and what each layer adds to it, so 17 builds tell all 6,561."""
    base = costs("0" * 8)
    added = {
        (place, digit): [
            cost - less for cost, less in zip(costs("0" * place + digit + "0" * (7 - place)), base, strict=True)
        ]
        for place, digit in itertools.product(range(8), "12")
    } | {(place, "0"): [0, 0] for place in range(8)}
    for code, expected in table.items():
        parts = [added[place, digit] for place, digit in enumerate(code)]
        assert tuple(base[k] + sum(part[k] for part in parts) for k in range(2)) == expected, code


def test_a_small_one_is_searched_and_derived() -> None:
    torch.manual_seed(0)
    data = (torch.randn(32, 1, 8, 8), torch.randint(3, (32,)))
    space = nasbench_macro(2, num_classes=3, in_channels=1)
    found = ag.search(space, data, epochs=1, batch_size=8, quiet=True, device="cpu").architecture
    assert sorted(found.choices) == [f"layer{k}" for k in range(8)]
    assert ag.derive(nasbench_macro(2, 3, in_channels=1, stage="retrain"), found)(data[0]).shape == (32, 3)


@pytest.mark.parametrize("options", [{"channels": 0}, {"num_classes": 0}, {"stage": "test"}])
def test_a_value_outside_its_range_is_refused(options: dict) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        nasbench_macro(**options)
