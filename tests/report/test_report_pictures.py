"""Curves, heat maps, trees and pixels."""

from __future__ import annotations

import io
import math
import time
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from archgrad.report.charts import Series, format_value, line_chart, nice_ticks
from archgrad.report.heat import HeatPanel, cell_heat_scene, confusion_scene, heat_pixels, panels_scene
from archgrad.report.pictures import curve_pictures, slug, unique_slugs
from archgrad.report.raster import scene_pixels, scene_png
from archgrad.report.read import Table
from archgrad.report.scene import (
    Box,
    Curve,
    Group,
    Label,
    Picture,
    Raster,
    Scene,
    clean_text,
    shorten,
    stack,
    text_width,
)
from archgrad.report.svg import png_bytes, svg_file, svg_inline
from archgrad.report.trees import choice_row, tree_scene

SVG = "{http://www.w3.org/2000/svg}"


def parsed(scene: Scene) -> ElementTree.Element:
    return ElementTree.fromstring(svg_file(scene).split("\n", 1)[1])


def texts(scene: Scene) -> list[str]:
    """What is written, without what only shows under the pointer."""
    root = parsed(scene)
    for node in root.iter(SVG + "text"):
        for title in node.findall(SVG + "title"):
            title.text = ""
    return ["".join(node.itertext()) for node in root.iter(SVG + "text")]


def curves(scene: Scene) -> list[ElementTree.Element]:
    return [node for node in parsed(scene).iter(SVG + "path") if node.get("class") == "series"]


@given(st.floats(-1e9, 1e9), st.floats(0.0, 1e9), st.sampled_from([1.0, 1e-20, 1e200]))
@example(2.35e-282, 0.0, 1e-20)
def test_ticks_are_few_ascending_and_enclose_the_values(low, span, unit):
    low, high = low * unit, (low + span) * unit
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))
    slack = 1e-6 * max(abs(low), abs(high))
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack


def test_a_gap_in_the_values_is_a_gap_in_the_curve():
    scene = line_chart("Loss", range(5), [Series(name="a", values=(1.0, 2.0, math.nan, 3.0, math.inf), role="c1")])
    path = curves(scene)[0].get("d")
    assert path.count("M") == 2
    assert path.count("L") == 1


def test_a_single_epoch_is_seen_as_a_dot():
    scene = line_chart("Loss", [0], [Series(name="a", values=(1.0,), role="c1")])
    assert any(node.get("rx") == "2.5" for node in parsed(scene).iter(SVG + "rect"))


def test_values_over_decades_get_a_logarithmic_axis_and_amounts_begin_at_zero():
    wide = line_chart("Norm", range(3), [Series(name="a", values=(1e-4, 1.0, 100.0), role="c1")])
    assert {"0.01", "1", "100"} <= set(texts(wide))
    amounts = line_chart("Skips", range(3), [Series(name="a", values=(4.0, 5.0, 4.0), role="c1")], zero=True)
    assert "0" in texts(amounts)
    assert "4.5" not in texts(amounts)


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ((0.999995, 0.9999976), {}),  # whose ticks have six decimals
        ((0.0, 4.9e5), {}),
        ((1.2e5, 1.9e5), {}),
        ((-3e-4, 1e-4), {}),
        ((0.001, 0.0085), {"percent": True}),
        ((0.00001, 0.00004), {"percent": True}),
    ],
)
def test_the_numbers_at_an_axis_are_its_ticks_and_within_the_picture(values, options):
    scene = line_chart("Loss", [0, 1], [Series(name="a", values=values, role="c1")], **options)
    labels = [item for item in scene.items if isinstance(item, Label) and item.anchor == "end"]
    read = [float(label.text.replace("−", "-").removesuffix(" %")) for label in labels]
    assert read == pytest.approx([tick * (100 if options else 1) for tick in nice_ticks(*values)], rel=1e-9)
    assert min(label.x - text_width(label.text, size=label.size) for label in labels) >= 0


def test_a_chart_without_values_says_so():
    assert "no values yet" in texts(line_chart("Loss", [], []))


def test_a_curve_carries_its_values_for_the_page():
    scene = line_chart("Accuracy", [0, 1], [Series(name="train", values=(0.5, math.nan), role="c1")], percent=True)
    assert curves(scene)[0].get("data-values") == "50.00 %,"
    assert "train: 50.00 %" in texts(scene)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"),
        (-2.0, "−2"),
        (20_000.0, "20000"),
        (1234567.0, "1.23e6"),
        (0.00001, "1.00e-5"),
        (0.0, "0"),
    ],
)
def test_numbers_are_short(value, text):
    assert format_value(value) == text


def test_unknown_metrics_get_a_chart_that_joins_their_halves():
    table = Table(epochs=(0, 1), columns={"train_mae": (1.0, 0.5), "valid_mae": (1.0, 0.6), "odd": (1.0, 2.0)})
    assert [(picture.slug, picture.title) for picture in curve_pictures(table)] == [
        ("metric-mae", "mae"),
        ("metric-odd", "odd"),
    ]
    assert len(curves(curve_pictures(table)[0].wide)) == 2


