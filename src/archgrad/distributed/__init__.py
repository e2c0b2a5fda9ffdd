"""Many processes that give one result: their start, what they tell each other, and what happens when one dies.

Without a process group every function does for one process what it says, so that no caller asks how many there are.

- `launch`: what the launcher says about this process.
- `group`: the process group of a run.
- `heartbeat`: the watch over the other processes.
- `messages`: means, sums, copies and comparisons over the processes.
- `norms`: BatchNorm over the batch of all processes.
"""

from archgrad.distributed.group import local_rank_zero_first, process_group
from archgrad.distributed.launch import own_device, restarted
from archgrad.distributed.messages import (
    ControlFlags,
    agreed_control_flags,
    alone,
    average_over_ranks,
    broadcast_bytes,
    broadcast_tensors,
    check_same,
    divide_over_ranks,
    gather_bytes,
    gather_rows,
    largest_over_ranks,
    raise_on_all_ranks,
    rank,
    reset_control_flags,
    set_control_flags,
    sum_over_ranks,
    world_size,
)
from archgrad.distributed.sync_batchnorm import synchronised_norms

__all__ = [
    "ControlFlags",
    "agreed_control_flags",
    "alone",
    "average_over_ranks",
    "broadcast_bytes",
    "broadcast_tensors",
    "check_same",
    "divide_over_ranks",
    "gather_bytes",
    "gather_rows",
    "largest_over_ranks",
    "local_rank_zero_first",
    "own_device",
    "process_group",
    "raise_on_all_ranks",
    "rank",
    "reset_control_flags",
    "restarted",
    "set_control_flags",
    "sum_over_ranks",
    "synchronised_norms",
    "world_size",
]
