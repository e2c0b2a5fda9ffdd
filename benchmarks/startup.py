"""What is not the step: starting up, and waiting for data.

    python benchmarks/startup.py [--data folder:IMAGES]

Seconds from the start of a process to the end of `import archgrad`, of `archgrad --help`, and of the first step of the
demo's search, beside those until PyTorch has made an optimizer, each a median; and of a short search the share of an
epoch that its steps wait for their batches (`waiting_share` of timings.csv, the second epoch, in which images that are
files are decoded already).

The aims are 0.3 s, 0.5 s, 4 s and 2 %.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from search_step import machine_of

from archgrad.runs.metrics import MetricsFile

IMPORT = [sys.executable, "-c", "import archgrad"]
HELP = [sys.executable, "-m", "archgrad", "--help"]
TORCH = [sys.executable, "-c", "import torch; torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)"]
"""What every program pays that trains with PyTorch; its first optimizer imports much of the compiler."""
FIRST_STEP = """
import os
import torch
import torch.nn.functional as F
import archgrad as ag

calls = []

def loss(outputs, targets):
    calls.append(torch.is_grad_enabled())  # the samples that try the loss out before the first step have no gradient
    if sum(calls) == 3:  # of the second step; each has one for the alphas and one for the weights
        os._exit(0)
    return F.cross_entropy(outputs, targets)

torch.manual_seed(0)
space = ag.spaces.darts_cifar(8, 3, num_classes=10, in_channels=1)
ag.search(space, "digits", epochs=6, alphas_learning_rate=0.02, loss=loss, quiet=True)
raise SystemExit("the search ended before its second step")
"""
"""The search of examples/demo.py up to the second step."""


def seconds_of(command: list[str], rounds: int) -> float:
    """Return the median of a command's seconds, after one that is not counted."""
    found = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - began)
    return round(statistics.median(found[1:]), 2)


def waiting_share(space: str, data: str, *options: str) -> float:
    """Return the share of the second epoch of a search that its steps wait for data."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        command = [sys.executable, "-m", "archgrad", "search", "--space", space, "--data", data, "--epochs", "2"]
        subprocess.run([*command, *options, "--out", str(out), "--quiet"], check=True, stdout=subprocess.DEVNULL)
        return round(MetricsFile(out / "timings.csv").rows()[-1]["waiting_share"], 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="images as files, folder:PATH; without them digits alone are measured")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found = {
        "import_seconds": seconds_of(IMPORT, options.rounds),
        "help_seconds": seconds_of(HELP, options.rounds),
        "torch_seconds": seconds_of(TORCH, options.rounds),
        "first_step_seconds": seconds_of([sys.executable, "-c", FIRST_STEP], options.rounds),
        "waiting_share_demo": waiting_share("darts-cifar", "digits", "--channels", "8", "--cells", "3"),
    }
    if options.data:
        few = ("--channels", "8", "--cells", "1", "--train-samples", "2000")
        found["waiting_share_nasbench201"] = waiting_share("nasbench201", options.data, *few)
    print(json.dumps({**found, "load_average": round(os.getloadavg()[0], 1), **machine_of("cpu")}))


if __name__ == "__main__":
    main()
