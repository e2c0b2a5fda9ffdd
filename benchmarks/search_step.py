"""Time one step of the search on the plain and on the fast path, side by side.

    python benchmarks/search_step.py --channels 16 --cells 8 --batch 64 --step first-order

Each path runs in a process of its own, so that its peak memory is its own; rounds alternate between them, so that both
see the same machine. One JSON line a path, then one with the ratios plain / fast (memory: fast / plain).

`--fast torch grouped` times these paths (see `archgrad.fast.path_names`) in the place of the one that is taken by
default, which is "auto", called fast; each has its own line of ratios.

The plain path runs edge by edge, operation by operation, in the default memory format, and its first-order step calls
`loss.backward()` with gradients of both halves, as the authors' code does. Its second-order steps are those of
`archgrad.bilevel` on the plain supernet, which already leave out the authors' deep copies.

On CUDA (`--device cuda [--precision bf16]`) the first round, which is not counted, is also the warm-up of the CUDA
graphs of "auto"; paths that are named run without. `search_minutes` is what the paper's search of 50 epochs of 25,000
images would take at this pace, in passes.

`times_floor` is a step over one that does nothing but multiply, as fast as this machine does (`arithmetic_floor.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import get_args

import torch
import torch.nn.functional as F
from arithmetic_floor import floor_seconds, product_rate

import archgrad as ag
from archgrad.bilevel.passes import local_pass, pass_loss, without_grad
from archgrad.fast import Asked, cells, malloc, native_cell, normalised, pointwise, states
from archgrad.fast import depthwise as depthwise_module
from archgrad.fast.native import library

IDEAS = (
    *("kernels", "whole", "halves", "heap", "shared", "channels-last", "depthwise", "products", "sums"),
    *("gathered", "graphs"),
)
"""What `--without` switches off: compiled kernels; cells as one function; gradients of one half only; kept memory.
What counts only without the kernels, or without the second: sharing between the edges of a state; memory format; own
backward of depthwise convolutions; pointwise convolution, BatchNorm and mixing in one; weighted sums in one buffer.
What counts only on CUDA: cells in few large operations; passes recorded as CUDA graphs."""

ONLY = {"cpu": {"kernels", "whole", "heap", "depthwise"}, "cuda": {"gathered", "graphs"}}
"""Ideas that count on one device only."""


def main() -> None:
    options = parse()
    if options.worker:
        work(options)
        return
    paths = {name: Path(name) for name in ("plain", *map(name_of, options.fast))}
    rounds = in_turn(paths, options.rounds)
    results = {}
    floor = floor_of(options)
    for name, path in paths.items():
        found = summary(name, path, rounds[name], options)
        results[name] = {**found, **floor, "times_floor": round(found["step_seconds"] / floor["floor_seconds"], 1)}
        print(json.dumps(results[name]), flush=True)
    for name in list(paths)[1:]:
        found = ratios_of(results["plain"], results[name], rounds["plain"], rounds[name])
        prefix = "" if name == "fast" else f"{name}_"
        print(json.dumps({prefix + key: value for key, value in found.items()} | environment(options)), flush=True)


def name_of(asked: str) -> str:
    """Return what a path is called here, where "auto" is the one that is compared by default."""
    return "fast" if asked == "auto" else asked


def floor_of(options: argparse.Namespace) -> dict:
    """Return how fast a step could be on this machine, and how fast that multiplies (see `arithmetic_floor`)."""
    torch.set_num_threads(options.threads)
    with in_precision(options):
        rate = product_rate(options, timed)
    seconds = floor_seconds(ag.Supernet(space_of(options), fast=False), options.step, options, rate)
    return {"floor_seconds": seconds, "product_gflops": round(rate / 1e9, 1)}


def ratios_of(plain: dict, fast: dict, plain_rounds: list[dict], fast_rounds: list[dict]) -> dict:
    """Return the ratios of two paths."""
    ratios = {
        "ratio_step": plain["step_seconds"] / fast["step_seconds"],
        "ratio_alpha_pass": plain["alpha_pass_seconds"] / fast["alpha_pass_seconds"],
        "ratio_weight_pass": plain["weight_pass_seconds"] / fast["weight_pass_seconds"],
        "ratio_memory": fast["peak_memory_mb"] / plain["peak_memory_mb"],
    }
    # The machine may slow down between rounds; neighbours in time are compared, and the middle one counts.
    pairs = [
        (p["alpha"] + p["weight"]) / (f["alpha"] + f["weight"]) for p, f in zip(plain_rounds, fast_rounds, strict=True)
    ]
    by_round = {"ratio_step_by_round": [round(pair, 2) for pair in pairs]}
    return {key: round(value, 3) for key, value in ratios.items()} | by_round


def add_clock(parser: argparse.ArgumentParser) -> None:
    """Add what says how a step is timed."""
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: processor time, for a machine that is busy beside; then with --threads 1",
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add on what, and with which numbers, both paths run."""
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--precision",
        choices=["32", "tf32", "bf16"],
        default="32",
        help="of both paths: float32, its products in TF32 (CUDA), or autocast to bfloat16",
    )


