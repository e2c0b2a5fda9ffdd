"""The picture of a network of open sizes: a block for each that the depths leave, as high as its stage is wide."""

from __future__ import annotations

from typing import Any

import pytest

from archgrad.architecture import Architecture
from archgrad.architectures import DARTS_V1
from archgrad.report.network_drawing import network_scene
from archgrad.report.pictures import architecture_pictures
from archgrad.report.scene import Box, Label

FOUND = {
    **{"stage10/depth": 1, "stage10/width": 8, "stage10/block0/kernel": 7},
    **{"stage2/depth": 2, "stage2/width": 4, "stage2/block0/kernel": 3, "stage2/block1/kernel": 5},
    **{"stem/width": 2, "stem/kernel": 1, "head": "linear"},
}


def boxes(choices: dict[str, Any]) -> list[Box]:
    scene = network_scene(Architecture(choices))
    assert scene is not None
    return [item for item in scene.items if isinstance(item, Box)]


def test_blocks_stand_from_the_stem_on_and_are_as_high_as_they_are_wide() -> None:
    found = sorted(boxes(FOUND), key=lambda box: box.x)
    assert [box.title for box in found] == [
        "stem: kernel 1",
        "stage2: kernel 3",
        "stage2: kernel 5",
        "stage10: kernel 7",
    ]
    heights = [box.height for box in found]
    # linear in the width: 2, 4, 4, 8
    assert heights[1] == heights[2] == pytest.approx(heights[0] + (heights[3] - heights[0]) / 3)
    scene = network_scene(Architecture(FOUND))
    assert scene is not None
    texts = [item.text for item in scene.items if isinstance(item, Label)]
    assert [text for text in texts if text in ("2", "4", "8")] == ["2", "4", "4", "8"]
    assert {"stem", "stage2", "stage10", "kernel", "width"} <= set(texts)


def test_choices_of_the_whole_network_hold_for_all_its_blocks() -> None:
    found = boxes({"activation": "relu", "depth": 2, "block0/ratio": 1, "block1/ratio": 4})
    assert [box.title for box in found] == ["network: activation relu, ratio 1", "network: activation relu, ratio 4"]
    assert len({box.height for box in found}) == 1


@pytest.mark.parametrize("choices", [{}, {"a": "b"}, {"depth": 10**6}, {"depth": 0}, dict(DARTS_V1.choices)])
def test_other_architectures_have_no_such_picture(choices: dict[str, Any]) -> None:
    assert network_scene(Architecture(choices)) is None
    assert all(picture.slug != "network" for picture in architecture_pictures(Architecture(choices), {}))


@pytest.mark.parametrize("choices", [{"depth": "y", "width": "x"}, {"width": -1.5}, {"depth": [1, 2], "width": 1e300}])
def test_anyones_architecture_is_drawn(choices: dict[str, Any]) -> None:
    assert len(boxes(choices)) == 1
