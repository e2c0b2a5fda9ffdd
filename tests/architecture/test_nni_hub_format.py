"""The shape of NNI 2.8 to 3.0: read with indices alone or in lists, written back, and refused where it is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from archgrad.architecture import Architecture
from archgrad.architectures import DARTS_V2, AmoebaNet
from archgrad.errors import ArchitectureError
from archgrad.nni_format import format_choices
from archgrad.nni_hub_format import format_hub

SMALL = {"cell/op_2_0": "conv", "cell/input_2_0": 0, "cell/op_2_1": "pool", "cell/input_2_1": 1}


@pytest.mark.parametrize("lists", [False, True])
def test_the_paper_s_cells_go_round(lists: bool, tmp_path: Path) -> None:
    data = format_hub(DARTS_V2.choices, lists=lists)
    assert data["reduce/op_3_0"] == "skip_connect"
    assert data["reduce/input_3_0"] == ([2] if lists else 2)
    file = tmp_path / "exported.json"
    file.write_text(json.dumps(data | {"width": 16, "depth": 8}))
    read = Architecture.load(file)
    assert read == DARTS_V2
    assert read.space == "darts-cifar"
    assert read.provenance["width"] == 16


def test_a_space_of_ones_own_is_read_with_its_other_choices() -> None:
    read = Architecture.from_nni({**SMALL, "conv": "conv3", "join": 1, "joins": [2, 0]})
    assert read.space is None
    assert read.choices["cell"]["2"] == (("conv", 0), ("pool", 1))
    assert (read.choices["conv"], read.choices["join"], read.choices["joins"]) == ("conv3", 1, (0, 2))


def test_labels_alone_are_read_with_single_indices(tmp_path: Path) -> None:
    file = tmp_path / "exported.json"
    file.write_text('{"model_1": "0", "skip": 1}')
    assert Architecture.load(file).choices["skip"] == 1  # an input choice takes it, and an open number


def test_the_shape_of_nni_2_4_goes_round() -> None:
    written = format_choices(DARTS_V2.choices)
    assert written["normal_n5_p4"] == "maxpool"  # dropped
    assert Architecture.from_nni(written) == DARTS_V2


@pytest.mark.parametrize("write", [format_hub, format_choices])
def test_what_these_shapes_cannot_say_is_refused(write: Any) -> None:
    with pytest.raises(ArchitectureError, match=r"joins? all nodes"):
        write(AmoebaNet.choices)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell/input_2_0": None}, "must be the index of a state"),
        ({"cell/input_2_0": [0, 1]}, "must be the index of a state"),
        ({"cell/input_2_0": -1}, "must be the index of a state"),
        ({"cell/input_2_0": True}, "must be the index of a state"),
        ({"cell/input_2_0": 2}, "source from 0 to 1"),
        ({"cell/input_2_0": 10**400}, "source from 0 to 1"),
        ({"cell/op_2_0": 4}, "must be the name of an operation"),
        ({"cell/op_2_0": ""}, "must be the name of an operation"),
        ({"cell/op_2_2": "conv"}, "'cell/input_2_2' is missing"),
        ({"cell/op_9_0": "conv", "cell/input_9_0": 0}, "consecutive nodes"),
        ({"other": {"deep": []}}, "must be a candidate's name"),
        ({"other": True}, "must be a candidate's name"),
        ({"cell": "conv"}, "both"),
    ],
)
def test_damage_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        Architecture.from_nni({**SMALL, **change})
