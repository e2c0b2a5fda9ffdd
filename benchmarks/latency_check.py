"""Do networks keep the milliseconds that they were searched within? Searches, derives, and times what was derived.

    python benchmarks/latency_check.py --threads 1 --seeds 4 [--budget 6] [--space nasbench201]

Times each operation of a space once, and searches it on made-up images within a latency, once for each seed. Then all
derived networks are timed as wholes, one pass of one image each in turn, so that a machine that slows down slows all
alike. Without `--budget` that is half-way from the smallest network of the space to the median one (`--share`). One
line of JSON a seed: the budget, what the search predicted, the median of the passes with their quartiles, by how much
that is above the prediction and the budget, and whether it keeps the budget, and keeps it within 10 %; then one with
the machine, the versions and the load. The exit status is 1 if a network is more than 10 % above its budget. Nothing
else should compute meanwhile: on a busy machine the figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from search_step import machine_of
from torch import nn

import archgrad as ag
from archgrad.latency import LatencyTable

TOLERANCE = 0.10
"""Share of the budget by which the measured latency may be above it."""
WARM_UP = 5
SAMPLES, BATCH = 64, 8


def images(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images of noise, and in which of two halves they are brighter."""
    x = torch.randn(SAMPLES, 3, size, size, generator=torch.Generator().manual_seed(0))
    return x, (x[..., : size // 2].mean((1, 2, 3)) > x[..., size // 2 :].mean((1, 2, 3))).long()


def costs_of(space: nn.Module, x: torch.Tensor, clock: Callable[[], float]) -> ag.ExpectedCost:
    """Return what the networks of a space take, each operation timed once."""
    return ag.ExpectedCost(space, x, "latency", latencies=LatencyTable(x.device, clock=clock))


def searched(space: nn.Module, data: tuple[torch.Tensor, torch.Tensor], budget: float, **options: Any) -> Any:
    """Return the result of a search within a latency in milliseconds."""
    return ag.search(
        space,
        data,
        budget=f"latency<={budget:.6g}ms",
        alphas_learning_rate=0.05,
        batch_size=BATCH,
        quiet=True,
        **options,
    )


def timed(
    networks: Sequence[nn.Module], x: torch.Tensor, *, rounds: int, clock: Callable[[], float]
) -> list[list[float]]:
    """Return the milliseconds of `rounds` passes of each network, which take turns.

    Args:
        networks: In evaluation mode.
        x: A batch of one.
        rounds: Passes of each, after a warm-up.
        clock: Returns seconds.
    """
    found: list[list[float]] = [[] for _ in networks]
    with torch.no_grad():
        for number in range(WARM_UP + rounds):
            for network, times in zip(networks, found, strict=True):
                wait(x.device)
                begin = clock()
                network(x)
                wait(x.device)
                if number >= WARM_UP:
                    times.append(1e3 * (clock() - begin))
    return found


def wait(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compared(budget: float, predicted: float, times: Sequence[float]) -> dict[str, Any]:
    """Return what a network was asked for, predicted and measured to take, in milliseconds."""
    low, middle, high = statistics.quantiles(times, n=4)
    return {
        "budget_ms": round(budget, 4),
        "predicted_ms": round(predicted, 4),
        "measured_ms": round(middle, 4),
        "quartiles_ms": [round(low, 4), round(high, 4)],
        "passes": len(times),
        "over_prediction": round(middle / predicted - 1.0, 4),
        "over_budget": round(middle / budget - 1.0, 4),
        "predicted_keeps": predicted <= budget,
        "keeps": middle <= budget,
        "keeps_within_tolerance": middle <= (1.0 + TOLERANCE) * budget,
    }


def checked(
    build: Callable[[], nn.Module],
    data: tuple[torch.Tensor, torch.Tensor],
    *,
    budget: float | None,
    share: float,
    seeds: int,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    **options: Any,
) -> list[dict[str, Any]]:
    """Search within a latency, and time what is derived.

    Args:
        build: Returns the space.
        data: Inputs and targets.
        budget: In milliseconds; None takes one between the smallest and the median network.
        share: Of the way from the one to the other.
        seeds: Searches.
        rounds: Timed passes of each derived network.
        clock: Returns seconds.
        options: Further ones of `archgrad.search`, among them `device`.

    Returns:
        Of each seed what `compared` tells.
    """
    device = torch.device(options["device"])
    x = data[0][:1].to(device)
    costs = costs_of(build().to(device), x, clock)
    smallest, median, _ = costs.range()
    limit = smallest + share * (median - smallest) if budget is None else budget
    with TemporaryDirectory() as folder:
        table = Path(folder) / "latency.json"
        table.write_text(json.dumps(costs.latencies.to_json()), encoding="utf-8")
        found = [searched(build(), data, limit, seed=seed, latency_table=table, **options) for seed in range(seeds)]
    networks = [ag.derive(build(), each.architecture).to(device).eval() for each in found]
    predicted = [sum(each.architecture.provenance["costs"]["latency"].values()) for each in found]
    return [
        {"seed": seed, **compared(limit, told, times)}
        for seed, (told, times) in enumerate(
            zip(predicted, timed(networks, x, rounds=rounds, clock=clock), strict=True)
        )
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="mobile", help="name of one of archgrad.spaces for images")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--budget", type=float, help="milliseconds; by default between smallest and median network")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    build = getattr(ag.spaces, options.space.replace("-", "_"))
    rows = checked(
        lambda: build(num_classes=2),
        images(options.image_size),
        budget=options.budget,
        share=options.share,
        seeds=options.seeds,
        rounds=options.rounds,
        epochs=options.epochs,
        device=options.device,
    )
    for row in rows:
        print(json.dumps({"space": options.space, **row}))
    load = round(os.getloadavg()[0], 1)
    told = {"arguments": sys.argv[1:], "threads": options.threads, "load_average": load}
    print(json.dumps({**told, **machine_of(options.device)}))
    return 0 if all(row["keeps_within_tolerance"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
