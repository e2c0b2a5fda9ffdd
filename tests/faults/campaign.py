"""Kills real processes at random moments, goes on with their runs, and compares with runs that nobody killed.

This process imports everything once and stays single-threaded; each life of a run is a fork of it. A run is killed
again and again, until it happens to reach its end or is left alone.

    python campaign.py --kills search=20,retrain=5,trainer=5 --folder DIR    prints the tally; --json as data
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing.resource_sharer  # registers what a fork forgets
import multiprocessing.util
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.problems import Problem, position, problem_of, results, some_digits

LIVES_OF_A_RUN = 8
MOST_SECONDS = 4.0
"""Of a run, for the choice of moments; on a machine that is busy with other things the first run may take far more."""
_DRAWN = 12
"""Kills of each drawn search or retraining."""
WAYS = {
    "moment": "SIGKILL after a random time",
    "file": "SIGKILL just before a random file is opened, renamed or removed",
    "write": "the kernel ends the process in the middle of a write, after a random number of bytes of a file",
    "SIGTERM": "SIGTERM after a random time",
    "SIGINT": "SIGINT after a random time",
}
_SHARES = {"moment": 4, "file": 2, "write": 2, "SIGTERM": 1, "SIGINT": 1}


@dataclass
class Tally:
    """What a campaign came to."""

    ends: Counter[str] = field(default_factory=Counter)
    """Way -> processes that ended by it, before their run was done."""
    saved: int = 0
    """Of those that got SIGTERM or SIGINT: how many saved and ended with 128 + signal. The others had not begun."""
    runs: int = 0
    """Runs that were ended again and again, went on to their end, and were compared."""
    in_a_write: int = 0
    """Kills that left a file half written."""
    without_last: int = 0
    """Kills between the two renames of a checkpoint."""
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def kills(self) -> int:
        """How many processes got SIGKILL before their run was done."""
        return self.ends["moment"] + self.ends["file"]


def fork(work: Callable[[], object], log: Path) -> int:
    """Run something in a child whose output goes to a file; the child ends with the status that a script would."""
    gc.freeze()  # a collection would write to each object, and so copy all memory that is shared with the child
    # A signal must find the child inside its `try`, not in what Python does after a fork.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return child
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        # What multiprocessing does in its own children: forget the parent's servers of shared file descriptors, which a
        # data worker of this child would otherwise ask for its batches.
        multiprocessing.util._run_after_forkers()
        work()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:  # as the interpreter does
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(child: int) -> int:
    """Wait for a child; return its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def live(problem: Problem, folder: Path, *, before: Callable[[], None] = lambda: None, **options: Any) -> int:
    """Start or go on with a run in a child."""
    resume = (folder / "config.yaml").exists()

    def work() -> None:
        before()
        problem.run(folder, resume=resume, **options)

    return fork(work, folder.with_suffix(".log"))


def die_at_file(number: int, folder: Path) -> None:
    """End this process just before it touches file number `number` in the folder, counted from 0."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(arguments[0]).startswith(str(folder)):
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.addaudithook(hook)


def die_at_byte(number: int) -> None:
    """Let the kernel end this process when it writes beyond byte `number` of any file; what lies before is written."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))


