"""A part of `make fuzz`, and that it would notice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from apart import run_apart
from archgrad.errors import DataError

from . import fuzz
from .mutations import MUTATIONS, mutate
from .readers import READERS, Reader


def test_hostile_files_are_read_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_apart([str(fuzz.__file__), "--inputs", "120", "--seed", "7", "--keep", str(tmp_path)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "120 inputs, 0 break a law" in done.stdout


def takes_time(_: Path) -> None:
    started = time.process_time()
    while time.process_time() - started < 0.3:
        pass


def takes_memory(_: Path) -> None:
    bytearray(b"\1" * 10**8)


def writes_elsewhere(folder: Path) -> None:
    (folder.parent / "elsewhere").write_text("x")


def makes_a_folder_elsewhere(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()


def starts_a_program(_: Path) -> None:
    subprocess.run([sys.executable, "-c", ""], check=False)


def raises(_: Path) -> None:
    raise KeyError("x")


def refuses(_: Path) -> None:
    raise DataError("x")


def writes_where_it_may(folder: Path) -> None:
    (folder / "inside").write_text("x")


def dies(_: Path) -> None:
    os._exit(3)


@pytest.mark.parametrize(
    ("read", "law"),
    [
        (takes_time, "it took 0.3 seconds"),
        (takes_memory, "MB"),
        (writes_elsewhere, "it did open"),
        (makes_a_folder_elsewhere, "it did os.mkdir"),
        (starts_a_program, "it did subprocess.Popen"),
        (raises, "KeyError: 'x'"),
        (refuses, ""),
        (writes_where_it_may, ""),
    ],
)
def test_a_broken_law_is_noticed(
    read: Callable[[Path], None], law: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "MOST_SECONDS", 0.2)
    monkeypatch.setattr(fuzz, "MOST_BYTES", 5 * 10**7)
    monkeypatch.setitem(READERS, "test", Reader("test", "*", read, 1))
    (tmp_path / "work").mkdir()
    with tempfile.TemporaryDirectory():  # as pytest's own folders are made by now
        result = fuzz.attempt(tmp_path / "work", "test", WATCH)
    assert (law in result["wrong"]) if law else not result["wrong"], result


WATCH = fuzz.Watch()


def test_a_reader_that_ends_its_process_or_hangs_is_noticed_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "make_samples", lambda root: (root / "test").mkdir(parents=True))
    monkeypatch.setattr(fuzz, "_PATIENCE", 1.0)
    for name, read in (("dies", dies), ("hangs", lambda _: time.sleep(60)), ("refuses", refuses)):
        monkeypatch.setitem(READERS, name, Reader("test", "*", read, 1))
    inputs = [("refuses", 0), ("dies", 1), ("refuses", 2), ("hangs", 3), ("refuses", 4)]
    tally = fuzz.run(inputs, seed=1, keep=tmp_path / "kept")
    assert tally.refused["refuses"] == 3
    assert [line.partition(":")[0] for line in tally.broken] == [
        "--reader 'dies' --only 1/1",
        "--reader 'hangs' --only 1/3",
    ]
    assert (tmp_path / "kept" / "dies-1-1" / "what-was-wrong.txt").read_text().startswith("its process died")
    assert "2 break a law" in tally.text()


@pytest.mark.parametrize("ending", MUTATIONS)
def test_the_same_seed_makes_the_same_input_and_hardly_two_are_alike(ending: str) -> None:
    samples = {
        ".json": b'{"a": [1, {"b": "c"}]}',
        ".yaml": b"a: 1\nb: [1, 2]\n",
        ".csv": b"epoch,loss\n0,1.0\n",
        ".txt": b"Genotype(normal=[])",
        ".safetensors": b"\x02\0\0\0\0\0\0\0{}",
    }
    if ending not in samples:
        return
    made = [mutate(f"x{ending}", samples[ending], random.Random(seed)) for seed in range(200)]
    assert made == [mutate(f"x{ending}", samples[ending], random.Random(seed)) for seed in range(200)]
    assert len(set(made)) > 100