def test_heat_is_opacity_in_proportion_to_the_value():
    pixels = heat_pixels(np.array([[0.25, 0.5, 0.75, math.nan, 0.0, 0.9]]), 0.25, 0.75)
    assert pixels[0, :, 3].tolist() == [0, 128, 255, 0, 0, 255]


def test_the_colours_of_a_heat_map_begin_at_zero_unless_all_values_are_far_from_it():
    def limits(low: float, high: float) -> list[str]:
        panel = HeatPanel(label="c", candidates=("a", "b"), values=np.array([[low, low], [high, high]]))
        found = texts(panels_scene("Choices", [panel], [0, 1], n_inputs=None, width=370.0))
        return found[found.index("probability") + 1 :]

    assert limits(0.01, 0.9) == ["0", "1"]
    assert limits(0.11, 0.19) == ["0.1", "0.2"]


def test_a_count_that_stays_zero_has_an_axis_from_zero_and_skipped_steps_need_no_chart():
    assert {"0", "1"} <= set(
        texts(line_chart("a", [0, 1], [Series(name="a", values=(0.0, 0.0), role="c1")], zero=True))
    )
    none, some = (Table(epochs=(0, 1), columns={"skipped_steps": (0.0, last)}) for last in (0.0, 3.0))
    assert curve_pictures(none) == []
    assert [picture.slug for picture in curve_pictures(some)] == ["skipped-steps"]


def panels(n_epochs: int = 3) -> list[HeatPanel]:
    values = np.full((2, n_epochs), 0.5)
    return [
        HeatPanel(label=f"c/{s}->{n}", candidates=("a", "b"), values=values, edge=(s, n))
        for n in range(2, 4)
        for s in range(n)
    ]


def test_a_cell_heat_map_has_a_panel_an_edge_in_the_row_of_its_source_and_the_column_of_its_node():
    scene = cell_heat_scene("Cell c", panels(), [0, 1, 2], n_inputs=2)
    plots = {node.get("data-label"): node for node in parsed(scene).iter(SVG + "g") if node.get("class") == "plot"}
    assert set(plots) == {"c/0->2", "c/1->2", "c/0->3", "c/1->3", "c/2->3"}
    x, y = ({key: float(node.get(name)) for key, node in plots.items()} for name in ("data-x", "data-y"))
    assert x["c/0->3"] == x["c/2->3"] > x["c/0->2"] == x["c/1->2"]
    assert y["c/0->2"] == y["c/0->3"] < y["c/1->2"]
    assert {"to node 2", "to node 3", "probability", "epoch"} <= set(texts(scene))


def test_a_line_stands_in_the_place_of_an_operation_that_an_edge_does_not_have():
    values = [np.array([[0.5, 0.5], [math.nan, 0.5]]), np.array([[1.0, 1.0], [math.nan, math.nan]])]
    edges = [HeatPanel(label=f"c/{s}->2", candidates=("a", "b"), values=values[s], edge=(s, 2)) for s in range(2)]
    for scene in (
        cell_heat_scene("Cell c", edges, [0, 1], n_inputs=2),
        panels_scene("Cell c", edges, [0, 1], n_inputs=2, width=370.0),
    ):
        plots = [item for item in scene.items if isinstance(item, Group)]
        lines = [[part for part in plot.items if isinstance(part, Box) and part.fill] for plot in plots]
        assert [len(found) for found in lines] == [0, 1]


@pytest.mark.parametrize("width", [370.0, 880.0])
def test_panels_stay_within_the_width(width):
    scene = panels_scene("Choices", panels(), [0, 1, 2], n_inputs=2, width=width)
    for node in parsed(scene).iter(SVG + "image"):
        assert float(node.get("x")) + float(node.get("width")) <= width


def test_a_confusion_matrix_shows_every_count_of_few_classes_and_colours_only_of_many():
    counts = np.array([[5, 1], [0, 4]])
    assert {"5", "1", "4", "cat", "dog"} <= set(texts(confusion_scene(counts, ["cat", "dog"])))
    many = texts(confusion_scene(np.eye(50, dtype=int), [f"class{k}" for k in range(50)]))
    assert many == ["predicted class", "true class"]


def test_a_tree_shows_every_candidate_and_fills_the_chosen_ones():
    rows = [
        choice_row("body/0/op", "conv", {"conv": 0.7, "pool": 0.3}),
        choice_row("body/1/op", "pool", {"conv": 0.4, "pool": 0.6}),
        choice_row("join", (0, 2), (0.5, 0.1, 0.4)),
    ]
    for narrow in (False, True):
        root = parsed(tree_scene(rows, narrow=narrow))
        found = {}
        for group in root.iter(SVG + "g"):
            if group.get("class") == "choice":
                candidates = [node for node in group if "candidate" in node.get("class", "")]
                found[group.get("data-choice")] = {
                    node.get("data-candidate"): "chosen" in node.get("class").split() for node in candidates
                }
        assert found == {
            "body/0/op": {"conv": True, "pool": False},
            "body/1/op": {"conv": False, "pool": True},
            "join": {"0": True, "1": False, "2": True},
        }
        assert {"body", "0/op", "1/op", "join", "input 0"} <= set(texts(tree_scene(rows, narrow=narrow)))


