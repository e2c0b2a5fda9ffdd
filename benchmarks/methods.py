"""Time a step of the search with every preset, against the plain path and against a step of plain DARTS.

    python benchmarks/methods.py --threads 1 --clock cpu

A preset is measured with its own parts in the middle of a search; one whose stages have other parts (partial channels,
pruned rows, dropout after identities) once a stage. The sizes are those of the command line throughout: the channels
and cells that a preset's stages ask for are left out, so that a step is compared with one of DARTS of the same size.

All run in one process. In each round a preset takes a step of the fast path beside one of DARTS, and what counts is the
middle ratio of these neighbours; so it is with the plain path, whose steps are many times longer, beside one more step
of the fast path. `passes` counts how often a step calls the network, and `a pass` is the ratio to DARTS divided by the
ratio of passes. The plain path is `fast=False`; unlike in `search_step.py` it differentiates one half only, as every
search does. A preset that takes the steps of one above is not measured again.

All presets take about six minutes on two free cores; `--quick` tries them on the smallest sizes.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import fields

import torch
import torch.nn.functional as F
from search_step import add_clock, environment, timed

import archgrad as ag
from archgrad.bilevel import search_step
from archgrad.fast import malloc
from archgrad.methods import Method, Stage, presets
from archgrad.schedules import Progress
from archgrad.skip_dropout import add_skip_dropout, set_skip_dropout
from archgrad.skip_noise import noisy_skips

MIDDLE = Progress(25, 50, 0)
"""Where in a search a step is measured, so that what grows from zero is there."""

QUICK = {"channels": 12, "cells": 4, "batch": 2, "image_size": 8, "rounds": 1, "plain_rounds": 1}
"""What `--quick` takes."""

SIZES = ("channels", "cells")
"""Options of stages in whose place the command line's stand."""


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    malloc.keep_freed_memory()
    print(" ".join(f"{name}={value}" for name, value in environment(options).items()), flush=True)
    print(f"channels={options.channels} cells={options.cells} batch={options.batch} rounds={options.rounds}\n")
    heads = ["preset", "passes", "step", "times DARTS", "a pass"]
    heads += ["plain step", "plain / fast"] if options.plain_rounds else []
    print_row(heads)
    print_row(["---"] * len(heads))
    darts = Stepper(presets.darts, 0, options, fast=True)
    darts.seconds()
    seen: dict[str, tuple[Method, int]] = {}
    for name, method, stage in rows(options.only):
        as_in = next((other for other, one in seen.items() if same_step(one, (method, stage))), None)
        if as_in is not None:
            print_row([name, f"as {as_in}", *[""] * (len(heads) - 2)])
            continue
        seen[name] = method, stage
        fast = Stepper(method, stage, options, fast=True)
        fast.seconds()  # the first step is not counted
        seconds, ratio = beside(fast, darts, options.rounds)
        passes = fast.passes
        cells = [name, str(passes), f"{seconds:.3f} s", f"{ratio:.2f}", f"{ratio * darts.passes / passes:.2f}"]
        if options.plain_rounds:
            plain = Stepper(method, stage, options, fast=False)
            plain.seconds(samples=2)
            seconds, ratio = beside(plain, fast, options.plain_rounds)
            plain.close()
            cells += [f"{seconds:.2f} s", f"{ratio:.1f}"]
        fast.close()
        print_row(cells)


def print_row(cells: list[str]) -> None:
    """Print a row of the table."""
    print("|", " | ".join(cells), "|", flush=True)


def beside(one: Stepper, other: Stepper, rounds: int) -> tuple[float, float]:
    """Return the middle time of a step of one, and its middle ratio to that of the other measured beside it."""
    pairs = [(one.seconds(), other.seconds()) for _ in range(rounds)]
    return statistics.median(a for a, _ in pairs), statistics.median(a / b for a, b in pairs)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=24, help="a multiple of 12, for partial channels")
    parser.add_argument("--cells", type=int, default=4, help="at least 4, so that two share their alphas")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain-rounds", type=int, default=1, help="0 leaves the plain path out")
    parser.add_argument("--quick", action="store_true", help="one round on the smallest sizes, to see that it runs")
    add_clock(parser)
    parser.add_argument("--only", choices=presets.__all__, action="append", help="a preset; all if left out")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    options.device = "cpu"
    return options