def check_precision(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse what this machine has not got."""
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has no CUDA device")
    if options.precision == "tf32" and options.device != "cuda":
        parser.error("--precision tf32 is for --device cuda")


def in_precision(options: argparse.Namespace) -> torch.autocast:
    """Set the precision of float32 products, and return the context in which steps run."""
    tf32 = options.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    return torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--space",
        default="darts-cifar",
        help="darts-cifar, nasbench201, nasbench-macro, or FILE.py:NAME, which the file is run for",
    )
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument(
        "--cells",
        type=int,
        default=8,
        help="cells (nasbench201: cells in each of three groups; not of nasbench-macro and FILE.py:NAME)",
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--step", choices=["first-order", "unrolled", "exact"], default="first-order")
    parser.add_argument("--rounds", type=int, default=5)
    add_precision(parser)
    add_clock(parser)
    parser.add_argument("--without", choices=IDEAS, action="append", default=[], help="an idea to switch off")
    words = [path for path in get_args(Asked) if path != "plain"]
    parser.add_argument("--fast", choices=words, nargs="+", default=["auto"], help="what is compared with plain")
    parser.add_argument("--worker", choices=["plain", *map(name_of, words)], help=argparse.SUPPRESS)
    options = parser.parse_args()
    check_precision(parser, options)
    idle = sorted(set(options.without) & ONLY["cuda" if options.device == "cpu" else "cpu"])
    if idle:
        parser.error(f"--without {', '.join(idle)}: without effect on {options.device}")
    return options


class Path:
    """A worker process for one path, which runs a round for every line that it reads."""

    def __init__(self, name: str, typed: Sequence[str] = ()) -> None:
        command = [sys.executable, __file__, *sys.argv[1:], *typed, "--worker", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.startup = json.loads(self._line())["startup"]

    def round(self) -> dict:
        self.process.stdin.write("round\n")
        self.process.stdin.flush()
        return json.loads(self._line())

    def _line(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a worker ended early; its message is above")
        return line


def in_turn(paths: dict[str, Path], rounds: int) -> dict[str, list[dict]]:
    """Return the figures of every path's rounds, which alternate between them; one more round first warms up."""
    found = [{name: path.round() for name, path in paths.items()} for _ in range(rounds + 1)]
    return {name: [figures[name] for figures in found[1:]] for name in paths}


def summary(name: str, path: Path, rounds: list[dict], options: argparse.Namespace) -> dict:
    alpha, weight = (statistics.median(r[key] for r in rounds) for key in ("alpha", "weight"))
    step = statistics.median(r["alpha"] + r["weight"] for r in rounds)
    return {
        "path": name,
        "without": [] if name == "plain" else options.without,
        "step": options.step,
        "alpha_pass_seconds": round(alpha, 3),
        "weight_pass_seconds": round(weight, 3),
        "step_seconds": round(step, 3),
        "images_per_second": round(2 * options.batch / step, 1),
        "search_minutes": round(step * 50 * 25_000 / options.batch / 60, 1),
        "peak_memory_mb": round(rounds[-1]["memory"], 1),
        "startup_seconds": round(path.startup, 2),
        "space": options.space,
        "channels": options.channels,
        "cells": options.cells,
        "batch": options.batch,
        "precision": options.precision,
        "image_size": options.image_size,
        "rounds": len(rounds),
    }


def machine_of(device: str) -> dict:
    """Return what figures belong to."""
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    model = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "device": gpu or model,
        "cuda": torch.version.cuda if gpu else None,
        "cores": os.cpu_count(),
        "vector_unit": torch.backends.cpu.get_cpu_capability(),
        "kernels": library.instruction_set(),
        "archgrad": ag.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def environment(options: argparse.Namespace) -> dict:
    timing = {"threads": options.threads, "clock": options.clock, "load_average": round(os.getloadavg()[0], 1)}
    return machine_of(options.device) | timing


def work(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    fast = options.worker != "plain"
    space = space_of(options)
    if fast and "heap" not in options.without:
        malloc.keep_freed_memory()
    begin = time.perf_counter()
    supernet = ag.Supernet(space, fast=path_of(options)).to(options.device)
    if fast:
        for idea in options.without:
            switch_off(idea, supernet)
    halves = fast and "halves" not in options.without
    optimizer = torch.optim.SGD(supernet.weights.values(), lr=0.025, momentum=0.9, weight_decay=3e-4)
    size = options.image_size
    batches = [
        (
            torch.randn(options.batch, 3, size, size, device=options.device),
            torch.randint(0, 10, (options.batch,), device=options.device),
        )
        for _ in range(2)
    ]
    small = [(x[:2], y[:2]) for x, y in batches]
    autocast = in_precision(options)
    with autocast:
        alpha_pass(supernet, small, options.step, halves, optimizer)
    print(json.dumps({"startup": time.perf_counter() - begin}), flush=True)
    recorded = options.worker == "fast" and options.device == "cuda" and "graphs" not in options.without
    with ag.bilevel.cuda_graphs(supernet, say=_aside) if recorded else nullcontext():
        for _ in sys.stdin:
            with autocast:
                alpha = timed(options, lambda: alpha_pass(supernet, batches, options.step, halves, optimizer))
                weight = timed(options, lambda: weight_pass(supernet, batches, halves))
            print(json.dumps({"alpha": alpha, "weight": weight, "memory": peak_memory_mb(options)}), flush=True)


def path_of(options: argparse.Namespace) -> str:
    """Return the path of a worker; that of PyTorch's operations is what is left without what takes their place."""
    if options.worker != "fast":
        return options.worker
    return "torch" if {"kernels", "gathered"} & set(options.without) else "auto"


def _aside(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def space_of(options: argparse.Namespace) -> torch.nn.Module:
    if options.space == "darts-cifar":
        return ag.spaces.darts_cifar(options.channels, options.cells)
    if options.space == "nasbench201":
        return ag.spaces.nasbench201(options.channels, options.cells)
    if options.space == "nasbench-macro":
        return ag.spaces.nasbench_macro(options.channels)
    place, _, name = options.space.rpartition(":")
    return runpy.run_path(place)[name](channels=options.channels)


def timed(options: argparse.Namespace, run) -> float:
    if options.device == "cuda":
        torch.cuda.synchronize()
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    begin = clock()
    run()
    if options.device == "cuda":
        torch.cuda.synchronize()
    return clock() - begin


def peak_memory_mb(options: argparse.Namespace) -> float:
    if options.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def alpha_pass(supernet: ag.Supernet, batches: list, step: str, halves: bool, optimizer) -> None:
    if step == "first-order" and not halves:
        both_halves(supernet, batches[1])
        return
    method = {
        "first-order": ag.bilevel.FirstOrder(),
        "unrolled": ag.bilevel.Unrolled(),
        "exact": ag.bilevel.Unrolled(hvp="exact"),
    }[step]
    method.alphas_gradient(supernet, *batches, loss=F.cross_entropy, weights_optimizer=optimizer)


def weight_pass(supernet: ag.Supernet, batches: list, halves: bool) -> None:
    if not halves:
        both_halves(supernet, batches[0])
        return
    weights = list(supernet.weights.values())
    with without_grad(list(supernet.alphas.values())):
        local_pass(supernet, batches[0], F.cross_entropy, weights)


def both_halves(supernet: ag.Supernet, batch: tuple) -> None:
    """As the authors' code: backward through everything, whichever half is wanted."""
    supernet.zero_grad(set_to_none=True)
    loss, _ = pass_loss(supernet, batch, F.cross_entropy)
    loss.backward()


def switch_off(idea: str, supernet: ag.Supernet) -> None:
    """Put the plain way in the place of one idea."""
    if idea == "whole":
        native_cell.evaluate = lambda *_: None
    elif idea == "channels-last":
        ag.Supernet.channels_last = False
        states.SharedFeatures.x = property(lambda self: self._given)
    elif idea == "depthwise":
        depthwise_module.depthwise = pointwise.depthwise = lambda x, w, g: depthwise_module._forward(x, w, g)
        states.fan_out = lambda x, ws, gs: tuple(
            depthwise_module._forward(x, w, g) for w, g in zip(ws, gs, strict=True)
        )
    elif idea == "products":
        normalised.blend, normalised.project_each = _plain_blend, _plain_each
    elif idea == "sums":
        cells.weighted_total = lambda values, weights: sum(w * v for w, v in zip(weights, values, strict=True))
    elif idea == "shared":
        node = cells._Node._add
        cells._Node._add = lambda self, state, edge, candidate: node(
            self, states.SharedFeatures(state.x, [candidate.branch] if candidate.branch else []), edge, candidate
        )


def _plain_blend(terms, scale, *, eps, shift=None, fixed=None, relu=False, values=(), mixing=None):
    shift = None if shift is None else shift.expand(len(terms), -1) / len(terms)
    outputs, moments = _plain_each(terms, scale, eps=eps, shift=shift, fixed=fixed)
    total = sum(outputs)
    if mixing is not None:
        total = total + cells.weighted_total(values, mixing)
    return (F.relu(total) if relu else total), moments


def _plain_each(terms, scale, *, eps, shift=None, fixed=None, relu=False):
    outputs, means, variances = [], [], []
    for k, term in enumerate(map(pointwise.convolved, terms)):
        u = F.conv2d(term.features, term.projection[:, :, None, None])
        channels = u.shape[1]
        statistics_ = (u.new_zeros(channels), u.new_zeros(channels)) if fixed is None else (fixed[0][k], fixed[1][k])
        y = F.batch_norm(u, *statistics_, training=fixed is None, momentum=1.0, eps=eps)
        y = scale[k].view(1, -1, 1, 1) * y
        y = y if shift is None else y + shift[k].view(1, -1, 1, 1)
        outputs.append(F.relu(y) if relu else y)
        means.append(statistics_[0])
        variances.append(statistics_[1])
    return outputs, pointwise.Moments(torch.stack(means), torch.stack(variances), u.numel() // u.shape[1])


if __name__ == "__main__":
    main()
