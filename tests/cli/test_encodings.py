"""Names and text of any encoding, terminals of any encoding, and no home folder."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

import archgrad as ag
from archgrad.data import load
from archgrad.data.cache import cache_root
from archgrad.errors import ArchitectureError, DataError, OptionError, RunError
from archgrad.nasbench import load_table
from archgrad.report.read import read_run
from archgrad.runs import RunFolder, read_config, read_metrics
from archgrad.runs.loggers import open_loggers

from .typed import Type

LATIN = "caf\xe9".encode("latin-1")


def typed_apart(*arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "archgrad", *arguments],
        capture_output=True,
        env={**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", **environment},
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"LC_ALL": "C.UTF-8"}])
def test_any_path_is_told_on_any_terminal(environment: dict[str, str], tmp_path: Path) -> None:
    file = os.fsencode(tmp_path) + b"/" + LATIN
    Path(os.fsdecode(file)).write_text(ag.architectures.DARTS_V2.to_json())
    shown = typed_apart("show", file, **environment)
    assert (shown.returncode, shown.stderr) == (0, b"")
    drawn = typed_apart("show", file, "--out", file + b".dot", **environment)
    assert (drawn.returncode, drawn.stderr) == (0, b"")
    assert rb"caf\udce9.dot" in drawn.stdout


def test_a_run_in_a_folder_that_is_no_text_is_refused_before_it_starts(archgrad: Type) -> None:
    name = os.fsdecode(LATIN)
    outcome = archgrad("search", "--space", "tiny", "--epochs", "1", "--out", name)
    assert outcome.status == 2
    assert "The path of a run folder must be UTF-8" in outcome.err
    assert not os.path.exists(name)


def test_what_a_run_writes_of_such_paths_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"data": f"folder:/{os.fsdecode(LATIN)}", "seed": 0}
    monkeypatch.setattr(sys, "argv", ["archgrad", os.fsdecode(LATIN)])
    for resumed in (False, True):
        run = (
            RunFolder.resume(tmp_path / "run", command="search", config=config)
            if resumed
            else RunFolder.create(tmp_path / "run", command="search", config=config)
        )
        with run:
            run.record_environment(seed=0)
            run.save_json("summary.json", {"data": config["data"]})
            with open_loggers(run.path, config=config):
                pass
    assert read_config(tmp_path / "run" / "config.yaml")["data"] == config["data"]
    read = read_run(tmp_path / "run")
    assert read.notes == ()
    assert read.summary["data"] == config["data"]
    assert os.fsdecode(LATIN) in read.environment["resumed"][0]["command_line"]


def test_files_that_are_no_utf8_are_read_or_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"epoch,loss\n0," + LATIN + b"\n1,2.0\n")
    assert [row["epoch"] for row in read_metrics(file)] == [0, 1]
    for read, error in (
        (ag.Architecture.load, ArchitectureError),
        (read_config, RunError),
        (load_table, DataError),
    ):
        for content in (LATIN, b'{"format": "' + LATIN, "\ufeff{".encode("utf-16"), b"Genotype(" + LATIN):
            file.write_bytes(content)
            with pytest.raises(error, match="file"):
                read(file)
    for name in ("config.yaml", "summary.json", "environment.json", "metrics.csv", "timings.csv", "architecture.json"):
        (tmp_path / name).write_bytes(b"\xff\xfe" + LATIN + b"\n")
    assert len(read_run(tmp_path).notes) == 4


def test_a_yaml_error_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: 1\nb: [1, 2\nc: 3\n")
    with pytest.raises(RunError, match=r"no valid YAML: .*in line 3, column 2\. Mend it\.$") as caught:
        read_config(tmp_path / "config.yaml")
    assert "\n" not in str(caught.value)


def test_a_configuration_that_would_take_long_to_read_is_neither_written_nor_read(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"may take 262144 bytes.*most of them 'notes'.*file of your own"):
        RunFolder.create(tmp_path / "run", command="search", config={"seed": 0, "notes": "x" * 300_000})
    (tmp_path / "config.yaml").write_text("a: [" + "1, " * 1_000_000 + "]\n")
    with pytest.raises(RunError, match="larger than 262144 bytes"):
        read_config(tmp_path / "config.yaml")
    assert "larger than" in read_run(tmp_path).notes[0]


def test_without_a_home_folder_the_remedy_is_named(
    archgrad: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("ARCHGRAD_DATA", raising=False)

    def nobody(_: object) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(pwd, "getpwnam", nobody)
    with pytest.raises(OptionError, match=r"there is none: .*variable ARCHGRAD_DATA"):
        cache_root(None)
    assert cache_root(tmp_path) == tmp_path
    assert load("digits").name == "digits"  # which needs no folder
    for arguments in (
        ("search", "--data", "folder:~/images"),
        ("search", "--space", "~/space.py:Net"),
        ("show", "~/architecture.json"),
    ):
        outcome = archgrad(*arguments)
        assert outcome.status == 2
        assert "home folder, but there is none" in outcome.err
        assert "Give the whole path" in outcome.err
