"""Jobs side by side, each a process of its own: what is done stays done, and one that fails stops no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from archgrad.errors import OptionError, RunError
from archgrad.files import read_file, write_text
from archgrad.json_text import MAX_TEXT_BYTES, parse_json
from archgrad.runs import Interrupted, StopRequest
from archgrad.runs.lock import RunLock
from archgrad.study.forks import CAN_FORK, Fork, ForkServer
from archgrad.study.jobs import Job

__all__ = ["Outcome", "Pool", "Processes", "done_before", "run_jobs"]

_LAST_LINES = 3
_POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended.

    Attributes:
        done: Whether it did its work.
        seconds: That it took, all its starts together.
        reason: The last lines that it wrote, if it failed.
    """

    done: bool
    seconds: float
    reason: str = ""


class Pool(Protocol):
    """Where jobs run."""

    def run(self, arguments: Sequence[str], log: Path) -> int:
        """Run `archgrad` with these arguments, write its output to the end of a file, and return its exit status."""

    def stop(self) -> None:
        """Ask what runs to save its state and end."""

    def __enter__(self) -> Pool: ...
    def __exit__(self, *error: object) -> None: ...


class Processes:
    """Processes of this machine. Where the system can, they are forks of one that has imported what each needs.

    Args:
        threads: Of each process.
    """

    def __init__(self, threads: int) -> None:
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self._server: ForkServer | None = None
        self._running: set[Fork | subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        if self._server is not None:
            self._server.close()
            self._server = None

    def run(self, arguments: Sequence[str], log: Path) -> int:
        """Run `archgrad` with these arguments, write its output to the end of a file, and return its exit status."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            with self._lock:
                if self._stopped:
                    return 128 + signal.SIGTERM
                process = self._started(list(arguments), output.fileno())
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)

    def _started(self, arguments: list[str], output: int) -> Fork | subprocess.Popen[bytes]:
        if not CAN_FORK:
            return subprocess.Popen(
                [sys.executable, "-m", "archgrad", *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=self._environment, start_new_session=True,
            )  # fmt: skip
        if self._server is None:
            self._server = ForkServer([sys.executable, "-m", "archgrad.cli.run_server"], self._environment)
        return self._server.start(arguments, output)

    def stop(self) -> None:
        """Ask what runs to save its state and end."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.send_signal(signal.SIGTERM)


def run_jobs(
    jobs: Sequence[Job],
    pool: Pool,
    *,
    folder: Path,
    workers: int,
    on_start: Callable[[Job], None] = lambda job: None,
    on_end: Callable[[Job, Outcome], None] = lambda job, outcome: None,
) -> dict[str, Outcome]:
    """Run all jobs that are not done yet, each after the one that it waits for; those of failed ones are left out.

    Args:
        jobs: In the order in which they begin.
        pool: Where they run.
        folder: Of the study; what is done is noted in its folder `done/`, output in `logs/`.
        workers: How many run at the same time, at least 1.
        on_start: Called with a job before it runs.
        on_end: Called with a job and how it ended, also for one that was done before.

    Returns:
        Name -> how it ended.

    Raises:
        OptionError: A job waits for one that does not exist.
        Interrupted: SIGTERM, SIGINT or SIGHUP came; what ran has saved its state.
    """
    names = {job.name for job in jobs}
    if lost := [job.name for job in jobs if job.after is not None and job.after not in names]:
        raise OptionError(f"The job {lost[0]} waits for one that does not exist.")
    outcomes: dict[str, Outcome] = {}
    waiting = []
    for job in jobs:
        if (earlier := done_before(job, folder)) is not None:
            outcomes[job.name] = earlier
            on_end(job, earlier)
        else:
            waiting.append(job)
    running: dict[Future[Outcome], Job] = {}
    with StopRequest() as stop, ThreadPoolExecutor(workers) as threads:
        while (waiting or running) and stop.signal_number is None:
            for job in [job for job in waiting if job.after is None or job.after in outcomes][: workers - len(running)]:
                waiting.remove(job)
                if job.after is not None and not outcomes[job.after].done:
                    outcomes[job.name] = Outcome(done=False, seconds=0.0, reason=f"{job.after} failed")
                    on_end(job, outcomes[job.name])
                    continue
                on_start(job)
                running[threads.submit(_run, job, pool, folder)] = job
            ended, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in ended:
                job = running.pop(future)
                outcomes[job.name] = future.result()
                on_end(job, outcomes[job.name])
        if stop.signal_number is not None:
            pool.stop()
            wait(running)
            raise Interrupted(stop.signal_number)
    return outcomes


def done_before(job: Job, folder: Path) -> Outcome | None:
    """Return how a job of the study in a folder ended, if it did its work; else None."""
    earlier = _noted(folder, job)
    return earlier if earlier is not None and earlier.done and job.folder.is_dir() else None


def _run(job: Job, pool: Pool, folder: Path) -> Outcome:
    log = folder / "logs" / f"{job.name}.txt"
    before = _noted(folder, job)
    _await_orphan(job.folder)
    started = time.monotonic()
    status = pool.run(job.arguments(), log)
    seconds = time.monotonic() - started + (before.seconds if before else 0.0)
    reason = "" if status == 0 else _reason(status, log)
    outcome = Outcome(done=status == 0, seconds=seconds, reason=reason)
    note = folder / "done" / f"{job.name}.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    write_text(note, json.dumps(asdict(outcome)) + "\n")
    return outcome


def _await_orphan(folder: Path) -> None:
    """Wait for a process that a killed study left behind: it goes on with its run, which is then taken over."""
    while (folder / "config.yaml").is_file():
        try:
            RunLock(folder).release()
            return
        except RunError:
            time.sleep(_POLL_SECONDS)


def _noted(folder: Path, job: Job) -> Outcome | None:
    note = folder / "done" / f"{job.name}.json"
    if not note.is_file():
        return None
    return Outcome(**parse_json(read_file(note, most=MAX_TEXT_BYTES).decode("utf-8")))


def _reason(status: int, log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    text = " / ".join(lines[-_LAST_LINES:])
    return text or (f"ended by signal {-status}" if status < 0 else f"exit status {status}")
