"""The path of a network of which the quickest is not known: timed before the first step, and kept in the run folder.

On a GPU, and on a CPU for which no kernels were built, it depends on the network, the batch and the precision which
path is the quickest (see `archgrad.fast.path_names`). So a step is done by each, with no trace, and what they give is
compared with what the plain one gives. Whoever fails, or gives something else, is left out.

Rounding moves gradients far, as it turns ReLUs and the choices of pools over: at random weights those of a pass in
bfloat16 are 20 to 60 % from those in single precision. So what each path gives is held to what the plain one gives
without half precision and TF32, and may be twice as far from that as the plain one is in the run's precision.
"""

from __future__ import annotations

import gc
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from archgrad.bilevel.graph_recording import relative
from archgrad.distributed import alone, raise_on_all_ranks, rank
from archgrad.engine.no_trace import no_trace
from archgrad.engine.training_options import Precision
from archgrad.errors import ArchitectureError, RunError
from archgrad.fast import FastPath, Path, open_paths
from archgrad.files import read_explained
from archgrad.json_text import MAX_TEXT_BYTES, parse_json, shown_text
from archgrad.rank_state import send_state
from archgrad.runs import RunFolder

__all__ = ["PATHS", "Decision", "PathChoice", "Trial", "decide"]

PATHS = "paths.json"
"""Of a run folder: which paths were taken, and why."""
_FORMAT, _VERSION = "archgrad-paths", 1
_REPEATS = 3
_HOPELESS = 2.0
"""A path that takes so many times as long as the quickest is not timed again."""
_ALLOWED, _ALLOWED_OF_GRADIENTS = 0.01, 0.1
"""Relative differences in L2 norm that are rounding in single precision; in double precision a part of them is."""
_PART_IN_DOUBLE = 1e-5
_TIMES_PLAIN = 2.0
"""How many times as far as the plain path's a path's results may be from exact ones."""

Results = Mapping[str, Sequence[Any]]
"""What a pass gives, in groups that are compared one by one: loss, outputs, buffers, and names with "gradients"."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A step of a run that any path can do."""

    network: nn.Module
    path: FastPath
    """Of the network."""
    device: torch.device
    precision: Precision
    results: Callable[[Precision], Results]
    """Returns what one pass in a precision gives."""
    step: Callable[[], object]
    """Does what a step of the run does but for its updates."""
    generator: torch.Generator | None = None
    """Of random numbers, besides the global ones."""
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    """Returns a context in which the run does its steps."""
    clock: Callable[[], float] = time.perf_counter
    """Returns seconds."""

    @contextmanager
    def by(self, path: Path) -> Iterator[None]:
        """Let the network run by a path for a while, with no trace of what is done inside."""
        before = self.path.present
        try:
            with no_trace(self.network, self.device, self.generator):
                self.path.take(path)
                with self.around():
                    yield
        finally:
            self.path.take(before)

    def exact_results(self) -> Results:
        """Return what one pass gives without half precision and TF32, as copies that no later pass writes into."""
        with _without_tf32() if self.device.type == "cuda" else nullcontext():
            found = self.results("64" if self.precision == "64" else "32")
        return {name: [x.detach().clone() if isinstance(x, Tensor) else x for x in v] for name, v in found.items()}

    def seconds(self, best: float) -> float:
        """Return how long a step takes: the shortest of some, after a warm-up.

        Args:
            best: Of the quickest path so far.
        """
        self.step()
        times: list[float] = []
        while len(times) < _REPEATS and (not times or times[0] < _HOPELESS * best):
            self._wait()
            begin = self.clock()
            self.step()
            self._wait()
            times.append(self.clock() - begin)
        return min(times)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Decision:
    """Which path a network takes."""

    path: Path
    seconds: Mapping[Path, float]
    """Of a step by each path that can be taken."""
    left_out: Mapping[Path, str]
    """The other paths, and why they cannot."""

    @property
    def line(self) -> str:
        """What is said of it."""
        without = "".join(f" Without {path}, which {why}." for path, why in self.left_out.items())
        if not self.seconds:
            return f"Path: {self.path}, as there is nothing to compare it with.{without}"
        times = ", ".join(f"{_shown(taken)} by {path}" for path, taken in self.seconds.items())
        return f"Path: {self.path}. A step takes {times}.{without}"


