"""What the launcher says about this process.

torchrun says it by its variables; SLURM, LSF and MPI are understood by way of lightning-fabric.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from archgrad.errors import OptionError

__all__ = ["Launch", "find_launch", "own_device", "restarted", "restarts"]

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_OTHERS = ("SLURM_PROCID", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The place of this process among those that were started together."""

    rank: int
    """Number of the process, from 0."""
    world_size: int
    """Number of processes, at least 2."""
    local_rank: int
    """Number of the process on its machine, from 0."""
    address: str
    """Host of process 0."""
    port: int
    """Port on it where the processes find each other."""


def find_launch(environment: Mapping[str, str] | None = None) -> Launch | None:
    """Return what a launcher has set, or None where it started one process or there is none.

    Args:
        environment: torchrun's variables are looked for here; by default those of the process.

    Raises:
        OptionError: The launcher's settings cannot be used.
    """
    variables = os.environ if environment is None else environment
    try:
        if all(name in variables for name in _TORCHRUN):
            launch = Launch(
                rank=int(variables["RANK"]),
                world_size=int(variables["WORLD_SIZE"]),
                local_rank=int(variables["LOCAL_RANK"]),
                address=variables["MASTER_ADDR"],
                port=int(variables["MASTER_PORT"]),
            )
        elif any(name in variables for name in _OTHERS):
            found = _from_cluster()
            if found is None:
                return None
            launch = found
        else:
            return None
    except (ValueError, KeyError, RuntimeError) as error:
        raise OptionError(
            f"The variables that the launcher of this process has set cannot be used: {error!s}. "
            f"Start it with torchrun, or with srun and --ntasks-per-node."
        ) from error
    if not 0 <= launch.rank < launch.world_size:
        raise OptionError(
            f"The launcher says RANK={launch.rank} and WORLD_SIZE={launch.world_size}, but a rank is from 0 to "
            f"WORLD_SIZE - 1. Start the processes with torchrun."
        )
    return launch if launch.world_size > 1 else None


def _from_cluster() -> Launch | None:
    # Imported here because it takes a second or more, which a single process should not wait for.
    from lightning_fabric.plugins.environments import LSFEnvironment, MPIEnvironment, SLURMEnvironment

    for kind in (SLURMEnvironment, LSFEnvironment, MPIEnvironment):
        if kind.detect():
            cluster = kind()
            return Launch(
                rank=cluster.global_rank(),
                world_size=cluster.world_size(),
                local_rank=cluster.local_rank(),
                address=cluster.main_address,
                port=cluster.main_port,
            )
    return None


def restarted() -> bool:
    """Return whether torchrun has started this process again after one had failed (`--max-restarts`)."""
    return restarts() > 0


def restarts() -> int:
    """Return how often torchrun has started the processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def own_device(name: str | torch.device) -> str | torch.device:
    """Return the device of this process: with several processes on a machine, each has the GPU of its local rank.

    Args:
        name: "auto", or a torch device.

    Raises:
        OptionError: There are fewer GPUs than processes here, or one GPU was asked for by number for all of them.
    """
    launch = find_launch()
    if launch is None or not torch.cuda.is_available():
        return name
    device = None if name == "auto" else torch.device(name)
    if device is not None and device.type != "cuda":
        return name
    if device is not None and device.index is not None and device.index != launch.local_rank:
        raise OptionError(
            f"device='{device}' would be shared by the {launch.world_size} processes of this run. "
            f"Use 'auto' or 'cuda': each process then takes the GPU of its number on its machine."
        )
    if launch.local_rank >= torch.cuda.device_count():
        raise OptionError(
            f"Each process takes a GPU, but this is process {launch.local_rank} of its machine (from 0), which has "
            f"{torch.cuda.device_count()} GPUs. Start fewer processes a machine, or use device='cpu'."
        )
    return torch.device("cuda", launch.local_rank)
