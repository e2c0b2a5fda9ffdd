"""No file of a run folder keeps a reader waiting or takes its memory: what is no regular file is refused."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from archgrad.files import open_regular, read_file

from .campaign import ended, fork
from .test_trust import read_everything

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no such files")


def a_pipe(file: Path) -> None:
    os.mkfifo(file)


def a_socket(file: Path) -> None:
    here = Path.cwd()
    os.chdir(file.parent)  # the name of a socket is short
    try:
        socket.socket(socket.AF_UNIX).bind(file.name)
    finally:
        os.chdir(here)


def an_endless_device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def a_terminal(file: Path) -> None:
    file.symlink_to("/dev/tty")


def a_terabyte(file: Path) -> None:
    with open(file, "wb") as opened:
        opened.truncate(1 << 40)  # sparse: it takes no disk


KINDS = [a_pipe, a_socket, an_endless_device, a_terminal, a_terabyte]


@pytest.mark.parametrize("make", KINDS)
def test_only_regular_files_of_a_bounded_size_are_read(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "file")
    with pytest.raises(OSError, match=r"not a regular file|larger than 1000 bytes"):
        read_file(tmp_path / "file", most=1000)


def test_a_regular_file_is_read_through_links_and_up_to_its_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link", most=5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_file(tmp_path / "link", most=4)
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"12345"


@pytest.mark.parametrize("make", KINDS)
def test_nothing_in_the_place_of_a_file_of_a_run_hangs_or_eats_memory(
    make: Callable[[Path], None], runs: Path, tmp_path: Path
) -> None:
    files = [file.relative_to(runs) for file in sorted(runs.rglob("*")) if file.is_file()]
    assert len(files) >= 15

    def read() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (40 * 1024**3, 40 * 1024**3))  # what torch reserves included
        warnings.simplefilter("ignore")
        for file in files:
            copy = Path(shutil.copytree(runs, tmp_path / "runs"))
            (copy / file).unlink()
            make(copy / file)
            (tmp_path / "reached").write_text(str(file))
            read_everything(copy)
            shutil.rmtree(copy)

    child = fork(read, tmp_path / "log")
    until = time.monotonic() + 120
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.05)
    assert ended(child) == 0, f"{(tmp_path / 'reached').read_text()}: {(tmp_path / 'log').read_text()}"
