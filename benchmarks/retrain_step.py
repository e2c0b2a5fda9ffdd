"""Time one training step of the retraining network, plain and with `archgrad.fast.accelerate`, in alternating rounds.

    python benchmarks/retrain_step.py --channels 36 --cells 20 --batch 96 [--fast torch]

One JSON line: median seconds of both, of a loop as one writes it by hand for speed (the plain network in the memory
format channels_last), of the paths that `--fast` names (see `archgrad.fast.path_names`), and the ratios to the fast
path; `times_floor` is the fast path over a step that does nothing but multiply (see `arithmetic_floor.py`). On CUDA
with the peak memory of each.
"""

from __future__ import annotations

import argparse
import json
import statistics

import torch
import torch.nn.functional as F
from arithmetic_floor import floor_seconds, product_rate
from search_step import add_clock, add_precision, check_precision, environment, in_precision, peak_memory_mb, timed

import archgrad as ag
from archgrad.fast import accelerate
from archgrad.fast.malloc import keep_freed_memory

WAYS = ("plain", "channels_last", "fast")
NAMED = ("native", "torch", "grouped")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=36)
    parser.add_argument("--cells", type=int, default=20)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fast", choices=NAMED, nargs="+", default=[], help="further paths")
    add_precision(parser)
    add_clock(parser)
    options = parser.parse_args()
    check_precision(parser, options)
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # of the whole process, and so for all
    autocast = in_precision(options)
    x = torch.randn(options.batch, 3, options.image_size, options.image_size, device=options.device)
    y = torch.randint(0, 10, (options.batch,), device=options.device)
    ways = (*WAYS, *options.fast)
    networks = {way: network_of(way, options) for way in ways}
    in_format = ("channels_last", *NAMED)  # as a retraining has them
    inputs = {way: x.contiguous(memory_format=torch.channels_last) if way in in_format else x for way in ways}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    peaks: dict[str, float] = {}

    def step(way: str) -> None:
        with autocast:
            loss = F.cross_entropy(networks[way](inputs[way]), y)
        loss.backward()
        networks[way].zero_grad(set_to_none=True)

    for index in range(options.rounds + 1):
        for way in ways:
            if options.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            taken = timed(options, lambda way=way: step(way))
            if index:  # the first round warms up
                seconds[way].append(taken)
            if options.device == "cuda":
                peaks[f"{way}_peak_memory_mb"] = round(peak_memory_mb(options), 1)
    medians = {way: statistics.median(seconds[way]) for way in ways}
    found = {f"{way}_seconds": round(medians[way], 5) for way in ways}
    found["ratio_retrain"] = round(medians["plain"] / medians["fast"], 3)
    found["ratio_to_channels_last"] = round(medians["channels_last"] / medians["fast"], 3)
    with autocast:
        floor = floor_seconds(network_of("plain", options), "retraining", options, product_rate(options, timed))
    found["floor_seconds"], found["times_floor"] = floor, round(medians["fast"] / floor, 1)
    print(json.dumps({**found, **peaks, "precision": options.precision, **environment(options)}))


def network_of(way: str, options: argparse.Namespace) -> torch.nn.Module:
    torch.manual_seed(0)
    space = ag.spaces.darts_cifar(options.channels, options.cells, stage="retrain")
    network = ag.derive(space, ag.architectures.DARTS_V2).to(options.device)
    if way in ("fast", *NAMED):
        accelerate(network, None if way == "fast" else way)
    return network.to(memory_format=torch.channels_last) if way == "channels_last" else network


if __name__ == "__main__":
    main()
