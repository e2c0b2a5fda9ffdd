"""Time one training step of the retraining network, plain and with `archgrad.fast.accelerate`, in alternating rounds.

    python benchmarks/retrain_step.py --channels 36 --cells 20 --batch 96

One JSON line: median seconds of both and their ratio (plain / fast).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

import torch
import torch.nn.functional as F

import archgrad as ag
from archgrad.fast import accelerate
from archgrad.fast.malloc import keep_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=36)
    parser.add_argument("--cells", type=int, default=20)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: then with --threads 1")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # of the whole process, and so for both
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    x, y = torch.randn(options.batch, 3, 32, 32), torch.randint(0, 10, (options.batch,))
    networks = {}
    for name in ("plain", "fast"):
        torch.manual_seed(0)
        space = ag.spaces.darts_cifar(options.channels, options.cells, stage="retrain")
        network = ag.derive(space, ag.architectures.DARTS_V2)
        if name == "fast":
            accelerate(network)
        networks[name] = network
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for index in range(options.rounds + 1):
        for name, network in networks.items():
            begin = clock()
            F.cross_entropy(network(x), y).backward()
            if index:  # the first round warms up
                seconds[name].append(clock() - begin)
    plain, fast = (statistics.median(seconds[name]) for name in ("plain", "fast"))
    print(
        json.dumps(
            {
                "plain_seconds": round(plain, 3),
                "fast_seconds": round(fast, 3),
                "ratio_retrain": round(plain / fast, 3),
                "clock": options.clock,
                "threads": options.threads,
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
