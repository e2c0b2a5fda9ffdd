"""A run folder is never overwritten unasked, never shared, and says what is wrong with it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apart import run_apart
from archgrad.architecture import Architecture
from archgrad.errors import RunError
from archgrad.fast.native import instruction_set
from archgrad.runs import RunFolder, config_difference, load_state, read_config
from archgrad.runs.config import plain_config, write_config

CONFIG = {"epochs": 50, "learning_rate": 1e-5, "space": {"channels": 16}, "out": Path("runs/a"), "betas": (0.5, 0.999)}


def create(path: Path, **options: Any) -> RunFolder:
    return RunFolder.create(path, command="search", config=CONFIG, **options)


def test_a_new_run_has_a_complete_configuration(tmp_path: Path) -> None:
    with create(tmp_path / "deep" / "run") as folder:
        assert not folder.resumed
        content = yaml.safe_load((folder.path / "config.yaml").read_text())
        assert content == {
            "command": "search",
            "epochs": 50,
            "learning_rate": 1e-5,
            "space": {"channels": 16},
            "out": "runs/a",
            "betas": [0.5, 0.999],
        }
        assert next(iter(content)) == "command"
        assert folder.config == {key: value for key, value in content.items() if key != "command"}


def test_an_existing_folder_is_left_alone_unless_told(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(RunError, match=r"holds thesis\.tex"):
            create(tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_earlier_run_is_overwritten_only_when_told_and_foreign_files_stay(tmp_path: Path) -> None:
    with create(tmp_path) as folder:
        folder.metrics.append({"epoch": 0, "train_loss": 1.0})
        folder.save_checkpoint({"epoch": 1})
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="pass overwrite=True"):
        create(tmp_path)
    assert (tmp_path / "metrics.csv").exists()
    with create(tmp_path, overwrite=True) as folder:
        assert folder.load_checkpoint() is None
        assert folder.metrics.rows() == []
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_run_that_appears_while_waiting_for_the_lock_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from archgrad.runs import run_folder as module

    def lock_after_another_run(path: Path) -> Any:
        (path / "config.yaml").write_text("command: search\n")
        return real_lock(path)

    real_lock = module.RunLock
    monkeypatch.setattr(module, "RunLock", lock_after_another_run)
    with pytest.raises(RunError, match="is not empty"):
        create(tmp_path)
    assert (tmp_path / "config.yaml").read_text() == "command: search\n"
    monkeypatch.undo()
    RunFolder.resume(tmp_path, command="search", config=None).close()  # and the lock is free


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="is a file"):
        create(tmp_path / "run")


def test_a_configuration_that_yaml_cannot_hold_is_named_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"config\.space\.thing is a object"):
        RunFolder.create(tmp_path / "run", command="search", config={"space": {"thing": object()}})
    assert not (tmp_path / "run").exists()


def test_resume_reads_the_run_back(tmp_path: Path) -> None:
    with create(tmp_path) as folder:
        folder.save_checkpoint({"epoch": 3})
    with RunFolder.resume(tmp_path, command="search", config=None) as folder:
        assert folder.resumed
        assert folder.load_checkpoint() == {"epoch": 3}
        assert folder.config["epochs"] == 50
    RunFolder.resume(tmp_path, command="search", config=CONFIG).close()


def test_resume_with_other_options_prints_the_difference(tmp_path: Path) -> None:
    create(tmp_path).close()
    other = {**CONFIG, "epochs": 60, "space": {"channels": 36}, "new": 1}
    with pytest.raises(RunError) as caught:
        RunFolder.resume(tmp_path, command="search", config=other)
    for line in (
        "epochs: the run has 50, asked for 60",
        "space.channels: the run has 16, asked for 36",
        "new: the run has nothing, asked for 1",
    ):
        assert f"\n  {line}\n" in str(caught.value)
    RunFolder.resume(tmp_path, command="search", config=other, may_differ=("epochs", "space", "new")).close()


def test_an_option_that_another_version_has_makes_no_difference_where_it_is_off(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, command="search", config={**CONFIG, "gone": None}).close()
    RunFolder.resume(tmp_path, command="search", config={**CONFIG, "new": None, "newer": False}).close()
    with pytest.raises(RunError, match=r"space\.new: the run has nothing, asked for False"):  # may be on by default
        RunFolder.resume(tmp_path, command="search", config={**CONFIG, "space": {**CONFIG["space"], "new": False}})


def test_resume_of_another_command_or_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no config\.yaml"):
        RunFolder.resume(tmp_path / "missing", command="search", config=None)
    create(tmp_path).close()
    with pytest.raises(RunError, match="command: search"):
        RunFolder.resume(tmp_path, command="retrain", config=None)


def test_leftovers_of_a_killed_writer_are_removed_on_resume(tmp_path: Path) -> None:
    create(tmp_path).close()
    leftover = tmp_path / "checkpoints" / ".next.ckpt.0123abcd.part"
    leftover.write_bytes(b"half")
    RunFolder.resume(tmp_path, command="search", config=None).close()
    assert not leftover.exists()


def test_a_start_that_was_killed_while_it_wrote_its_configuration_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml.0123abcd.part").write_bytes(b"command: sea")
    create(tmp_path).close()
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize("command", ["search", "retrain"])
def test_a_start_that_was_killed_before_it_made_its_folders_is_gone_on_with(command: Any, tmp_path: Path) -> None:
    write_config(tmp_path / "config.yaml", {"command": command})
    with RunFolder.resume(tmp_path, command=command, config=None) as folder:
        assert (tmp_path / "checkpoints").is_dir()
        assert folder.weights.is_dir() == (command == "retrain")


def test_overwriting_that_was_killed_can_be_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PowerCut(BaseException):
        pass

    def cut(*_: Any, **__: Any) -> None:
        raise PowerCut

    create(tmp_path).close()
    (tmp_path / "notes.txt").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr("archgrad.runs.run_folder.write_config", cut)
        with pytest.raises(PowerCut):
            create(tmp_path, overwrite=True)
    create(tmp_path, overwrite=True).close()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_architectures_are_saved_by_epoch(tmp_path: Path) -> None:
    architecture = Architecture({"conv": "conv3"})
    with create(tmp_path) as folder:
        path = folder.save_architecture(architecture, epoch=4)
        assert path == tmp_path / "checkpoints" / "epoch_4.json"
        assert Architecture.load(path) == architecture
        assert folder.save_architecture(architecture).name == "architecture.json"


# --- the lock ---------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from archgrad.runs import RunFolder
folder = RunFolder.resume(sys.argv[1], command="search", config=None)
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_frees_the_folder(tmp_path: Path) -> None:
    create(tmp_path).close()
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for attempt in (
            lambda: RunFolder.resume(tmp_path, command="search", config=None),
            lambda: create(tmp_path, overwrite=True),
        ):
            with pytest.raises(RunError, match=f"in use by another process .process {holder.pid}"):
                attempt()
        assert (tmp_path / "config.yaml").exists()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        RunFolder.resume(tmp_path, command="search", config=None).close()
    finally:
        holder.kill()
        holder.wait()


def test_the_lock_is_free_after_an_error_in_create(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(RunError, match="disk is full"):
            create(tmp_path)
    create(tmp_path).close()


# --- disks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "read-only"), (errno.EACCES, "Permission is missing")],
)
def test_a_failing_disk_is_named_and_the_last_checkpoint_stays(
    number: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with create(tmp_path) as folder:
        folder.save_checkpoint({"epoch": 1})
        folder.metrics.append({"epoch": 0})
        real_open = os.open

        def failing_open(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            if flags & os.O_WRONLY:
                raise OSError(number, os.strerror(number))
            return real_open(path, flags, *rest, **named)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", failing_open)
            with pytest.raises(RunError, match=remedy) as caught:
                folder.save_checkpoint({"epoch": 2})
            assert "checkpoints" in str(caught.value)
        assert folder.load_checkpoint() == {"epoch": 1}


LIMITED = """
import resource, signal, sys
import torch
from archgrad.errors import RunError
from archgrad.runs import RunFolder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with RunFolder.create(sys.argv[1], command="search", config={}) as folder:
    folder.save_checkpoint({"epoch": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        folder.save_checkpoint({"epoch": 2, "weights": torch.zeros(100_000)})
    except RunError as error:
        print(error)
    assert folder.load_checkpoint() == {"epoch": 1}
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file size limit to set")
def test_a_write_that_breaks_off_in_the_middle_leaves_no_trace(tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = run_apart(["-c", LIMITED, str(run)])
    assert result.returncode == 0, result.stderr
    assert "size limit" in result.stdout
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]


KILLED = """
import sys
import torch
from archgrad.runs import RunFolder
folder = RunFolder.create(sys.argv[1], command="search", config={})
step = 0
while True:
    step += 1
    folder.save_checkpoint({"step": step, "weights": torch.full((200_000,), float(step))})
    print(step, flush=True)
"""


def test_a_process_killed_while_it_saves_loses_no_completed_checkpoint(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(20):
        completed = int(process.stdout.readline())
    time.sleep(0.0037)
    process.kill()
    completed = max([completed, *map(int, process.stdout.read().split())])
    process.wait()
    with RunFolder.resume(tmp_path / "run", command="search", config=None) as folder:
        state = folder.load_checkpoint()
        assert state["step"] >= completed
        assert bool((state["weights"] == state["step"]).all())


# --- configuration ----------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(config=st.dictionaries(st.text(), VALUES, max_size=4))
def test_any_configuration_comes_back_without_difference(config: dict[str, Any], tmp_path: Path) -> None:
    write_config(tmp_path / "config.yaml", config)
    assert config_difference(config, read_config(tmp_path / "config.yaml")) == []


@FUZZ
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_configuration_or_a_run_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    with contextlib.suppress(RunError):
        assert isinstance(plain_config(read_config(tmp_path / "config.yaml")), dict)


@pytest.mark.parametrize(
    "content",
    [
        "!!python/object/apply:os.system ['true']",
        "a: !!python/name:os.system",
        "a: !!int",
        "a: !!int x",
        "a: !!bool x",
        "a: !!float ''",
        "a: !!timestamp x",
        "a: 2020-01-01",
        "a: !!binary x",
        "a: &x [1]\nb: *x",
        "? [1, 2]\n: 3",
        "1: 2",
        "- 1",
        "",
        "[" * 5000,
        "a: " + "9" * 5000,
    ],
)
def test_what_is_no_plain_configuration_is_a_run_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(RunError, match=r"config"):
        read_config(tmp_path / "config.yaml")


def test_differences_tell_true_from_one_but_not_one_from_one_point_zero() -> None:
    assert config_difference({"a": 1, "n": float("nan")}, {"a": 1.0, "n": float("nan")}) == []
    assert config_difference({"a": True}, {"a": 1}) == ["a: the run has True, asked for 1"]


# --- the record of the environment ------------------------------------------------------------------------------------


def test_the_environment_is_recorded_and_a_resumed_run_adds_its_own(tmp_path: Path) -> None:
    with create(tmp_path) as folder:
        folder.record_environment(seed=7)
    for _ in range(2):
        with RunFolder.resume(tmp_path, command="search", config=None) as folder:
            folder.record_environment(seed=7)
    record = json.loads((tmp_path / "environment.json").read_text())
    assert record["seed"] == 7
    assert {"python", "torch", "archgrad"} <= set(record["versions"])
    assert record["hardware"]["cores"] == os.cpu_count()
    assert record["hardware"]["kernels"] == instruction_set()
    assert record["command_line"]
    assert [again["seed"] for again in record["resumed"]] == [7, 7]


def test_a_checkpoint_is_what_load_state_reads(tmp_path: Path) -> None:
    with create(tmp_path) as folder:
        folder.save_checkpoint({"epoch": 1})
    assert load_state(tmp_path / "checkpoints" / "last.ckpt") == {"epoch": 1}
