"""Metrics survive crashes, come back exactly, and end where the checkpoint does."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archgrad.errors import OptionError, RunError
from archgrad.report.read import read_table
from archgrad.runs import MetricsFile, check_column, read_metrics

FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, epochs: int) -> MetricsFile:
    metrics = MetricsFile(path)
    for epoch in range(epochs):
        metrics.append({"epoch": epoch, "train_loss": 1 / (epoch + 3), "temperature": None, "note": 'a,"b"'})
    return metrics


def test_rows_come_back_exactly(tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics.csv", 2)
    assert (tmp_path / "metrics.csv").read_bytes() == (
        b'epoch,train_loss,temperature,note\n0,0.3333333333333333,,"a,""b"""\n1,0.25,,"a,""b"""\n'
    )
    assert metrics.rows()[0] == {"epoch": 0, "train_loss": 1 / 3, "temperature": None, "note": 'a,"b"'}


@FUZZ
@given(value=st.floats(allow_nan=False) | st.integers())
def test_any_number_comes_back_exactly(value: float, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.unlink(missing_ok=True)
    MetricsFile(path).append({"epoch": 0, "value": value})
    read = read_metrics(path)[0]["value"]
    assert read == value
    assert type(read) is type(value)


def test_columns_are_fixed_by_the_first_row_also_after_a_restart(tmp_path: Path) -> None:
    write(tmp_path / "metrics.csv", 1)
    with pytest.raises(RunError, match="has the columns"):
        MetricsFile(tmp_path / "metrics.csv").append({"epoch": 1, "other": 2.0})
    with pytest.raises(RunError, match="needs the column 'epoch'"):
        MetricsFile(tmp_path / "new.csv").append({"loss": 2.0})


def test_truncate_and_append_give_the_uninterrupted_file(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.csv", tmp_path / "cut.csv"
    write(whole, 4)
    write(cut, 3)
    with cut.open("ab") as file:
        file.write(b"3,0.16666")  # the process died here
    metrics = MetricsFile(cut)
    metrics.truncate(epochs=2)
    for epoch in range(2, 4):
        metrics.append({"epoch": epoch, "train_loss": 1 / (epoch + 3), "temperature": None, "note": 'a,"b"'})
    assert cut.read_bytes() == whole.read_bytes()


def test_truncate_to_nothing_and_of_nothing(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.csv")
    metrics.truncate(epochs=0)
    assert metrics.rows() == []
    write(tmp_path / "metrics.csv", 2)
    metrics.truncate(epochs=0)
    assert (tmp_path / "metrics.csv").read_bytes() == b""
    metrics.append({"epoch": 0, "other": 1})
    assert metrics.rows() == [{"epoch": 0, "other": 1}]


def test_lost_rows_are_said_aloud(tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics.csv", 2)
    with pytest.warns(UserWarning, match="has 2 of the 5 epochs"):
        metrics.truncate(epochs=5)


def test_a_file_of_something_else_is_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("name,age\nA,3\n")
    with pytest.raises(RunError, match="no column 'epoch'"):
        MetricsFile(path).truncate(epochs=0)
    assert path.read_text() == "name,age\nA,3\n"


def test_a_row_that_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write(path, 2)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert read_metrics(path) == [row for row in read_metrics(path) if row["note"] == 'a,"b"']
    assert read_metrics(tmp_path / "missing.csv") == []


@FUZZ
@given(content=st.binary(max_size=80))
def test_any_bytes_can_be_read(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    assert isinstance(read_metrics(path), list)
    path.write_bytes(b"epoch,loss\n0,1.0\n" + content)
    assert read_metrics(path)[0] == {"epoch": 0, "loss": 1.0}


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=r"metrics\.csv.*disk is full"):
        MetricsFile(tmp_path / "metrics.csv").append({"epoch": 0})


BREAKS = ["\n", "\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\udcff", "\0"]


@pytest.mark.parametrize("sign", BREAKS)
def test_names_with_line_breaks_are_refused_at_the_door(sign: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    with pytest.raises(OptionError, match=r"name of a metric must be .* printable .* Rename the metric"):
        MetricsFile(path).append({"epoch": 0, f"train_a{sign}b": 1.0})
    assert not path.exists()
    with pytest.raises(OptionError, match="name of a metric must be 1 to 200 printable characters"):
        check_column("x" * 201)


@pytest.mark.parametrize("sign", BREAKS[2:-2])
def test_lines_end_only_where_append_ends_them(sign: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    content = f"epoch,train_a{sign}b\n0,1.0\n1,2.0\n".encode()
    path.write_bytes(content)
    name = f"train_a{sign}b"
    assert read_metrics(path) == [{"epoch": 0, name: 1.0}, {"epoch": 1, name: 2.0}]
    assert read_table(path).columns == {name: (1.0, 2.0)}
    MetricsFile(path).truncate(epochs=1)
    assert path.read_bytes() == content[: -len("1,2.0\n")]


def test_an_integer_of_any_length_is_a_number_that_nothing_overflows_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(f"epoch,loss\n0,{'9' * 4000}\n{'9' * 4000},1\n")
    assert read_metrics(path) == [{"epoch": 0, "loss": math.inf}, {"epoch": math.inf, "loss": 1}]


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole: it takes no disk
    with pytest.raises(RunError, match="larger than"):
        read_metrics(path)