def decide(trial: Trial, paths: Sequence[Path]) -> Decision:
    """Time a step by each path that gives what the first one gives, and return the quickest.

    Args:
        trial: Its network runs by the path that is taken where the first one fails; and does so again at the end.
        paths: "plain" first.
    """
    exact: Results | None = None
    allowed: dict[str, float] = {}
    seconds: dict[Path, float] = {}
    left_out: dict[Path, str] = {}
    for path in paths:
        try:
            if exact is None:
                with trial.by(path):
                    exact = trial.exact_results()
            with trial.by(path):
                gaps = _gaps(trial.results(trial.precision), exact)
                if path == paths[0]:
                    allowed = {name: _allowed(name, gap, trial.precision) for name, gap in gaps.items()}
                far = [name for name, gap in gaps.items() if not gap <= allowed[name] < math.inf]
                if not far:
                    seconds[path] = trial.seconds(min(seconds.values(), default=math.inf))
                elif path == paths[0]:
                    left_out[path] = f"gives {far[0]} that are not finite"
                else:
                    by = f", by {100 * gaps[far[0]]:.2g} %" if gaps[far[0]] < math.inf else ""
                    left_out[path] = f"gives other {far[0]}{by}"
        except Exception as error:  # whatever a path, or a person's network on it, raises: the run goes on without it
            left_out[path] = f"fails ({shown_text(str(error).partition(chr(10))[0]) or type(error).__name__})"
        if paths[0] not in seconds:
            break
    if trial.device.type == "cuda":  # the run begins with all memory, and tells its own peak
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(trial.device)
    quickest = min(seconds, key=seconds.__getitem__, default=trial.path.present)
    return Decision(quickest, seconds, left_out)


class PathChoice:
    """The paths of a run's networks, each decided once.

    Args:
        device: Where the networks compute.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._decided: dict[str, Decision] | None = None

    def is_open(self, name: str, path: FastPath, folder: RunFolder | None) -> bool:
        """Let a network take the path that was decided for it; return whether one is to be decided first.

        Every process must call this.

        Args:
            name: Of the network in the run.
            path: Of the network.
            folder: Of the run; None where there is none, or on another process than the first.
        """
        if not open_paths(path.asked, self._device):
            return False
        if self._decided is None:
            stored = send_state(_stored(folder, self._device))
            self._decided = {key: Decision(**decision) for key, decision in stored.items()}
        if name not in self._decided:
            return True
        path.take(self._decided[name].path)
        return False

    def decide(self, name: str, trial: Trial, folder: RunFolder | None, say: Callable[[str], None]) -> None:
        """Decide for a network whose path is open, on process 0 for all, and say so.

        Args:
            name: Of the network in the run.
            trial: A step of it.
            folder: Where decisions are kept; None keeps them for this run alone.
            say: Is told in a line.
        """
        made: dict[str, Any] | None = None
        with raise_on_all_ranks():
            if rank() == 0:
                with alone():
                    made = asdict(decide(trial, open_paths(trial.path.asked, self._device)))
        decision = Decision(**send_state(made))
        trial.path.take(decision.path)
        self._decided = {**(self._decided or {}), name: decision}
        say(decision.line)
        if folder is not None:
            networks = {key: asdict(each) for key, each in self._decided.items()}
            content = {"format": _FORMAT, "version": _VERSION, "device": _named(self._device), "networks": networks}
            folder.save_json(PATHS, content)


def _stored(folder: RunFolder | None, device: torch.device) -> dict[str, Any]:
    """Return what a run decided before, on such a device; nothing of a file that is damaged, as it can be made anew."""
    if folder is None or not folder.resumed or not (folder.path / PATHS).is_file():
        return {}
    try:
        content = parse_json(read_explained(folder.path / PATHS, most=MAX_TEXT_BYTES).decode("utf-8"))
        if (content["format"], content["version"], content["device"]) != (_FORMAT, _VERSION, _named(device)):
            return {}
        found = {}
        for name, each in content["networks"].items():
            seconds = {_path(path): float(taken) for path, taken in each["seconds"].items()}
            left_out = {_path(path): str(why) for path, why in each["left_out"].items()}
            found[name] = asdict(Decision(_path(each["path"]), seconds, left_out))
        return found
    except (RunError, ValueError, TypeError, KeyError, AttributeError, ArchitectureError):
        return {}


def _shown(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _path(name: str) -> Path:
    for path in get_args(Path):
        if path == name:
            return path
    raise ValueError(name)


def _named(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"


def _allowed(name: str, gap: float, precision: Precision) -> float:
    """How far results of a group may be from the exact ones, where the plain path's are `gap` from them."""
    least = _ALLOWED_OF_GRADIENTS if "gradients" in name else _ALLOWED
    return _TIMES_PLAIN * gap + least * (_PART_IN_DOUBLE if precision == "64" else 1.0)


@torch.no_grad()
def _gaps(found: Results, exact: Results) -> dict[str, float]:
    """How far the groups of results are from the exact ones; infinite where one is not finite."""
    gaps = {name: relative(values, exact[name]) for name, values in found.items()}
    return {name: gap if math.isfinite(gap) else math.inf for name, gap in gaps.items()}


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Let products of single precision on a GPU have all of it inside."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    try:
        products.allow_tf32 = convolutions.allow_tf32 = False
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