def rows(only: list[str] | None) -> Iterator[tuple[str, Method, int]]:
    """Yield the name of a row, and the preset and stage that it measures: stages that differ in their step."""
    for name in only or presets.__all__:
        method: Method = getattr(presets, name)
        spoken = name.replace("_", "-")
        for number, stage in enumerate(method.stages):
            yield (spoken if len(method.stages) == 1 else f"{spoken}, stage {number + 1}"), method, number
            if len({_differs(stage) for stage in method.stages}) == 1:
                break


def same_step(one: tuple[Method, int], other: tuple[Method, int]) -> bool:
    """Return whether two stages of methods take the same steps: they may stop and select in other ways."""
    apart = {"source", "selection", "stopping", "stages"}
    parts = [
        [getattr(method, field.name) for field in fields(method) if field.name not in apart]
        + [_differs(before) for before in method.stages[: number + 1]]
        for method, number in (one, other)
    ]
    return parts[0] == parts[1]


def _differs(stage: Stage) -> tuple:
    own = {name: value for name, value in stage.space.items() if name not in SIZES}
    return (stage.keep, stage.skip_dropout, *own.items())


class Stepper:
    """A network in one stage of a method, that takes steps."""

    def __init__(self, method: Method, number: int, options: argparse.Namespace, *, fast: bool) -> None:
        torch.manual_seed(0)
        stage, self._options, self._method = method.stages[number], options, method
        own = {name: value for name, value in stage.space.items() if name not in SIZES}
        space = ag.spaces.darts_cifar(options.channels, options.cells, **own)
        self._supernet = supernet = ag.Supernet(
            space, method.relaxation, fast=fast, edge_weights=method.edge_weights, always_on=method.always_on
        )
        if stage.skip_dropout:
            add_skip_dropout(supernet.network)
            set_skip_dropout(supernet.network, stage.skip_dropout_at(stage.alphas_start_epoch))
        supernet.train()
        for before in method.stages[: number + 1]:
            if before.keep is not None:
                supernet.prune(before.keep, supernet.probabilities())
        weights = list(supernet.weights.values())
        self._weights_optimizer = torch.optim.SGD(weights, lr=0.025, momentum=0.9, weight_decay=3e-4)
        self._alphas_optimizer = method.alphas_optimizer.first(list(supernet.alphas.values()))
        shape = (options.batch, 3, options.image_size, options.image_size)
        self._batches = [(torch.randn(shape), torch.randint(0, 10, (options.batch,))) for _ in range(2)]
        self.passes = 0
        self._open = ExitStack()
        self._open.enter_context(noisy_skips(supernet, method.skip_noise))
        counted = supernet.network.register_forward_pre_hook(lambda *_: setattr(self, "passes", self.passes + 1))
        self._open.callback(counted.remove)

    def seconds(self, samples: int | None = None) -> float:
        """Return what a step takes, of the first samples of both batches or of all."""
        self.passes = 0
        return timed(self._options, lambda: self._step([(x[:samples], y[:samples]) for x, y in self._batches]))

    def close(self) -> None:
        """Give up the network, so that the next has its memory."""
        self._open.close()
        del self._supernet, self._weights_optimizer, self._alphas_optimizer
        gc.collect()

    def _step(self, batches: list) -> None:
        method = self._method
        search_step(
            self._supernet,
            *batches,
            step=method.step,
            weights_optimizer=self._weights_optimizer,
            alphas_optimizer=self._alphas_optimizer,
            loss=F.cross_entropy,
            grad_clip=5.0,
            weights_first=method.weights_first,
            progress=MIDDLE,
            regularizers=method.regularizers,
            perturbation=method.perturbation,
            weights_rules=method.weights_rules,
            alphas_grad_clip=method.alphas_grad_clip,
        )


if __name__ == "__main__":
    main()
