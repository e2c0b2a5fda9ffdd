"""A run writes into the folder that it locked, and nowhere else: not into its successor, and not where links lead."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from archgrad.architecture import Architecture
from archgrad.errors import RunError
from archgrad.report import write_report
from archgrad.runs import RunFolder, open_loggers

from .problems import PROBLEMS, Drifting, results, run_retrain
from .runs import loss_that, outcome, search
from .test_buffers import Stopped, stop_after
from .test_damage import cut_run


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# --- the folder goes away while a run writes into it ------------------------------------------------------------------


def begin(run: Path) -> RunFolder:
    """Begin another run of another process, as far as the folder can tell."""
    folder = RunFolder.create(run, command="search", config={"of": "another process"})
    folder.metrics.append({"epoch": 0})
    folder.save_checkpoint({"of": "another process"})
    return folder


def removed(run: Path) -> None:
    shutil.rmtree(run)


def removed_and_begun_anew(run: Path) -> RunFolder:
    shutil.rmtree(run)
    return begin(run)


def renamed(run: Path) -> None:
    run.rename(run.with_name("elsewhere"))


def renamed_and_begun_anew(run: Path) -> RunFolder:
    run.rename(run.with_name("elsewhere"))
    return begin(run)


def lock_removed_and_resumed(run: Path) -> RunFolder:
    (run / ".lock").unlink()
    return RunFolder.resume(run, command="search", config=None)


CHANGES = [removed, removed_and_begun_anew, renamed, renamed_and_begun_anew, lock_removed_and_resumed]


@pytest.mark.parametrize("step", [1, 4, 5])
@pytest.mark.parametrize("change", CHANGES)
def test_a_run_whose_folder_is_another_one_ends_and_writes_nothing_there(
    change: Callable[[Path], RunFolder | None], step: int, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    run, seen = tmp_path / "run", {}

    def act() -> None:
        seen["other"] = change(run)
        seen["content"] = content(run)

    with pytest.raises(RunError, match=rf"The run folder '{run}' .*the run ends here") as caught:
        search(run, loss=loss_that(act, step=step), checkpoint_steps=2)
    assert "another one now" in str(caught.value) or "removed or renamed" in str(caught.value)
    assert content(run) == seen["content"]
    assert run.exists() == (seen["other"] is not None)
    if seen["other"] is not None:  # and the other still has its lock
        with pytest.raises(RunError, match=f"in use by another process .process {os.getpid()}"):
            RunFolder.resume(run, command="search", config=None)
        seen["other"].close()
    if "renamed" in change.__name__:
        search(run.with_name("elsewhere"), resume=True)
        assert outcome(run.with_name("elsewhere")) == uninterrupted


def test_nothing_of_a_run_is_written_into_its_successor(tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder = RunFolder.create(run, command="retrain", config={})
    folder.metrics.append({"epoch": 0})
    loggers = open_loggers(run, config={}, guard=folder.guard)
    shutil.rmtree(run)
    with begin(run):
        before = content(run)
        attempts: list[Callable[[], object]] = [
            lambda: folder.metrics.append({"epoch": 1}),
            lambda: folder.metrics.truncate(epochs=0),
            lambda: folder.rewind(epochs=0),
            lambda: folder.save_checkpoint({}),
            lambda: folder.save_architecture(Architecture({"a": "b"})),
            lambda: folder.save_architecture(Architecture({"a": "b"}), 3),
            lambda: folder.save_json("summary.json", {}),
            lambda: folder.save_tensors("weights/last.safetensors", {}),
            lambda: folder.record_environment(seed=0),
            lambda: loggers.log_metrics({"train_loss": 1.0}, 0),
            lambda: open_loggers(run, config={}, guard=folder.guard),
        ]
        for attempt in attempts:
            with pytest.raises(RunError, match="is another one now"):
                attempt()
        loggers.close()
        folder.close()
        assert content(run) == before


# --- links in a folder of somebody else's -----------------------------------------------------------------------------


def cut_retrain(run: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(4, patch)
        with pytest.raises(Stopped):
            PROBLEMS["retrain"].run(run, resume=False, checkpoint_steps=1)


def by_symlink(file: Path, target: Path) -> None:
    file.rename(target)
    file.symlink_to(target)


def by_hard_link(file: Path, target: Path) -> None:
    os.link(file, target)


def to_nothing(file: Path, target: Path) -> None:
    file.unlink()
    file.symlink_to(target)


@pytest.mark.parametrize("link", [by_symlink, by_hard_link, to_nothing])
@pytest.mark.parametrize("kind", ["search", "retrain"])
def test_links_in_the_place_of_files_are_replaced_and_never_followed(
    link: Callable[[Path, Path], None], kind: str, tmp_path: Path
) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    cut_run(run) if kind == "search" else cut_retrain(run)
    outside.mkdir()
    if link is to_nothing:  # files that a run makes, and some that it has made
        made = ["summary.json", "predictions.safetensors", "report.html", "environment.json", ".lock-owner.json"]
        made += ["checkpoints/epoch_2.json", "checkpoints/next.ckpt", "wandb-id.txt"]
        files = [run / name for name in made]
        for file in files:
            file.touch()
    else:
        files = [file for file in run.rglob("*") if file.is_file() and file.name != ".lock"]
    for number, file in enumerate(sorted(files)):
        link(file, outside / str(number))
    before = content(outside)
    search(run, resume=True) if kind == "search" else PROBLEMS["retrain"].run(run, resume=True)
    write_report([run])
    assert content(outside) == before
    assert results(PROBLEMS[kind], run)
    written = ["metrics.csv", "timings.csv", "environment.json", "checkpoints/last.ckpt", "checkpoints/epoch_2.json"]
    for name in written if kind == "search" else [*written[:4], "summary.json", "weights/last.safetensors"]:
        assert not (run / name).is_symlink()
        assert (run / name).stat().st_nlink == 1


def test_a_link_in_the_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    cut_run(tmp_path / "run")
    (tmp_path / "run" / ".lock").unlink()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "outside")
    with pytest.raises(RunError, match=r"\.lock': it is a link"):
        search(tmp_path / "run", resume=True)
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("name", ["checkpoints", "weights"])
def test_folders_that_are_links_are_refused_before_anything_is_computed(name: str, tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    cut_retrain(run)
    (run / name).rename(outside)
    (outside / ".thesis.part").write_text("mine")  # the name of a file that a killed writer left
    (run / name).symlink_to(outside)
    before = content(outside)
    for options in ({"resume": True}, {"resume": False, "overwrite": True, "epochs": 1}):
        if options["resume"]:
            with pytest.raises(RunError, match=rf"'{run / name}' is a link, and nothing is written through"):
                run_retrain(run, wrap=Drifting, **options)
        else:  # the link goes with the run that it was part of
            run_retrain(run, **options)
            assert not (run / name).is_symlink()
        assert content(outside) == before


def test_pictures_are_not_written_through_a_link(tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    cut_run(run)
    outside.mkdir()
    (run / "report").symlink_to(outside)
    with pytest.raises(RunError, match=rf"'{run / 'report'}' is a link"):
        write_report([run])
    with pytest.warns(UserWarning, match="pictures of .* are on the page only"):
        page = write_report([run], out=tmp_path / "page.html")
    assert page.stat().st_size > 10_000
    assert content(outside) == {}


def test_a_run_folder_may_itself_be_a_link(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "deep")
    cut_run(tmp_path / "run")
    search(tmp_path / "run", resume=True)
    write_report([tmp_path / "run"])
    assert outcome(tmp_path / "disk" / "deep") == uninterrupted
    assert (tmp_path / "disk" / "deep" / "report" / "loss.png").is_file()


# --- runs that may not be written -------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_a_run_that_may_not_be_written_has_a_report_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    cut_run(run)
    before = content(run)
    real_open, real_mkdir = os.open, os.mkdir

    def refuse(path: Any) -> None:
        if str(path).startswith(str(run)):
            raise OSError(30, "Read-only file system", str(path))

    def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(path)
        return real_open(path, flags, *rest, **named)

    def made(path: Any, *rest: Any, **named: Any) -> None:
        refuse(path)
        real_mkdir(path, *rest, **named)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "mkdir", made)
    with pytest.raises(RunError, match="name another place for the page with --out"):
        write_report([run])
    with pytest.warns(UserWarning, match=r"pictures of .* are on the page only.*Read-only file system"):
        page = write_report([run], out=out)
    assert page == out / "report.html"
    assert page.stat().st_size > 10_000
    assert content(run) == before
