"""Run by each of two processes: everything that `test_equality.py` compares, with half of the batch."""

from __future__ import annotations

import sys

import problems
import torch

from archgrad.distributed import process_group, rank

torch.set_num_threads(1)
with process_group():
    results = {
        f"{step}-{'norm' if norm else 'plain'}": problems.searched(step, norm=norm, batch_size=8, sync_batchnorm=norm)
        for step in problems.STEPS
        for norm in (False, True)
    }
    for loss in problems.LOSSES:
        for step in problems.STEPS:
            for parts in (1, 2):
                samples = slice(0, 4) if rank() == 0 else slice(4, 8)
                results[f"{loss}-{step}-{parts}"] = problems.stepped(loss, step, samples=samples, accumulation=parts)
    results["cells"] = problems.searched("first", norm=True, batch_size=8, cells=True, sync_batchnorm=True)
    results["rules"] = problems.ruled(batch_size=8)
    results["selected"] = problems.selected(batch_size=8)
    results["weighted-norm"] = problems.weighted(batch_size=8, norm=True, sync_batchnorm=True)
    results["weighted-plain"] = problems.weighted(batch_size=8, norm=False)
    results["retrain"] = problems.retrained(batch_size=8, sync_batchnorm=True)
    results["retrain of a sum"] = problems.summed(batch_size=8, sync_batchnorm=True)
torch.save(results, sys.argv[-1])