class Campaign:
    """Kills one problem's runs.

    Args:
        problem: What runs.
        folder: Where the runs lie; new.
        seed: Of the moments.
    """

    def __init__(self, problem: Problem, folder: Path, *, seed: int) -> None:
        self._problem, self._folder, self._random = problem, folder, random.Random(seed)
        self.tally = Tally()
        folder.mkdir(parents=True)
        whole = folder / "whole"
        started = time.perf_counter()
        problem.run(whole, resume=False, overwrite=True)
        self._seconds = min(MOST_SECONDS, time.perf_counter() - started)
        self._expected = results(problem, whole)
        self._bytes = (whole / "checkpoints" / "last.ckpt").stat().st_size
        self._files = 60

    def run(self, kills: int) -> Tally:
        """Kill so many processes, and let each run go on to its end."""
        started = time.perf_counter()
        while self.tally.kills < kills and len(self.tally.failures) < 5:
            self._one_run(kills)
        self.tally.seconds = time.perf_counter() - started
        return self.tally

    def _one_run(self, kills: int) -> None:
        path = self._folder / f"run{self.tally.runs}"
        every = self._random.choice((1, 2, 3, None))
        told, furthest, lives, status = f"{path.name}, a checkpoint each {every} steps", (0, 0), 0, 1
        while status != 0:
            lives += 1
            left_alone = lives > LIVES_OF_A_RUN or self.tally.kills == kills
            way = "left alone" if left_alone else self._random.choices(list(_SHARES), list(_SHARES.values()))[0]
            told += f"; {way}"
            status = self._one_life(path, way, every)
            if not self._is_expected(status, way):
                return self._fail(f"{told}: ended with {status}\n{path.with_suffix('.log').read_text()}")
            if status != 0:
                self.tally.ends[way] += 1
                self._look_at(path)
                if position(path) < furthest:
                    return self._fail(f"{told}: from {furthest} back to {position(path)}")
                furthest = position(path)
        found = results(self._problem, path)
        if different := [name for name in self._expected if found.get(name) != self._expected[name]]:
            return self._fail(f"{told}: other {different}")
        self.tally.runs += 1
        shutil.rmtree(path)

    def _one_life(self, path: Path, way: str, every: int | None) -> int:
        options = {"checkpoint_steps": every}
        if way == "file":
            number = int(self._files * self._random.random() ** 2)
            return ended(live(self._problem, path, before=lambda: die_at_file(number, path), **options))
        if way == "write":
            number = int(self._bytes * self._random.random() ** 2)
            return ended(live(self._problem, path, before=lambda: die_at_byte(number), **options))
        started = time.perf_counter()
        child = live(self._problem, path, **options)
        if way != "left alone":
            time.sleep(self._random.uniform(0.0, 0.6 * self._seconds))
            os.kill(child, signal.SIGKILL if way == "moment" else signal.Signals[way])
        status = ended(child)
        if status == 0:  # the machine is faster than it was: later moments would come too late
            self._seconds = min(self._seconds, time.perf_counter() - started)
        return status

    def _is_expected(self, status: int, way: str) -> bool:
        if status == 0:
            return True
        if way in ("SIGTERM", "SIGINT"):
            self.tally.saved += status == 128 + signal.Signals[way]
            return status in (128 + signal.Signals[way], -signal.Signals[way])
        expected = {"moment": -signal.SIGKILL, "file": -signal.SIGKILL, "write": -signal.SIGXFSZ}
        return status == expected.get(way)

    def _look_at(self, path: Path) -> None:
        self.tally.in_a_write += any(path.rglob("*.part"))
        names = {file.name for file in path.glob("checkpoints/*.ckpt")}
        self.tally.without_last += "previous.ckpt" in names and "last.ckpt" not in names

    def _fail(self, message: str) -> None:
        self.tally.failures.append(message)
        self.tally.runs += 1


def prepare() -> None:
    """Import and load everything that a child would, so that a child starts in no time."""
    import torch.utils.tensorboard

    import archgrad.report.raster  # noqa: F401

    torch.set_num_threads(1)
    some_digits()
    with tempfile.TemporaryDirectory() as folder:  # makes what torch makes once in a process, for the children as well
        problem_of("search", 0).run(Path(folder, "run"), resume=False)


def shared_out(kills: int) -> str:
    """Return a campaign of so many kills: the four fixed problems, and searches and retrainings drawn at random."""
    fixed = {"search": kills // 6, "selection": kills // 12, "retrain": kills // 12, "trainer": kills // 12}
    left, number = kills - sum(fixed.values()), 0
    while left > 0:
        number += 1
        fixed[f"{'recipe' if number % 4 == 0 else 'method'}{number}"] = min(_DRAWN, left)
        left -= _DRAWN
    return ",".join(f"{name}={part}" for name, part in fixed.items())


def run_campaigns(kills: str, folder: Path, *, seed: int) -> dict[str, Tally]:
    """Kill processes as told ("search=20,retrain=5"), one problem after the other."""
    prepare()
    kills = shared_out(int(kills)) if kills.isdigit() else kills
    wanted = {name: int(number) for name, _, number in (part.partition("=") for part in kills.split(","))}
    return {
        name: Campaign(problem_of(name, seed), folder / name, seed=seed).run(number) for name, number in wanted.items()
    }


def main() -> int:
    """Run a campaign as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kills",
        default="200",
        help="PROBLEM=NUMBER,...; or one number, shared out over the fixed problems and drawn ones",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="new folder to work in; by default a temporary one")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        tallies = run_campaigns(given.kills, given.folder or Path(temporary), seed=given.seed)
    failures = [f"{name}: {failure}" for name, tally in tallies.items() for failure in tally.failures]
    if given.json:
        print(json.dumps({name: {**vars(tally), "kills": tally.kills} for name, tally in tallies.items()}))
        return 0
    for name, tally in tallies.items():
        ends = ", ".join(f"{tally.ends[way]} {way}" for way in WAYS)
        print(
            f"{name}: {tally.kills} SIGKILLs, {tally.runs} runs compared, {len(tally.failures)} failures, "
            f"{tally.seconds:.0f} s\n  ends: {ends}; {tally.saved} saved on a signal\n"
            f"  {tally.in_a_write} left a file half written, {tally.without_last} fell between a checkpoint's renames"
        )
    print(*(f"  {way}: {what}" for way, what in WAYS.items()), *failures, sep="\n")
    print(f"total: {sum(tally.kills for tally in tallies.values())} SIGKILLs, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
