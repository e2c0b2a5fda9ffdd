"""The page: complete, self-contained, safe against any label, and right about several runs."""

from __future__ import annotations

import ast
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import run_factory
import yaml

import archgrad.report
from archgrad.architecture import Architecture
from archgrad.architectures import DARTS_V2
from archgrad.errors import OptionError, RunError
from archgrad.report import architecture_image, draw_architecture, write_report
from archgrad.report.compare import group_runs, kept_decisions, mean_and_spread
from archgrad.report.page import run_names
from archgrad.report.read import read_run

NASTY = "</script><img src=x onerror=alert(1)>\"'&<b>"
VOID = {"meta", "link", "img", "input", "br", "rect", "path", "image", "line"}


class Page(HTMLParser):
    """What a browser would load, run and show."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.data: dict[str, list[str]] = {}
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID or (tag == "image"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open[-1] != tag:
                self.open.pop()
            self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.data.setdefault(self.open[-1], []).append(data)

    def text(self, *tags):
        return " ".join(data for tag in tags for data in self.data.get(tag, ()))


def frames_of(page: Page) -> list[dict]:
    return [json.loads(data) for data in page.data["script"] if data.startswith("{")]


@pytest.mark.parametrize("name", ["search", "general", "retrain", "broken", "comparison"])
def test_the_page_asks_for_nothing_from_outside(reports, name):
    page = Page(reports[name])
    for tag, attributes in page.elements:
        for key in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:", "#")), (tag, key, value)
        assert "url(" not in (attributes.get("style") or "")
    assert not re.search(r"@import|url\(", page.text("style"))
    script = page.text("script")
    assert not re.search(r"https?://|\bfetch\(|XMLHttpRequest|WebSocket|import\(|sendBeacon|EventSource", script)
    (policy,) = [a["content"] for tag, a in page.elements if tag == "meta" and a.get("http-equiv")]
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("name", ["search", "general", "retrain", "broken", "comparison"])
def test_the_page_is_well_below_six_megabytes(reports, name):
    assert reports[name].stat().st_size < 1_500_000


def test_a_run_of_fifty_epochs_is_drawn_in_under_five_seconds(tmp_path):
    run = run_factory.write_search(tmp_path / "run")
    start = time.process_time()  # of this process: other tests may run beside it
    write_report([run])
    assert time.process_time() - start < 5.0


def test_a_search_shows_cells_slider_heat_maps_curves_and_record(reports):
    page = Page(reports["search"])
    figures = [a["data-picture"] for tag, a in page.elements if tag == "figure"]
    assert figures.count("forming") == 2
    wanted = "cell-normal cell-reduce alphas-normal alphas-reduce loss accuracy alphas-entropy gradient-norms"
    wanted += " skip-connections learning-rate time throughput memory waiting"
    assert set(wanted.split()) <= set(figures)
    (slider,) = [a for tag, a in page.elements if tag == "input"]
    assert (slider["type"], slider["min"], slider["max"], slider["value"]) == ("range", "0", "49", "49")
    assert "batch_size" in page.text("th")
    assert "hardware.gpus" in page.text("th")


def test_the_slider_has_the_decisions_and_probabilities_of_every_epoch(reports, runs):
    (data,) = frames_of(Page(reports["search"]))
    assert data["epochs"] == list(range(1, 51))
    for epoch in (0, 20, 49):
        architecture = Architecture.load(runs["search"] / "checkpoints" / f"epoch_{epoch}.json")
        for label, cell in data["cells"].items():
            kept = {(cell["pairs"][edge], cell["names"][name]) for edge, name in cell["kept"][epoch]}
            nodes = architecture.choices[label].items()
            assert kept == {(f"{source}->{node}", op) for node, pairs in nodes for op, source in pairs}
            row = architecture.provenance["probabilities"][f"{label}/1->4"]
            start = cell["pairs"].index("1->4") * len(cell["names"])
            assert cell["p"][epoch][start : start + 8] == [round(1000 * p) for p in row.values()]


def test_a_general_space_is_shown_as_a_tree_that_the_slider_moves(reports):
    page = Page(reports["general"])
    assert [a["data-picture"] for tag, a in page.elements if a.get("class") == "forming-choices"] == ["choices"]
    (data,) = frames_of(page)
    assert set(data["choices"]) == {"stem/conv", "body/0/op", "body/1/op", "body/2/op", "head", "body/join"}
    assert len(data["choices"]["body/join"]["chosen"][0]) == 2


def test_a_retraining_shows_curves_costs_confusion_and_the_worst_images(reports):
    page = Page(reports["retrain"])
    figures = [a.get("data-picture") for tag, a in page.elements if tag == "figure"]
    assert {"loss", "accuracy", "drop-path", "confusion", "cell-normal", "cell-reduce"} <= set(figures)
    assert sum(tag == "img" for tag, _ in page.elements) == 16
    assert {"3.35 M", "539.00 M"} <= set(page.data["dd"])
    assert "airplane, taken for cat" in [a.get("alt") for tag, a in page.elements if tag == "img"]
    assert not [a for tag, a in page.elements if tag == "input"]


def test_a_run_that_broke_off_says_so_and_what_cannot_be_read(reports):
    page = Page(reports["broken"])
    assert "search at 7 of 50 epochs: still going, or broke off" in page.data["span"]
    assert "epoch_7.json cannot be read" in page.text("li")


@pytest.mark.parametrize("name", ["search", "general", "retrain", "broken"])
def test_each_picture_lies_in_the_run_folder_as_png_and_svg(reports, runs, name):
    files = {path.name for path in (runs[name] / "report").iterdir()}
    assert {name.removesuffix(".png") for name in files if name.endswith(".png")} == {
        name.removesuffix(".svg") for name in files if name.endswith(".svg")
    }
    assert "loss.png" in files
    assert reports[name] == runs[name] / "report.html"


def test_the_same_run_gives_the_same_page(tmp_path, reports, runs):
    again = write_report([runs["search"]], out=tmp_path / "again.html")
    assert again.read_bytes() == reports["search"].read_bytes()


def test_labels_candidates_and_settings_cannot_inject_markup(tmp_path):
    run = run_factory.write_general(tmp_path / NASTY.replace("/", "_"), epochs=3, names=(NASTY, "b\x07", "c"))
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) | {NASTY: NASTY}
    (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    for path in (run / "checkpoints").iterdir():
        data = json.loads(path.read_text(encoding="utf-8"))
        for part in (data["choices"], data["provenance"]["alphas"], data["provenance"]["probabilities"]):
            part[NASTY] = part.pop("head")
        data["choices"]["cell" + NASTY] = {"2": [[NASTY, 0], ["b", 1]]}
        path.write_text(json.dumps(data), encoding="utf-8")
    page = Page(write_report([run, run_factory.write_general(tmp_path / "other")], out=tmp_path / "page.html"))
    assert not [tag for tag, _ in page.elements if tag in ("img", "b")]
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    first = frames_of(page)[0]
    assert NASTY in first["choices"]
    assert NASTY in first["choices"]["stem/conv"]["names"]
    assert sum(tag == "script" for tag, _ in page.elements) == 3  # the frames of two runs and the page's own
    for svg in (run / "report").glob("*.svg"):
        assert "<img" not in svg.read_text(encoding="utf-8")


def test_several_runs_are_compared_by_mean_and_spread_over_seeds(reports):
    page = Page(reports["comparison"])
    figures = [a["data-picture"] for tag, a in page.elements if tag == "figure" and "data-picture" in a]
    assert {
        "comparison-train-loss-search",
        "comparison-valid-accuracy-search",
        "comparison-skip-connections-search",
    } <= set(figures)
    runs = sum(f == "cell-normal" for f in figures)
    assert runs == 6  # of each of three runs once side by side and once in its own section
    assert "Comparison of 3 runs" in page.text("h2")
    assert any(" ± " in cell for cell in page.data["td"])
    assert "search, mean of 2" in {a.get("data-name") for _, a in page.elements}


def test_runs_that_differ_in_their_seed_only_form_a_group(runs, tmp_path):
    other = run_factory.write_search(tmp_path / "other", epochs=2, planned=12, seed=3)
    config = yaml.safe_load((other / "config.yaml").read_text(encoding="utf-8")) | {"batch_size": 96}
    (other / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    groups = group_runs([read_run(path) for path in (runs["seed1"], other, runs["seed2"], runs["retrain"])])
    assert [(group.name, group.indices) for group in groups] == [
        ("batch_size=64", (0, 2)),
        ("batch_size=96", (1,)),
        ("retraining", (3,)),
    ]


def test_mean_and_spread_leave_out_missing_values():
    # Mean of 1, 2 and 6 is 3; squared deviations 4 + 1 + 9 = 14 over two degrees of freedom: sqrt(7).
    assert mean_and_spread([1.0, None, 2.0, 6.0, float("nan")]) == (3.0, pytest.approx(7**0.5), 3)
    assert mean_and_spread([2.0]) == (2.0, None, 1)
    assert mean_and_spread([None]) is None


def test_common_decisions_come_first_and_differing_ones_name_their_runs(tmp_path):
    paths = []
    for name, kept in (("a", ["skip", 0]), ("b", ["pool", 0])):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        choices = {"cell": {"2": [["conv", 1], kept]}, "join": [0, 2] if name == "a" else [0, 1]}
        Architecture(choices).save(tmp_path / name / "checkpoints" / "epoch_0.json")
        paths.append(tmp_path / name)
    found = kept_decisions([read_run(path) for path in paths])
    assert [(d.choice, d.edge, d.taken, d.kept) for d in found] == [
        ("cell", (1, 2, 2), "conv", (True, True)),
        ("join", None, "input 0", (True, True)),
        ("cell", (0, 2, 2), "pool", (False, True)),
        ("cell", (0, 2, 2), "skip", (True, False)),
        ("join", None, "input 1", (False, True)),
        ("join", None, "input 2", (True, False)),
    ]
    page = Page(write_report(paths))
    assert "2 of 6 decisions" in page.text("p")


def test_runs_are_called_by_as_many_folders_as_tell_them_apart(tmp_path):
    paths = [run_factory.write_retrain(tmp_path / name, epochs=1) for name in ("x/run", "y/run", "z/other")]
    assert run_names([read_run(path) for path in paths]) == ["x/run", "y/run", "other"]


def test_a_page_of_too_many_runs_shows_their_comparison_and_numbers_only(tmp_path, monkeypatch):
    runs = [run_factory.write_general(tmp_path / name) for name in "abc"]
    whole = write_report(runs, out=tmp_path / "whole.html")
    monkeypatch.setattr("archgrad.report.report_file.MAX_PAGE_BYTES", whole.stat().st_size // 2)
    brief = write_report(runs, out=tmp_path / "brief.html")
    assert brief.stat().st_size < whole.stat().st_size // 2
    page = Page(brief)
    assert "Comparison of 3 runs" in page.text("h2")
    assert page.text("p").count("would make the page too large") == 3
    assert (runs[2] / "report" / "loss.png").is_file()


def test_the_page_goes_where_it_is_told(tmp_path):
    first, second = (run_factory.write_general(tmp_path / name, epochs=1) for name in "ab")
    assert write_report([first], out=tmp_path / "new" / "page.html") == tmp_path / "new" / "page.html"
    assert write_report([first], out=tmp_path / "folder") == tmp_path / "folder" / "report.html"
    assert write_report([first, second]) == first / "comparison.html"
    assert (tmp_path / "folder" / "report.html").is_file()


def test_a_report_of_nothing_or_of_a_run_twice_is_an_error(runs, tmp_path):
    with pytest.raises(OptionError, match="at least one run folder"):
        write_report([])
    with pytest.raises(OptionError, match="each run folder once"):
        write_report([runs["seed1"], runs["seed1"] / ".." / "seed1"])
    with pytest.raises(RunError, match="is no folder"):
        write_report([tmp_path / "missing"])


def test_a_place_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path):
    run = run_factory.write_general(tmp_path / "run", epochs=1)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(RunError, match="cannot be written"):
        write_report([run], out=tmp_path / "file" / "page.html")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "run"}


def test_a_run_that_has_just_begun_has_a_report(tmp_path):
    (tmp_path / "config.yaml").write_text("command: search\nepochs: 50\n", encoding="utf-8")
    page = Page(write_report([tmp_path]))
    assert "search at 0 of 50 epochs: still going, or broke off" in page.data["span"]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_an_architecture_is_drawn_into_a_file_by_its_ending(tmp_path, suffix):
    path = draw_architecture(DARTS_V2, tmp_path / f"cell{suffix}")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    if suffix == ".svg":
        assert content.count(b'class="node"') == 14
        assert content.count(b'class="edge"') == 16


def test_an_architecture_of_choices_is_drawn_as_well(tmp_path):
    architecture = Architecture({"stem/conv": "conv3", "join": [0, 2]})
    text = draw_architecture(architecture, tmp_path / "tree.svg").read_text(encoding="utf-8")
    assert {"conv3", "0", "2"} == set(re.findall(r'data-candidate="([^"]*)"', text))


def test_a_picture_of_another_ending_or_of_nothing_is_an_error(tmp_path):
    with pytest.raises(OptionError, match=r"ends in \.png or \.svg"):
        draw_architecture(DARTS_V2, tmp_path / "cell.gif")
    with pytest.raises(OptionError, match="nothing to draw"):
        draw_architecture(Architecture({}), tmp_path / "cell.png")
    with pytest.raises(RunError, match="cannot be written"):
        draw_architecture(DARTS_V2, tmp_path / "missing" / "cell.svg")
    assert list(tmp_path.iterdir()) == []


def test_an_image_for_a_logger_is_an_array_of_colours():
    image = architecture_image(DARTS_V2, scale=1.0)
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.dtype == np.uint8
    assert 0.01 < (image < 250).any(axis=2).mean() < 0.9
    with pytest.raises(OptionError, match="above 0"):
        architecture_image(DARTS_V2, scale=0.0)


def test_the_report_imports_no_torch_and_nothing_that_needs_it():
    names = "errors", "files", "json_text", "architecture", "cost_names", "decision", "margins", "nasbench", "show"
    allowed = {*names, "report"}
    for path in Path(archgrad.report.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
            for name in names:
                assert name.split(".")[0] != "torch", path
                assert not name.startswith("archgrad") or name.split(".")[1] in allowed, (path, name)
