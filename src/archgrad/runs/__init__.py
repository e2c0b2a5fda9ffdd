"""Runs that cannot be lost: folder, lock, checkpoints, metrics, progress, signals, random states, loggers."""

from archgrad.runs.checkpoint import Checkpoints, load_state, pack_state, save_state, unpack_state
from archgrad.runs.config import config_difference, read_config
from archgrad.runs.environment import peak_memory_mb, pick_device, record_environment
from archgrad.runs.loggers import Loggers, check_loggers, open_loggers
from archgrad.runs.memory import memory_explained
from archgrad.runs.metrics import MetricsFile, check_column, fields_of, lines_of, read_metrics
from archgrad.runs.pace import CheckpointSchedule, Clock
from archgrad.runs.progress import Progress
from archgrad.runs.random_state import (
    capture_random_state,
    check_seed,
    restore_random_state,
    seed_everything,
    seeded,
)
from archgrad.runs.restored import checkpoint_explained, count_in, load_optimizer, numbers_in, rows_in, tensors_in
from archgrad.runs.run_folder import RunFolder
from archgrad.runs.signals import Halted, Interrupted, OutOfTime, StopRequest, in_ipython
from archgrad.runs.structure import is_stored
from archgrad.runs.tensors import load_tensors, save_tensors

__all__ = [
    "CheckpointSchedule",
    "Checkpoints",
    "Clock",
    "Halted",
    "Interrupted",
    "Loggers",
    "MetricsFile",
    "OutOfTime",
    "Progress",
    "RunFolder",
    "StopRequest",
    "capture_random_state",
    "check_column",
    "check_loggers",
    "check_seed",
    "checkpoint_explained",
    "config_difference",
    "count_in",
    "fields_of",
    "in_ipython",
    "is_stored",
    "lines_of",
    "load_optimizer",
    "load_state",
    "load_tensors",
    "memory_explained",
    "numbers_in",
    "open_loggers",
    "pack_state",
    "peak_memory_mb",
    "pick_device",
    "read_config",
    "read_metrics",
    "record_environment",
    "restore_random_state",
    "rows_in",
    "save_state",
    "save_tensors",
    "seed_everything",
    "seeded",
    "tensors_in",
    "unpack_state",
]
