"""How long operations take on this device: each timed once, kept in a table that can be stored and read."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from archgrad.checks import check_real
from archgrad.errors import OptionError, RunError
from archgrad.files import read_explained
from archgrad.json_text import parse_json, shown

__all__ = ["Latency", "LatencyTable"]

_FORMAT, _VERSION = "archgrad-latency", 1
_WARM_UP, _REPEATS = 3, 15


@dataclass(frozen=True)
class Latency:
    """How long an operation takes."""

    operation: str
    """As its `repr` shows it."""
    inputs: str
    """Shapes of what it is given."""
    milliseconds: float
    """Median of the repeats, at least 0."""
    spread: float
    """Upper quartile of the repeats less the lower one, in milliseconds."""


class LatencyTable:
    """Milliseconds of operations, timed where they are not known yet.

    Args:
        device: Where they run. A GPU is waited for before and after each repeat.
        clock: Returns seconds.
        known: What is known already, by key.
        complete: Refuse what is not known, instead of timing it.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        clock: Callable[[], float] = time.perf_counter,
        known: Mapping[str, Latency] | None = None,
        complete: bool = False,
    ) -> None:
        self.device, self._clock, self._complete = torch.device(device), clock, complete
        self.known = dict(known or {})
        """By key, in the order in which they were timed."""

    @classmethod
    def read(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu", *, complete: bool) -> LatencyTable:
        """Return the table of a file.

        Args:
            path: A JSON file as `to_json` describes it; of any device.
            device: Where operations are timed that it does not have.
            complete: Refuse such, instead of timing them.

        Raises:
            RunError: It cannot be read.
            OptionError: It is no such table.
        """
        try:
            content = parse_json(read_explained(Path(path)).decode("utf-8"))
            if content["format"] != _FORMAT or content["version"] != _VERSION:
                raise ValueError(f"format {shown(content['format'])}, version {shown(content['version'])}")
            known = {}
            for key, entry in content["operations"].items():
                known[key] = Latency(**entry)
                for name in ("milliseconds", "spread"):
                    check_real(f"{name} of {shown(key)}", getattr(known[key], name))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, RunError):
                raise
            raise OptionError(
                f"'{os.fspath(path)}' is no table of latencies ({error}). Give the latency.json of a run, or a table "
                f"with the same keys."
            ) from error
        return cls(device, known=known, complete=complete)

    def to_json(self) -> dict[str, Any]:
        """Return the table as JSON data, with what it was timed on."""
        cuda = self.device.type == "cuda"
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "device": torch.cuda.get_device_name(self.device) if cuda else f"cpu ({platform.machine()})",
            "threads": torch.get_num_threads(),
            "repeats": _REPEATS,
            "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
            "operations": {key: asdict(latency) for key, latency in self.known.items()},
        }

    def milliseconds(self, key: str, operation: str, inputs: str, run: Callable[[], Any]) -> float:
        """Return how long an operation takes: the median of repeats after a warm-up, or what is known.

        Args:
            key: Equal for what takes equally long.
            operation: What it is, for who reads the table.
            inputs: Their shapes.
            run: Runs it once.

        Raises:
            OptionError: It is not known, in a table that was given as complete.
        """
        if key not in self.known:
            if self._complete:
                raise OptionError(
                    f"The table of latencies does not have {shown(operation)} with the inputs {inputs} (key {key}). "
                    f"Add it, or leave out latency_table, so that it is timed here."
                )
            times = self._timed(run)
            quarters = statistics.quantiles(times, n=4)
            self.known[key] = Latency(operation, inputs, statistics.median(times), quarters[2] - quarters[0])
        return self.known[key].milliseconds

    def _timed(self, run: Callable[[], Any]) -> list[float]:
        for _ in range(_WARM_UP):
            run()
        times = []
        for _ in range(_REPEATS):
            self._wait()
            begin = self._clock()
            run()
            self._wait()
            times.append(1e3 * (self._clock() - begin))
        return times

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
