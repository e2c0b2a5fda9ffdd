"""`archgrad show`, `query` and `report`."""

from __future__ import annotations

import shutil
from pathlib import Path

import archgrad as ag
from archgrad.nasbench import OPERATIONS
from archgrad.show import to_dot

from .typed import Type

CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|"


def test_show_takes_a_name_a_file_a_run_or_a_cell(searched: Path, retrained: Path, archgrad: Type) -> None:
    assert "dil_conv_3x3 ← node 2" in archgrad("show", "DARTS_V2").out
    of_file = archgrad("show", searched / "checkpoints" / "epoch_0.json").out
    assert of_file.startswith("tiny\n")
    assert archgrad("show", searched).out == of_file
    assert archgrad("show", retrained).out == of_file
    assert archgrad("show", CELL).out.startswith("nasbench201\n")


def test_show_draws_what_the_files_ending_says(archgrad: Type) -> None:
    assert archgrad("show", "DARTS_V1", "--dot").out == to_dot(ag.architectures.DARTS_V1)
    for name, first_bytes in (("c.png", b"\x89PNG"), ("c.svg", b"<"), ("c.dot", b"digraph")):
        outcome = archgrad("show", "DARTS_V1", "--out", name)
        assert (outcome.status, outcome.out) == (0, f"{name}\n")
        assert Path(name).read_bytes().startswith(first_bytes)


def test_show_says_what_it_cannot_do(tmp_path: Path, archgrad: Type) -> None:
    for arguments, message in (
        (("none.json",), "There is no architecture 'none.json'"),
        ((tmp_path,), "holds no architecture"),
        (("DARTS_V1", "--out", "c.pdf"), ".png or .svg"),
        (("DARTS_V1", "--out", "nowhere/c.dot"), "cannot be written"),
        (("DARTS_V1", "--out", "c.png", "--dot"), "--dot goes with a file that ends in .dot"),
        (("|none~0|",), "A cell of NAS-Bench-201 is written"),
    ):
        outcome = archgrad("show", *arguments)
        assert (outcome.status, outcome.out) == (2, "")
        assert message in outcome.err


def test_query_prints_the_row_of_a_cell(archgrad: Type) -> None:
    other = CELL.replace("avg_pool_3x3", OPERATIONS[1])
    Path("t.csv").write_text(f"index,arch,cifar10\n7,{CELL},91.5\n8,{other},93.25\n")
    outcome = archgrad("query", CELL, "--table", "t.csv")
    assert outcome.status == 0
    assert outcome.out.splitlines()[0] == f"cell 7  {CELL}"
    assert outcome.out.splitlines()[2].split() == ["cifar10", "%", "91.500", "2", "93.250"]
    for arguments, message in (
        ((CELL, "--table", "none.csv"), "cannot be read"),
        (
            ("DARTS_V2", "--table", "t.csv"),
            "decides 'normal, reduce'. Search the space 'nasbench201' or 'nasbench-macro'.",
        ),
        ((CELL.replace("none", "skip_connect"), "--table", "t.csv"), "The table has 2 cells, but not"),
    ):
        refused = archgrad("query", *arguments)
        assert (refused.status, refused.out) == (2, "")
        assert message in refused.err


def test_report_draws_runs_and_says_where(searched: Path, retrained: Path, archgrad: Type) -> None:
    shutil.copytree(searched, "s")
    shutil.copytree(retrained, "r")
    one = archgrad("report", "s")
    assert (one.status, one.out) == (0, "s/report.html\n")
    assert Path("s/report.html").read_text().startswith("<!doctype html>")
    both = archgrad("report", "s", "r", "--out", "both.html")
    assert (both.status, both.out) == (0, "both.html\n")
    refused = archgrad("report", "nowhere")
    assert refused.status == 2
    assert "nowhere" in refused.err
