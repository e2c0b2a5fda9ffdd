"""Makes valid files hostile and reads them, over everything that reads bytes from outside.

Laws: reading gives a result or an error of archgrad's; it takes at most 5 seconds of a core and 1 GB; it writes only
into the folder that it is given, starts no program and opens no connection.

    python fuzz.py --inputs 10000 --seed 1          prints a tally; exit status 1 where a law is broken
    python fuzz.py --reader tar --only 1/123        one input again, with its traceback

The input that breaks a law is kept under runs/fuzz/, beside what was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from archgrad.errors import ArchgradError
from faults.mutations import mutate
from faults.readers import READERS, make_samples, prepare

MOST_SECONDS = 5.0
MOST_BYTES = 10**9
_PATIENCE = 60.0
"""Seconds after which a worker is ended that says nothing."""
_FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "os.symlink", "os.link")
_CHANGES = ("os.mkdir", "os.remove", "os.rmdir")  # their last value is the descriptor of a folder
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass
class Tally:
    """What came out, by reader."""

    read: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)
    """Seconds."""
    largest: dict[str, int] = field(default_factory=dict)
    """Bytes."""
    broken: list[str] = field(default_factory=list)
    """Reader, seed and number of an input, and which law it breaks."""

    def text(self) -> str:
        lines = [f"{'reader':28} {'inputs':>7} {'read':>7} {'refused':>8} {'slowest':>9} {'most memory':>12}"]
        for name in READERS:
            inputs = self.read[name] + self.refused[name]
            lines.append(
                f"{name:28} {inputs:7} {self.read[name]:7} {self.refused[name]:8} {self.slowest.get(name, 0):7.2f} s "
                f"{self.largest.get(name, 0) / 1e6:9.0f} MB"
            )
        total = sum(self.read.values()) + sum(self.refused.values()) + len(self.broken)
        return "\n".join([*lines, f"{total} inputs, {len(self.broken)} break a law", *self.broken])


class Watch:
    """Sees what is written where, by way of Python's audit events."""

    def __init__(self) -> None:
        self.allowed = ""
        self.seen: list[str] = []
        self.on = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, values: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event.startswith(_FORBIDDEN):
            self.seen.append(f"{event} {values!r:.200}")
        elif event == "open" and isinstance(values[2], int) and values[2] & _WRITES:
            self._check(event, values[0], None)
        elif event == "os.rename":
            self._check(event, values[0], values[2])
            self._check(event, values[1], values[3])
        elif event in _CHANGES:
            self._check(event, values[0], values[-1])

    def _check(self, event: str, path: Any, folder: Any) -> None:
        """Note a path outside what is allowed; it may lie in an open folder, given by its descriptor."""
        if isinstance(path, (str, bytes, os.PathLike)):
            above = os.readlink(f"/proc/self/fd/{folder}") if isinstance(folder, int) and folder > 2 else ""
            place = os.path.abspath(os.path.join(above, os.fsdecode(path)))
            if not place.startswith(self.allowed) and place != os.devnull:
                self.seen.append(f"{event} {place:.200}")


def plan(inputs: int, seed: int, only: str | None = None) -> list[tuple[str, int]]:
    """Return (reader, number) of each input; the same for the same seed."""
    names = [name for name in READERS if only in (None, name)]
    draw = random.Random(seed)
    return [(draw.choices(names, [READERS[name].share for name in names])[0], number) for number in range(inputs)]


def hostile(samples: Path, work: Path, reader: str, seed: int, number: int) -> None:
    """Write an input into an empty folder."""
    draw = random.Random(f"{seed}/{reader}/{number}")
    how = READERS[reader]
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(samples / how.sample, work)
    files = sorted(
        file
        for file in work.glob(how.files)
        if file.is_file() and file.stat().st_size and (how.files.startswith(".") or not file.name.startswith("."))
    )
    for file in draw.sample(files, min(len(files), draw.choice([1, 1, 1, 2]))):
        kind = draw.random()
        if kind < 0.97:
            content = file.read_bytes()
            with contextlib.suppress(ValueError, IndexError):  # hostile already
                content = mutate(file.name, content, draw)
            file.write_bytes(content)
        else:
            file.unlink()
            if kind < 0.98:
                file.mkdir()
            elif kind < 0.99:
                file.touch()


def _peak(*, anew: bool = False) -> int:
    """Most resident memory in bytes, since the last call with `anew` where the system can."""
    if anew:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def attempt(work: Path, reader: str, watch: Watch) -> dict[str, Any]:
    """Read an input, and return what happened."""
    watch.allowed, watch.seen = str(work), []
    before, started = _peak(anew=True), time.process_time()  # as other processes may slow this one
    error, outcome = "", "read"
    watch.on = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            READERS[reader].read(work)
    except ArchgradError:
        outcome = "refused"
    except BaseException:
        outcome, error = "broken", traceback.format_exc(limit=-12)
    finally:
        watch.on = False
    seconds, grown = time.process_time() - started, _peak() - before
    wrong = [error] if error else []
    wrong += [f"it took {seconds:.1f} seconds"] if seconds > MOST_SECONDS else []
    wrong += [f"it took {grown / 1e6:.0f} MB"] if grown > MOST_BYTES else []
    wrong += [f"it did {what}" for what in dict.fromkeys(watch.seen)]
    return {"outcome": outcome, "seconds": seconds, "bytes": grown, "wrong": "\n".join(wrong)}


