"""Jobs side by side, without the runs themselves."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from archgrad.errors import OptionError
from archgrad.runs import Interrupted
from archgrad.study.jobs import Job
from archgrad.study.runner import Processes, run_jobs


class Pretended:
    """Runs nothing: makes the folder, and gives the status that the options ask for."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.together = self.most = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Pretended:
        return self

    def __exit__(self, *error: object) -> None: ...

    def run(self, arguments: Sequence[str], log: Path) -> int:
        out = Path(arguments[arguments.index("--out") + 1])
        with self._lock:
            self.ran.append(out.name)
            self.together += 1
            self.most = max(self.most, self.together)
        time.sleep(0.05)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("a first line\nError: this is why\n", encoding="utf-8")
        out.mkdir(parents=True)
        with self._lock:
            self.together -= 1
        return 2 if out.name.startswith("bad") else 0

    def stop(self) -> None: ...


def jobs(folder: Path, *names: str, after: dict[str, str] | None = None) -> list[Job]:
    return [
        Job(name=name, folder=folder / name, command="search", options={"space": "tiny"}, after=(after or {}).get(name))
        for name in names
    ]


def test_a_failure_stops_only_what_waits_for_it(tmp_path: Path) -> None:
    todo = jobs(tmp_path, "bad", "good", "waits", "goes", after={"waits": "bad", "goes": "good"})
    pool = Pretended()
    outcomes = run_jobs(todo, pool, folder=tmp_path, workers=2)
    assert {name: outcome.done for name, outcome in outcomes.items()} == {
        "bad": False, "good": True, "waits": False, "goes": True,
    }  # fmt: skip
    assert "this is why" in outcomes["bad"].reason
    assert outcomes["waits"].reason == "bad failed"
    assert sorted(pool.ran) == ["bad", "goes", "good"]


def test_what_is_done_is_not_run_again_and_what_failed_is(tmp_path: Path) -> None:
    todo = jobs(tmp_path, "bad", "good")
    run_jobs(todo, Pretended(), folder=tmp_path, workers=1)
    os.rmdir(tmp_path / "bad")
    pool = Pretended()
    run_jobs(todo, pool, folder=tmp_path, workers=1)
    assert pool.ran == ["bad"]


def test_a_run_whose_folder_is_gone_is_run_again(tmp_path: Path) -> None:
    todo = jobs(tmp_path, "good")
    run_jobs(todo, Pretended(), folder=tmp_path, workers=1)
    os.rmdir(tmp_path / "good")
    pool = Pretended()
    run_jobs(todo, pool, folder=tmp_path, workers=1)
    assert pool.ran == ["good"]


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_run_together_than_asked_for(tmp_path: Path, workers: int) -> None:
    pool = Pretended()
    run_jobs(jobs(tmp_path, *"abcdef"), pool, folder=tmp_path, workers=workers)
    assert pool.most == workers


def test_a_job_that_waits_for_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="waits for one that does not exist"):
        run_jobs(jobs(tmp_path, "a", after={"a": "b"}), Pretended(), folder=tmp_path, workers=1)


def test_a_signal_ends_the_study_after_what_runs(tmp_path: Path) -> None:
    def press(job: Job) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    pool = Pretended()
    with pytest.raises(Interrupted) as caught:
        run_jobs(jobs(tmp_path, *"abc"), pool, folder=tmp_path, workers=1, on_start=press)
    assert caught.value.code == 128 + signal.SIGTERM
    assert pool.ran == ["a"]


def test_a_process_that_fails_leaves_its_words(tmp_path: Path) -> None:
    with Processes(1) as pool:
        assert pool.run(["no-such-command"], tmp_path / "log.txt") == 2
    assert "there is no command" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_jobs_run_through_a_scheduler(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    from archgrad.study.slurm import Slurm

    with Slurm(tmp_path / "queue", {"cluster": "local", "timeout_min": 5}) as pool:
        assert pool.run(["--version"], tmp_path / "logs" / "version.txt") == 0
        assert pool.run(["no-such-command"], tmp_path / "logs" / "unknown.txt") == 2
    assert (tmp_path / "logs" / "version.txt").read_text(encoding="utf-8").startswith("archgrad ")
