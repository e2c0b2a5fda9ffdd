"""How a search step grows with channels, cells and batch: a table and a plot, plain and fast path side by side.

    python benchmarks/growth.py --rounds 2 --out growth.svg

Runs `search_step.py` once for every point; one quantity varies at a time, the others stay at --channels, --cells and
--batch. Points that a path cannot hold in memory are left out, and said. Other options go to `search_step.py`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot

AXES = {"channels": (8, 16, 24, 36), "cells": (4, 8, 14, 20), "batch": (8, 16, 32, 64)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("channels", 16), ("cells", 8), ("batch", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", choices=list(AXES), action="append", help="vary only this; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("growth.svg"))
    options, rest = parser.parse_known_args()
    base = {name: getattr(options, name) for name in AXES}
    measured: dict[tuple[int, ...], dict[str, dict]] = {}
    points = {}
    print("| varied | value | plain step | fast step | ratio | plain memory | fast memory |")
    print("|---|---|---|---|---|---|---|")
    for axis in options.only or AXES:
        for value in AXES[axis]:
            sizes = {**base, axis: value}
            key = tuple(sizes.values())
            if key not in measured:
                measured[key] = measure(sizes, rest)
            if measured[key]:
                points[axis, value] = measured[key]
                print_row(axis, value, measured[key])
    plot(points, base, options.out)
    print(f"\nPlot: {options.out}")


def measure(sizes: dict[str, int], rest: list[str]) -> dict[str, dict]:
    """Return the figures of both paths, empty if a path could not run."""
    typed = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    script = Path(__file__).with_name("search_step.py")
    done = subprocess.run([sys.executable, script, *typed, *rest], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(f"left out: {sizes}", file=sys.stderr)
        return {}
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {"plain": lines[0], "fast": lines[1], "ratios": lines[2]}


def print_row(axis: str, value: int, found: dict[str, dict]) -> None:
    plain, fast = found["plain"], found["fast"]
    print(
        f"| {axis} | {value} | {plain['step_seconds']:.2f} s | {fast['step_seconds']:.2f} s "
        f"| {found['ratios']['ratio_step']:.1f} | {plain['peak_memory_mb'] / 1000:.1f} GB "
        f"| {fast['peak_memory_mb'] / 1000:.1f} GB |",
        flush=True,
    )


def plot(points: dict[tuple[str, int], dict], base: dict[str, int], out: Path) -> None:
    axes_shown = list(dict.fromkeys(axis for axis, _ in points))
    figure, axes = pyplot.subplots(2, len(axes_shown), figsize=(3.4 * len(axes_shown), 5.2), squeeze=False)
    for column, axis in enumerate(axes_shown):
        values = [value for name, value in points if name == axis]
        for path, colour, marker in (("plain", "#8a8a8a", "s"), ("fast", "#1f6fb4", "o")):
            found = [points[axis, value][path] for value in values]
            style = {"color": colour, "marker": marker, "label": path}
            axes[0, column].plot(values, [f["step_seconds"] for f in found], **style)
            axes[1, column].plot(values, [f["peak_memory_mb"] / 1000 for f in found], **style)
        fixed = ", ".join(f"{name} {value}" for name, value in base.items() if name != axis)
        axes[0, column].set_title(fixed, fontsize=9)
        axes[1, column].set_xlabel(axis)
        for row in axes[:, column]:
            row.set_xticks(values)
            row.set_ylim(bottom=0)
            row.grid(alpha=0.3)
    axes[0, 0].set_ylabel("seconds a step")
    axes[1, 0].set_ylabel("peak memory (GB)")
    axes[0, 0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(out)


if __name__ == "__main__":
    main()