def _work(samples: Path, folder: Path, inputs: list[tuple[str, int]], seed: int, pipe: int) -> None:
    """In a child: read one input after the other, and say of each that it begins and what came out."""
    os.chdir(folder)
    os.environ["ARCHGRAD_DATA"] = str(folder / "work" / "cache")
    limit = 8 * 10**9 + _address_space()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # whatever happens, the machine lives on
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    watch = Watch()
    prepare()
    for reader, number in inputs:
        hostile(samples, folder / "work", reader, seed, number)
        os.write(pipe, json.dumps({"begins": number}).encode() + b"\n")
        result = attempt(folder / "work", reader, watch)
        result["wrong"] = result["wrong"][-6000:]
        os.write(pipe, json.dumps({"number": number, "reader": reader, **result}).encode() + b"\n")


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def run(inputs: list[tuple[str, int]], *, seed: int, keep: Path | None) -> Tally:
    """Read all inputs in a child, in another one where that dies or hangs, and return the tally."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        root = Path(name).resolve()
        make_samples(root / "samples")
        (root / "sandbox").mkdir()
        left = list(inputs)
        while left:
            left = _run_in_child(root, left, seed, keep, tally)
    return tally


def _run_in_child(
    root: Path, inputs: list[tuple[str, int]], seed: int, keep: Path | None, tally: Tally
) -> list[tuple[str, int]]:
    out, pipe = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(out)
            _work(root / "samples", root / "sandbox", inputs, seed, pipe)
            status = 0
        except BaseException:  # a fault of this program
            os.write(pipe, json.dumps({"fault": traceback.format_exc()}).encode() + b"\n")
        finally:
            os._exit(status)
    os.close(pipe)
    done, died, buffer = 0, "", b""
    while done < len(inputs) and not died:
        ready, _, _ = select.select([out], [], [], _PATIENCE)
        chunk = os.read(out, 65536) if ready else b""
        if not chunk:
            died = "its process died" if ready else f"it did not end in {_PATIENCE:.0f} seconds"
        buffer += chunk
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "fault" in message:
                raise RuntimeError(message["fault"])
            if "reader" in message:
                done += 1
                _note(message, seed, keep, root, tally)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL) if died else None
    _, status = os.waitpid(child, 0)
    os.close(out)
    if died:
        reader, number = inputs[done]
        wrong = f"{died} (status {status})"
        _note({"reader": reader, "number": number, "outcome": "broken", "wrong": wrong}, seed, keep, root, tally)
        done += 1
    return inputs[done:]


def _note(message: dict[str, Any], seed: int, keep: Path | None, root: Path, tally: Tally) -> None:
    reader, number = message["reader"], message["number"]
    tally.slowest[reader] = max(tally.slowest.get(reader, 0.0), message.get("seconds", 0.0))
    tally.largest[reader] = max(tally.largest.get(reader, 0), message.get("bytes", 0))
    if not message["wrong"]:
        (tally.read if message["outcome"] == "read" else tally.refused)[reader] += 1
        return
    last = message["wrong"].strip().splitlines()[-1]
    tally.broken.append(f"--reader {reader!r} --only {seed}/{number}: {last:.300}")
    if keep is not None:
        kept = keep / f"{reader.replace(' ', '-').replace(chr(39), '')}-{seed}-{number}"
        hostile(root / "samples", kept, reader, seed, number)
        (kept / "what-was-wrong.txt").write_text(message["wrong"], encoding="utf-8", errors="replace")


def _again(reader: str, place: str) -> int:
    seed, number = map(int, place.split("/"))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        samples, work = Path(name).resolve() / "samples", Path(name).resolve() / "work"
        make_samples(samples)
        prepare()
        os.environ["ARCHGRAD_DATA"] = str(work / "cache")
        hostile(samples, work, reader, seed, number)
        result = attempt(work, reader, Watch())
    print(result["wrong"] or f"{result['outcome']} in {result['seconds']:.2f} s and {result['bytes'] / 1e6:.0f} MB")
    return 1 if result["wrong"] else 0


def command() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reader", choices=READERS)
    parser.add_argument("--only", metavar="SEED/NUMBER")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"))
    options = parser.parse_args()
    if options.only:
        return _again(options.reader, options.only)
    started = time.perf_counter()
    inputs = plan(options.inputs, options.seed, options.reader)
    tally = run(inputs, seed=options.seed, keep=options.keep)
    print(tally.text())
    print(f"seed {options.seed}, {time.perf_counter() - started:.0f} seconds")
    return 1 if tally.broken else 0


if __name__ == "__main__":
    sys.exit(command())
