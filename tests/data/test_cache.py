"""Files in the cache are whole or not there, and made by one process."""

import multiprocessing
import time
from pathlib import Path

import pytest
import torch

from archgrad.data.cache import cache_root, load_tensors, make_file_once, save_tensors
from archgrad.errors import DataError


def slowly(path: Path) -> None:
    time.sleep(0.2)
    path.write_text("made")


def make(target: Path, log: Path) -> None:
    def write(path: Path) -> None:
        with open(log, "a") as file:
            file.write("x")
        slowly(path)

    make_file_once(target, write)


def test_of_several_processes_one_does_the_work(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=make, args=(tmp_path / "a" / "file", tmp_path / "log")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "a" / "file").read_text() == "made"
    assert (tmp_path / "log").read_text() == "x"


def test_work_that_fails_leaves_nothing_and_is_tried_again(tmp_path):
    def fails(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(DataError, match=r"disk full.*ARCHGRAD_DATA"):
        make_file_once(tmp_path / "file", fails)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    assert make_file_once(tmp_path / "file", slowly).read_text() == "made"


def test_tensors_come_back_and_damage_or_absence_is_none(tmp_path):
    save_tensors(tmp_path / "new" / "x.safetensors", {"a": torch.arange(5)}, {"b": "c"})
    loaded = load_tensors(tmp_path / "new" / "x.safetensors")
    assert loaded is not None
    assert loaded[0]["a"].tolist() == [0, 1, 2, 3, 4]
    assert loaded[1] == {"b": "c"}
    assert load_tensors(tmp_path / "absent") is None
    (tmp_path / "hostile").write_bytes(b"\xff" * 7 + b"\x7f" + b"{}")  # a header of 2^63 bytes
    assert load_tensors(tmp_path / "hostile") is None


def test_the_cache_is_where_one_says(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHGRAD_DATA", str(tmp_path / "variable"))
    assert cache_root(tmp_path / "argument") == tmp_path / "argument"
    assert cache_root(None) == tmp_path / "variable"
    monkeypatch.delenv("ARCHGRAD_DATA")
    assert cache_root(None) == Path.home() / ".cache" / "archgrad"
