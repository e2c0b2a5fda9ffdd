"""Time a search step on one process and on two that share its batch, and model the growth to many.

    python benchmarks/ranks.py --channels 8 --cells 3 --batch 32 --rounds 5

Both see the same batch in total and use the same number of cores: one process with two threads, two processes with one
thread each, connected by gloo over loopback. Rounds alternate between them; the figure is the median over rounds of the
mean step. Beside it stands the processor time of all processes together, for machines that are busy beside; there
`--threads 1` gives one process one thread, since threads that wait for a core burn time. One JSON line each, then one
line for each number of processes of the model.

The model: a ring all-reduce of n bytes over R processes sends 2 (R - 1) / R n bytes over each link, in 2 (R - 1) hops,

    seconds(R) = compute + messages * 2 (R - 1) * latency + 2 (R - 1) / R * bytes / bandwidth,

with the batch of a process held fixed, so that compute does not change with R. Bytes are counted from the messages that
a step sends, not assumed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time

import torch
import torch.distributed as dist

import archgrad as ag
from archgrad import distributed

STEPS = {
    "first-order": lambda: ag.bilevel.FirstOrder(),
    "unrolled": lambda: ag.bilevel.Unrolled(),
    "exact": lambda: ag.bilevel.Unrolled(hvp="exact"),
}
MODELLED = (2, 8, 64, 512)


def main() -> None:
    options = parse()
    if options.worker:
        work(options)
        return
    rounds: dict[int, list[dict]] = {1: [], 2: []}
    for index in range(options.rounds + 1):
        for ranks, figures in rounds.items():
            found = start(options, ranks)
            if index:  # the first round warms the caches
                figures.append(found)
    results = {}
    for ranks, figures in rounds.items():
        results[ranks] = {
            "processes": ranks,
            "batch_per_process": options.batch // ranks,
            "step_seconds": statistics.median(f["step_seconds"] for f in figures),
            "processor_seconds": statistics.median(f["processor_seconds"] for f in figures),
            "all_step_seconds": [round(f["step_seconds"], 4) for f in figures],
            "messages": figures[0]["messages"],
            "bytes": figures[0]["bytes"],
        }
        print(json.dumps(results[ranks]))
    ratios = {
        f"ratio_{clock}": results[2][f"{clock}_seconds"] / results[1][f"{clock}_seconds"]
        for clock in ("step", "processor")
    }
    print(json.dumps({**ratios, **machine(options)}))
    for bandwidth, latency, network in ((1.25e9, 50e-6, "10 Gbit/s Ethernet"), (25e9, 10e-6, "200 Gbit/s InfiniBand")):
        for ranks in MODELLED:
            print(json.dumps(modelled(results[2], ranks, bandwidth, latency, network)))


def modelled(measured: dict, ranks: int, bandwidth: float, latency: float, network: str) -> dict:
    hops = 2 * (ranks - 1)
    seconds = measured["messages"] * hops * latency + hops / ranks * measured["bytes"] / bandwidth
    return {
        "model": network,
        "processes": ranks,
        "bytes_sent_by_each": int(hops / ranks * measured["bytes"]),
        "communication_ms": round(1e3 * seconds, 3),
    }


def start(options: argparse.Namespace, ranks: int) -> dict:
    """Run one round on fresh processes; return the figures of process 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    threads = str(max(1, options.threads // ranks))
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--worker"],
            env={**os.environ, **common, "RANK": str(r), "LOCAL_RANK": str(r), "OMP_NUM_THREADS": threads},
            stdout=subprocess.PIPE,
            text=True,
        )
        for r in range(ranks)
    ]
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("A process failed; its message is above.")
    return json.loads(said[0].splitlines()[-1])


def work(options: argparse.Namespace) -> None:
    with distributed.process_group():
        torch.manual_seed(0)
        space = ag.spaces.darts_cifar(channels=options.channels, cells=options.cells, num_classes=10)
        supernet = ag.Supernet(space).train()
        batch = options.batch // distributed.world_size()
        images = torch.randn(batch, 3, options.size, options.size).contiguous(memory_format=torch.channels_last)
        pair = (images, torch.randint(0, 10, (batch,)))
        weights_optimizer = torch.optim.SGD(supernet.weights.values(), lr=0.025, momentum=0.9)
        alphas_optimizer = torch.optim.Adam(supernet.alphas.values(), lr=3e-4)

        def step() -> None:
            ag.search_step(
                supernet, pair, pair, step=STEPS[options.step](),
                weights_optimizer=weights_optimizer, alphas_optimizer=alphas_optimizer,
            )  # fmt: skip

        with distributed.synchronised_norms(supernet.network, enabled=options.sync_batchnorm):
            sent = messages_of(step)
            distributed.sum_over_ranks([0.0])
            began, worked = time.perf_counter(), time.process_time()
            for _ in range(options.steps):
                step()
            seconds = (time.perf_counter() - began) / options.steps
            (processor,) = distributed.sum_over_ranks([(time.process_time() - worked) / options.steps])
    print(
        json.dumps({"step_seconds": seconds, "processor_seconds": processor, "messages": len(sent), "bytes": sum(sent)})
    )


def messages_of(step: object) -> list[int]:
    """Run a step, and return the bytes of each all-reduce in it."""
    sent: list[int] = []
    real = dist.all_reduce

    def counting(tensor: torch.Tensor, *arguments: object, **more: object) -> object:
        sent.append(tensor.numel() * tensor.element_size())
        return real(tensor, *arguments, **more)

    dist.all_reduce = counting
    try:
        step()
    finally:
        dist.all_reduce = real
    return sent


def machine(options: argparse.Namespace) -> dict:
    return {
        "space": f"darts-cifar, {options.channels} channels, {options.cells} cells, {options.size}x{options.size}",
        "step": options.step,
        "sync_batchnorm": options.sync_batchnorm,
        "batch": options.batch,
        "threads": options.threads,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time a search step on one process and on two.")
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--cells", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32, help="Samples of a step over all processes.")
    parser.add_argument("--size", type=int, default=16, help="Side of the images.")
    parser.add_argument("--step", choices=STEPS, default="first-order")
    parser.add_argument("--steps", type=int, default=5, help="Steps timed a round.")
    parser.add_argument("--threads", type=int, default=2, help="Of one process; each of two has half, at least 1.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sync-batchnorm", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
