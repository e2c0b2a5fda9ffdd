"""Run by each of two processes: every published method, with half of the batch."""

from __future__ import annotations

import sys

import problems
import torch

from archgrad.distributed import process_group
from archgrad.search.short_forms import PRESETS

torch.set_num_threads(1)
with process_group():
    results = {name: problems.searched_preset(name, batch_size=4, sync_batchnorm=True) for name in PRESETS}
torch.save(results, sys.argv[-1])
