"""What is kept of a study, and the page that is made of it."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from archgrad.errors import DataError
from archgrad.study.kept import Kept, from_csv, to_csv
from archgrad.study.results_page import filled

ROOT = Path(__file__).parents[2]
ONE = Kept(
    space="s", data="d", judge="table accuracy", method="darts", seed=0, score=50.0, course=(10.0, 50.0),
    course_minutes=(1.5, 3.0), search_minutes=3.0, selection_minutes=0.5, choices='{"a":"b"}', commit="c" * 40,
    versions="torch 2", hardware="2 cores",
)  # fmt: skip
FAILED = Kept(space="", data="", judge="", method="searches/s/d/gdas/seed-0", seed=None, score=None, failed="no disk")
PAGE = "# Results\n\n<!-- study: mine -->\nold\n<!-- end of study -->\n\nAfter.\n"


def test_the_published_page_is_made_of_what_is_kept_in_the_repository() -> None:
    page, pictures = runpy.run_path(str(ROOT / "studies" / "make_page.py"))["made"]()
    assert page == (ROOT / "docs" / "results.md").read_text(encoding="utf-8"), "run make results"
    folder = ROOT / "docs" / "images" / "results"
    assert sorted(pictures) == sorted(file.name for file in folder.glob("*.svg"))
    for name, svg in pictures.items():
        assert (folder / name).read_text(encoding="utf-8") == svg, f"{name}: run make results"
        assert f"images/results/{name})" in page


def test_what_is_kept_survives_its_file() -> None:
    rows = [ONE, replace(ONE, method="random", search_minutes=None, course=(), course_minutes=()), FAILED]
    assert from_csv(to_csv(rows)) == rows
    with pytest.raises(DataError, match="broken"):
        from_csv("space,seed\ns,first\n")


def test_a_page_shows_scores_failures_and_evidence() -> None:
    rows = [ONE, replace(ONE, seed=1, score=60.0), replace(ONE, method="all-conv", score=90.0, choices="{}"), FAILED]
    page, pictures = filled(PAGE, {"mine": rows}, images="images")
    assert page.startswith("# Results\n\n<!-- study: mine -->\n")
    assert page.endswith("<!-- end of study -->\n\nAfter.\n")
    assert "old" not in page
    for said in (
        "### s, d, judged by table accuracy", "| darts | 2 | 55.00 |", "| 3.00 | 0.50 |", "gdas/seed-0 failed: no disk",
        "1 runs failed", "Hardware: 2 cores.", "Versions: torch 2.", f"Commit: {'c' * 10}.",
    ):  # fmt: skip
        assert said in page
    assert list(pictures) == ["mine-1.svg", "mine-2.svg", "mine-3.svg"]  # seeds, over epochs, over minutes
    assert "darts, seed 1: 60.00 %" in pictures["mine-1.svg"]
    assert filled(page, {"mine": rows}, images="images") == (page, pictures)


def test_a_page_without_a_place_for_a_study_is_refused() -> None:
    with pytest.raises(DataError, match=r"places for mine, but kept are other"):
        filled(PAGE, {"other": [ONE]}, images="images")
