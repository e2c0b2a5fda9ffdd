"""A disk that is full, read-only or forbidden ends a run with a message; with the disk in order it goes on."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from archgrad.errors import RunError
from archgrad.runs import RunFolder, load_state, save_state

from .runs import outcome, search

REMEDIES = {errno.ENOSPC: "The disk is full", errno.EDQUOT: "quota is used up", errno.EIO: "input/output error"}


def fail_from(call: int, number: int, patch: pytest.MonkeyPatch, *, name: str = "fsync") -> None:
    """Let each call of a function of `os` fail, from call `call` on, counted from 0."""
    real, calls = getattr(os, name), 0

    def failing(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > call:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **named)

    patch.setattr(os, name, failing)


@pytest.mark.parametrize("number", REMEDIES)
@pytest.mark.parametrize("call", [6, 17, 25, 33])
def test_a_search_on_a_failing_disk_says_so_and_goes_on_later(
    call: int, number: int, tmp_path: Path, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        fail_from(call, number, patch)
        with pytest.raises(RunError, match=REMEDIES[number]) as caught:
            search(run, checkpoint_steps=2)
    assert str(run) in str(caught.value)
    search(run, resume=True)
    assert outcome(run) == uninterrupted


def test_a_checkpoint_that_cannot_be_renamed_leaves_the_last_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunFolder.create(tmp_path / "run", command="search", config={}) as folder:
        folder.save_checkpoint({"epoch": 1})
        folder.save_checkpoint({"epoch": 2})
        for call in range(3):  # partial file to next.ckpt, last.ckpt to previous.ckpt, next.ckpt to last.ckpt
            with monkeypatch.context() as patch:
                fail_from(call, errno.EIO, patch, name="replace")
                with pytest.raises(RunError, match="input/output error"):
                    folder.save_checkpoint({"epoch": 3})
            assert folder.load_checkpoint()["epoch"] in (2, 3)


def test_content_is_on_the_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A power cut keeps what was flushed. File, rename, folder: any other order could lose both old and new.
    done: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        done.append("flush folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "flush file")
        real_fsync(descriptor)

    def replace(*paths: Any) -> None:
        done.append("rename")
        real_replace(*paths)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    save_state(tmp_path / "state.ckpt", {"epoch": 1})
    if os.path.isdir("/proc/self/fd"):
        assert done == ["flush file", "rename", "flush folder"]
    assert load_state(tmp_path / "state.ckpt") == {"epoch": 1}


@pytest.mark.parametrize("resume", [False, True])
def test_a_read_only_file_system_is_named_before_anything_is_computed(
    resume: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real_open = tmp_path / "run", os.open
    if resume:
        search(run, epochs=1)

    def read_only(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(path).startswith(str(run)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real_open(path, flags, *rest, **named)

    def never(outputs: Any, targets: Any) -> Any:
        assert not torch.is_grad_enabled(), "a step was taken"
        return F.cross_entropy(outputs, targets)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        with pytest.raises(RunError, match=rf"{run}.*read-only: choose a folder that can be written"):
            search(run, resume=resume, epochs=1, loss=never)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_may_not_be_written_is_named(resume: bool) -> None:
    def open_run(run: Path) -> None:
        if resume:
            RunFolder.resume(run, command="search", config=None)
        else:
            RunFolder.create(run / "below", command="search", config={})

    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        RunFolder.create(run, command="search", config={}).close()
        os.chmod(temporary, 0o755)
        for path in (*run.rglob("*"), run):
            path.chmod(0o555 if path.is_dir() else 0o444)
        user = os.geteuid()
        try:
            if user == 0:  # root may write anywhere
                os.seteuid(65534)
            with pytest.raises(RunError, match="Permission is missing"):
                open_run(run)
        finally:
            os.seteuid(user)
            run.chmod(0o755)
            (run / "checkpoints").chmod(0o755)
