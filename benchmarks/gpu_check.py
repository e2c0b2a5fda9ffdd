"""What is to be known of a GPU, in under 8 minutes: do the tests pass, which path is faster, how much memory it takes.

    python benchmarks/gpu_check.py --out gpu [--data folder:IMAGES] [--minutes 8]

Runs, each in a process of its own and with a share of the time: the tests marked `cuda`; steps of the search by every
path (`--fast`), first and second order, and steps of the retraining, in float32, TF32 and bfloat16; and a search of 2
epochs, with the path that it chose. `fast` is the usual path with CUDA graphs, the others are without.
Writes `gpu_check.json` and the table `gpu_check.md` into `--out` after each part, so that a machine that is taken away
leaves what was found. A part that fails or has no time left is told in the table; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from search_step import machine_of

HERE = Path(__file__).parent
PRECISIONS = ("32", "tf32", "bf16")
PATHS = ("torch", "grouped", "auto")
"""Of the search's steps, beside the plain one."""
LAST_LINES = 5
LEAST_SECONDS = 15.0
"""With less a part is not begun."""


@dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
        name: In the table.
        command: What is run, after the name of the Python program.
        seconds: Most that it may take.
        reads: How its figures are found: "json" lines of its output, "tests", or the "run" folder named last.
    """

    name: str
    command: Sequence[str]
    seconds: float
    reads: str = "json"


@dataclass
class Found:
    """What came of a part; `status` is "done", "failed" or "no time left"."""

    name: str
    command: str
    status: str
    seconds: float = 0.0
    figures: Mapping[str, Any] = field(default_factory=dict)
    said: str = ""


def parts_of(device: str, data: str, folder: Path, sizes: Sequence[str] = ()) -> list[Part]:
    """Return the parts, the most important first.

    Args:
        device: "cuda", or "cpu" to try the script itself.
        data: What the search runs on, as `archgrad search --data` takes it.
        folder: Where its run folder comes.
        sizes: Further options of all steps.
    """
    step, retraining = str(HERE / "search_step.py"), str(HERE / "retrain_step.py")
    on = ("--device", device)
    precisions = [each for each in PRECISIONS if device == "cuda" or each != "tf32"]
    parts = [Part("tests", ("-m", "pytest", "-q", "-m", "cuda", str(HERE.parent / "tests")), 90, "tests")]
    for order in ("first-order", "unrolled"):
        for precision in reversed(precisions):
            typed = (*on, "--step", order, "--precision", precision, "--rounds", "3", "--fast", *PATHS, *sizes)
            parts.append(Part(f"search {order} {precision}", (step, *typed), 60))
    for precision in reversed(precisions):
        typed = (*on, "--precision", precision, "--rounds", "5", "--fast", "torch", *sizes)
        parts.append(Part(f"retraining {precision}", (retraining, *typed), 60))
    run = folder / "search"
    search = ("-m", "archgrad", "search", "--data", data, "--epochs", "2", *on, "--out", str(run), "--overwrite")
    search += ("--precision", "bf16") if device == "cuda" else ()
    return [*parts, Part("search of 2 epochs", search, 120, "run")]


def run(part: Part, seconds: float) -> Found:
    """Run a part for so many seconds at most, and read what it found."""
    began = time.perf_counter()
    command = "python " + " ".join(part.command)
    try:
        done = subprocess.run(
            [sys.executable, *part.command], capture_output=True, text=True, timeout=seconds, check=False
        )
        output, status, said = done.stdout, "done" if done.returncode == 0 else "failed", done.stderr or done.stdout
    except subprocess.TimeoutExpired:
        output, status, said = "", "failed", f"took more than {seconds:.0f} s"
    found = Found(part.name, command, status, round(time.perf_counter() - began, 1))
    try:
        found.figures = figures_of(part, output)
    except (OSError, ValueError, LookupError) as error:
        found.status, said = "failed", said or repr(error)
    if found.status == "failed":
        found.said = "\n".join(said.strip().splitlines()[-LAST_LINES:])
    return found


def figures_of(part: Part, output: str) -> dict[str, Any]:
    """Return the figures that a part printed or wrote."""
    lines = output.strip().splitlines()
    if part.reads == "tests":
        return {"tests": lines[-1]} if lines else {}
    if part.reads == "run":
        folder = Path(part.command[part.command.index("--out") + 1])
        with open(folder / "timings.csv", encoding="utf-8", newline="") as text:
            last = list(csv.DictReader(text))[-1]
        chosen = folder / "paths.json"  # not where there was nothing to choose
        paths = json.loads(chosen.read_text(encoding="utf-8"))["networks"] if chosen.is_file() else {}
        return {name: float(value) for name, value in last.items() if value} | {"paths": paths}
    found: dict[str, Any] = {}
    for each in (json.loads(line) for line in lines):
        prefix = f"{each['path']}_" if "path" in each else ""
        found.update({f"{prefix}{key}": value for key, value in each.items()})
    return found


def checked(parts: Sequence[Part], minutes: float) -> Iterator[Found]:
    """Run parts in order until the time is over."""
    until = time.perf_counter() + 60 * minutes
    for part in parts:
        left = min(part.seconds, until - time.perf_counter())
        if left < min(LEAST_SECONDS, part.seconds):
            yield Found(part.name, "python " + " ".join(part.command), "no time left")
        else:
            yield run(part, left)


COLUMNS = {
    "plain": ("plain_step_seconds", "plain_seconds"),
    "channels last": ("channels_last_seconds",),
    "torch": ("torch_step_seconds", "torch_seconds"),
    "grouped": ("grouped_step_seconds",),
    "fast": ("fast_step_seconds", "fast_seconds"),
    "ratio": ("ratio_step", "ratio_retrain"),
    "GB plain": ("plain_peak_memory_mb",),
    "GB fast": ("fast_peak_memory_mb", "peak_memory_mb"),
    "minutes of the paper's search": ("fast_search_minutes",),
}
"""Of the table -> the figures that stand in them, the first that there is."""


def to_markdown(found: Sequence[Found], machine: Mapping[str, Any]) -> str:
    """Return the table of what was found; seconds of a step, gigabytes of peak memory."""
    lines = [", ".join(f"{key} {value}" for key, value in machine.items()), ""]
    lines += [f"| part | {' | '.join(COLUMNS)} | took |", "|---|" + "---:|" * (len(COLUMNS) + 1)]
    for each in found:
        cells = []
        for column, names in COLUMNS.items():
            value = next((each.figures[name] for name in names if each.figures.get(name) is not None), None)
            cells.append("" if value is None else f"{value / 1024:.2f}" if column[:2] == "GB" else f"{value:.4g}")
        lines.append(f"| {each.name} | {' | '.join(cells)} | {each.seconds:.0f} s |")
    for each in found:
        if "tests" in each.figures:
            lines += ["", f"Tests: {each.figures['tests']}"]
        if "images_per_second" in each.figures:
            lines += ["", f"{each.name}: {each.figures['images_per_second']:.0f} images a second in the last"]
        for network, decision in each.figures.get("paths", {}).items():
            lines += ["", f"Path of {network}: {json.dumps(decision)}"]
        if each.status != "done":
            lines += ["", f"{each.name}: {each.status}", *(f"    {line}" for line in each.said.splitlines())]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of what is found")
    parser.add_argument(
        "--data", default="digits", help="what the search of 2 epochs runs on, as archgrad search takes it"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="most that all parts together take")
    parser.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to try this script, at small sizes"
    )
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no CUDA device that PyTorch can use")
    sizes = () if options.device == "cuda" else ("--channels", "2", "--cells", "3", "--batch", "4", "--image-size", "8")
    options.out.mkdir(parents=True, exist_ok=True)
    machine, found = machine_of(options.device), []
    for each in checked(parts_of(options.device, options.data, options.out, sizes), options.minutes):
        found.append(each)
        print(f"{each.name}: {each.status}, {each.seconds:.0f} s", flush=True)
        content = {"machine": machine, "parts": [asdict(one) for one in found]}
        (options.out / "gpu_check.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (options.out / "gpu_check.md").write_text(to_markdown(found, machine), encoding="utf-8")
    return int(any(each.status != "done" for each in found))


if __name__ == "__main__":
    sys.exit(main())