def test_a_tree_of_a_very_large_space_shows_the_chosen_candidates_only():
    rows = [choice_row(f"layer{k}", "a", dict.fromkeys("abcdefghij", 0.1)) for k in range(80)]
    drawn = [
        node.get("data-candidate") for node in parsed(tree_scene(rows)).iter(SVG + "g") if node.get("data-candidate")
    ]
    assert drawn == ["a"] * 80


def test_a_png_reads_back_as_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    read = matplotlib.image.imread(io.BytesIO(png_bytes(pixels)))
    assert np.array_equal(np.round(read * 255).astype(np.uint8), pixels)


def scene_of_all_kinds() -> Scene:
    items = (
        Box(x=10, y=10, width=20, height=20, radius=4, fill="c2", stroke="ink"),
        Curve(commands=(("M", 0, 50), ("C", 30, 50, 40, 80, 90, 80), ("L", 99, 80)), stroke="c1", width=3, dash=(4, 2)),
        Label(x=50, y=20, text="c", subscript="k-1", halo=True),
        Label(x=90, y=50, text="$not math_ 搜索", turned=True),
        Raster(x=60, y=40, width=20, height=10, pixels=np.full((1, 2, 4), 255, dtype=np.uint8)),
    )
    return Scene(width=100, height=90, items=items, name="all")


def test_pixels_have_the_size_and_the_colours_of_the_scene():
    pixels = scene_pixels(scene_of_all_kinds(), scale=2.0)
    assert pixels.shape == (180, 200, 3)
    assert pixels.dtype == np.uint8
    assert pixels[40, 40].tolist() == [0xE2, 0x62, 0x2C]  # within the box, in the role c2
    assert pixels[170, 5].tolist() == [255, 255, 255]


def test_a_file_in_png_is_twice_as_large_as_the_scene():
    image = matplotlib.image.imread(io.BytesIO(scene_png(scene_of_all_kinds())))
    assert image.shape[:2] == (180, 200)


def test_stacked_scenes_stand_below_each_other():
    scene = stack([scene_of_all_kinds(), scene_of_all_kinds()], gap=10.0, name="two")
    assert (scene.width, scene.height) == (100, 190)
    moved = [node.get("transform") for node in parsed(scene).iter(SVG + "g")]
    assert moved == [None, "translate(0 100)"]


def test_inline_drawings_take_their_colours_from_the_page():
    text = svg_inline(scene_of_all_kinds())
    assert "var(--c2)" in text
    assert "#e2622c" not in text
    assert "xmlns" not in text


def test_text_is_measured_from_above_and_cut_in_the_middle():
    assert text_width("mmm", size=10) > text_width("iii", size=10) > 0
    assert text_width("搜", size=10) == 10.0
    cut, other = (shorten(f"a_very_long_candidate_name_{k}", size=12, width=100) for k in (1, 2))
    assert cut != other  # names that begin alike stay apart
    assert cut.startswith("a_very")
    assert cut.endswith("_1")
    assert text_width(cut, size=12) <= 100
    assert shorten("short", size=12, width=60) == "short"
    assert shorten("mmm", size=12, width=1) == "…"


def test_signs_that_xml_cannot_hold_are_replaced():
    assert clean_text("a\x00b\x1bc\nd\ud800") == "a\ufffdb\ufffdc d\ufffd"
    scene = Scene(width=10, height=10, items=(Label(x=0, y=0, text="\x00<&>\"'\ud800"),), name="\x07")
    assert texts(scene) == ["\ufffd<&>\"'\ufffd"]


def test_file_names_come_from_any_label_and_are_never_shared():
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("搜索") == "unnamed"
    scene = Scene(width=1, height=1, items=(), name="")
    pictures = [Picture(slug="cell-a", title="", caption="", wide=scene)] * 3
    assert unique_slugs(pictures) == ["cell-a", "cell-a-2", "cell-a-3"]


def test_a_long_name_is_shortened_at_once_and_its_ends_stay():
    name = "".join(chr(97 + k % 26) for k in range(200_000)) + "-end"
    started = time.process_time()
    short = shorten(name, size=11.0, width=110.0)
    assert time.process_time() - started < 1.0
    head, tail = short.split("…")
    assert name.startswith(head)
    assert name.endswith(tail)
    kept = len(head) + len(tail) + 1
    longer = f"{name[: (kept + 1) // 2]}…{name[-(kept // 2) :]}"
    assert text_width(short, size=11.0) <= 110.0 < text_width(longer, size=11.0)
    assert len(shorten("\u0301" * 50_000, size=11.0, width=110.0)) < 2000  # signs without a width


@given(name=st.text(max_size=60), width=st.floats(0.0, 200.0))
def test_as_much_of_a_name_is_kept_as_fits(name, width):
    short = shorten(name, size=11.0, width=width)
    if short in (clean_text(name), "…"):
        return
    assert text_width(short, size=11.0) <= width + 1e-6
    assert "…" in name or short.index("…") == len(short) // 2
