"""Run by each of two processes: the messages that `test_messages.py` looks at."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import problems
import torch
import torch.distributed as dist

import archgrad as ag
from archgrad import distributed
from archgrad.errors import ArchgradError, DataError

torch.set_num_threads(1)
sent: list[str] = []


@contextmanager
def counted() -> Iterator[None]:
    """Note every message of the block by its kind."""
    sent.clear()
    kinds = ("all_reduce", "all_gather", "broadcast", "gather", "reduce", "send")
    real = {kind: getattr(dist, kind) for kind in kinds}

    def counting(kind: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            sent.append(kind)
            return real[kind](*arguments, **options)

        return call

    for kind in kinds:
        setattr(dist, kind, counting(kind))
    try:
        yield
    finally:
        for kind in kinds:
            setattr(dist, kind, real[kind])


def error_of(function: Any) -> str:
    try:
        function()
    except ArchgradError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def messages_of_a_step(step: str, *, norm: bool) -> list[str]:
    supernet = ag.Supernet(problems.space(norm=norm)).train()
    batch = (torch.randn(4, 1, 6, 6), torch.tensor([0, 1, 2, 0]))
    with distributed.synchronised_norms(supernet.network, enabled=norm), counted():
        ag.search_step(
            supernet,
            batch,
            batch,
            step=problems.STEPS[step](),
            weights_optimizer=torch.optim.SGD(supernet.weights.values(), lr=0.1),
            alphas_optimizer=torch.optim.Adam(supernet.alphas.values(), lr=0.1),
        )
    return list(sent)


def searched_with(tamper: Any) -> str:
    seen: list[int] = []

    def metrics(outputs: Any, targets: Any) -> dict[str, float]:
        seen.append(1)
        return {}

    supernet = ag.Supernet(problems.space(norm=False), seed=0)

    def loss(outputs: Any, targets: Any) -> Any:
        if len(seen) == 4:
            tamper(supernet)
        return torch.nn.functional.cross_entropy(outputs, targets)

    def run() -> None:
        ag.search(
            supernet, problems.images(), epochs=2, batch_size=8, loss=loss, metrics=metrics, device="cpu", quiet=True
        )

    return error_of(run)


def nudge(supernet: ag.Supernet) -> None:
    if rank == 1:
        with torch.no_grad():
            supernet.alphas["second"].mul_(1 + 1e-6)


def fail_on_1() -> None:
    with distributed.raise_on_all_ranks():
        if rank == 1:
            raise DataError("image 7 is broken")


results: dict[str, Any] = {}
with distributed.process_group():
    rank = distributed.rank()
    results["world"] = [rank, distributed.world_size()]
    # Means: 3 samples here, 1 there; then none on one of them.
    ones = [torch.full((2,), 1.0 + rank), torch.full((), 10.0 * rank, dtype=torch.float64)]
    results["mean"] = distributed.average_over_ranks(ones, 3 if rank == 0 else 1)
    results["mean with an empty part"] = distributed.average_over_ranks(ones, 3 if rank == 0 else 0)
    laid_out = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    (mean,) = distributed.average_over_ranks([laid_out], 1)
    results["keeps the memory format"] = mean.is_contiguous(memory_format=torch.channels_last)
    results["sum"] = distributed.sum_over_ranks([1.0 + rank, 0.25])
    results["largest"] = distributed.largest_over_ranks(15 if rank else 0)
    results["rows"] = distributed.gather_rows(torch.full((2 - rank, 3), float(rank)), [2, 1])
    results["bytes"] = [part.decode() for part in distributed.gather_bytes(b"x" * (3 * rank))]
    results["sent"] = distributed.broadcast_bytes(b"from 0" if rank == 0 else None).decode()
    copied = [torch.full((2,), float(rank)), torch.tensor(rank)]
    distributed.broadcast_tensors(copied)
    results["copied"] = copied
    results["same"] = error_of(lambda: distributed.check_same({"alphas": [torch.ones(2)]}, when="now"))
    results["different"] = error_of(lambda: distributed.check_same({"alphas": [torch.ones(2) + rank]}, when="now"))
    results["raise_on_all_ranks"] = error_of(fail_on_1)
    distributed.set_control_flags(distributed.ControlFlags(stop=rank == 1))
    distributed.average_over_ranks(ones, 1)
    results["flags"] = [distributed.agreed_control_flags().stop, distributed.agreed_control_flags().save]
    distributed.set_control_flags(distributed.ControlFlags())
    for step in problems.STEPS:
        results[f"step {step}"] = messages_of_a_step(step, norm=False)
    results["step with norms"] = messages_of_a_step("first", norm=True)
    results["disagreement"] = searched_with(nudge)
    too_few = problems.images(20)
    results["too few"] = error_of(
        lambda: ag.search(problems.space(norm=False), too_few, epochs=1, batch_size=8, quiet=True)
    )
torch.save(results, sys.argv[-1])
