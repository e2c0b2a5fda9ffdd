"""Small real runs that end as one long sleep would not: every kind of state that a run goes on from is in them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import archgrad as ag
from archgrad.data import Data, TensorSamples, load
from archgrad.errors import OptionError, SpaceError
from archgrad.methods import Method
from archgrad.runs import load_state, save_state
from archgrad.selection import PerturbationBased
from parts_of_methods import PARTS, method_of

EPOCHS = 3


@dataclass(frozen=True)
class Problem:
    """A run that starts or goes on in a folder."""

    run: Callable[..., Any]
    """Called as `run(folder, resume=..., checkpoint_steps=...)`."""
    results: tuple[str, ...]
    """Patterns of the files that are the same to the byte, however often the run was killed."""


@cache
def some_digits(train: int = 96, test: int = 32) -> Data:
    data = load("digits")
    assert isinstance(data.train, TensorSamples)
    assert isinstance(data.test, TensorSamples)
    return replace(
        data,
        train=TensorSamples(data.train.inputs[:train], data.train.targets[:train]),
        test=TensorSamples(data.test.inputs[:test], data.test.targets[:test]),
    )


class NoisyImages(Dataset):
    """A data set of one's own, read sample by sample, with a random transform."""

    def __init__(self, samples: TensorSamples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, target = self._samples[index]
        return image.float() / 255 + random.random() * torch.rand(image.shape), int(target)


class Drifting(nn.Module):
    """A network behind buffers that each training step changes, that its outputs depend on, and that no state dict has.

    One is set from the start, one in the first step, and one is registered in the first step.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("drift", torch.zeros(()), persistent=False)
        self.register_buffer("first", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.drift.mul_(0.9).add_(x.mean() + 0.1)
            if self.first is None:
                self.first = x.mean((0, 2, 3), keepdim=True)
                self.register_buffer("rotation", torch.complex(x.mean(), x.std()), persistent=False)
        shift = 0.0 if self.first is None else self.first + 0.1 * self.rotation.imag
        return self.network(x + 0.3 * self.drift + shift)


class Dropped(nn.Module):
    """The tiny space behind dropout, which draws from torch's global generator."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.1)
        self.network = Drifting(ag.spaces.tiny(channels=size))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.dropout(x))


def run_search(
    folder: Path,
    *,
    resume: bool,
    checkpoint_steps: int | None = 1,
    space: Any = None,
    **options: Any,
) -> ag.SearchResult:
    torch.manual_seed(0)
    given = {
        "step": ag.bilevel.Unrolled(),
        "relaxation": ag.relaxation.Gumbel(),
        "epochs": EPOCHS,
        "batch_size": 16,
        "cutout": 3,
        "seed": 2,
        "device": "cpu",
        "quiet": True,
    }
    return ag.search(
        Dropped() if space is None else space,
        some_digits(),
        run_dir=folder,
        resume=resume,
        checkpoint_steps=checkpoint_steps,
        **{**given, **options},
    )


def run_selection(folder: Path, *, resume: bool, **options: Any) -> ag.SearchResult:
    """Search an epoch, and settle one choice after the other by what is lost without each candidate."""
    method = Method(selection=PerturbationBased(tune_epochs=1))
    return run_search(folder, resume=resume, method=method, step=None, relaxation=None, epochs=1, **options)


def run_retrain(
    folder: Path,
    *,
    resume: bool,
    checkpoint_steps: int | None = 1,
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
    **options: Any,
) -> Any:
    torch.manual_seed(0)
    space = ag.spaces.tiny(channels=4)
    architecture = ag.Architecture({"stem": "conv3", "body/kernel": "conv1", "body": "conv", "join": [1]}, space="tiny")
    given = {"epochs": EPOCHS, "batch_size": 32, "seed": 2, "device": "cpu", "quiet": True}
    return ag.retrain(
        wrap(ag.derive(space, architecture)),
        some_digits(),
        architecture=architecture,
        run_dir=folder,
        resume=resume,
        checkpoint_steps=checkpoint_steps,
        **{**given, **options},
    )


def run_drifting_retrain(folder: Path, *, resume: bool, **options: Any) -> Any:
    return run_retrain(folder, resume=resume, wrap=Drifting, **options)


def run_trainer(folder: Path, *, resume: bool, checkpoint_steps: int | None = 1, **options: Any) -> Any:
    torch.manual_seed(0)
    data = some_digits()
    assert isinstance(data.train, TensorSamples)
    model = Drifting(ag.spaces.tiny(channels=4))
    trainer = ag.DartsTrainer(
        model,
        nn.CrossEntropyLoss(),
        lambda outputs, targets: {"acc1": (outputs.argmax(1) == targets).float().mean()},
        torch.optim.Adam(model.parameters(), 0.01),
        EPOCHS,
        NoisyImages(data.train),
        batch_size=16,
        device="cpu",
        quiet=True,
        run_dir=folder,
        checkpoint_steps=checkpoint_steps,
        **{"workers": 0, **options},
    )
    return trainer.fit(resume=resume)


_SEARCH_RESULTS = ("metrics.csv", "checkpoints/epoch_*.json")
_RETRAIN_RESULTS = ("metrics.csv", "architecture.json", "weights/*", "predictions.safetensors")


def random_method(draw: random.Random) -> Method:
    """Return a method of parts drawn at random, of all that there are, among those that can make a method."""
    kinds = list(dict.fromkeys(part.kind for part in PARTS))
    while True:
        asked = [kind for kind in kinds if draw.random() < 0.5]
        try:
            return method_of(draw.choice([part for part in PARTS if part.kind == kind]) for kind in asked)
        except OptionError:
            continue


def random_options(draw: random.Random) -> dict[str, Any]:
    """Return options that searches and retrainings share, drawn at random."""
    return {
        "precision": draw.choice(["32", "32", "64", "bf16"]),
        "accumulation": draw.choice([1, 1, 2]),
        "cutout": draw.choice([0, 3]),
        "seed": draw.randrange(1000),
        "grad_clip": draw.choice([0.0, 5.0]),
        "on_nonfinite": draw.choice(["stop", "skip"]),
        "fast": draw.choice([True, True, False]),
        "workers": draw.choice([0, 0, 0, 1]),
    }


def random_space(draw: random.Random) -> Callable[..., nn.Module]:
    """Return what builds a small space, drawn at random, in a size."""

    def cells(size: int = 2) -> nn.Module:
        return ag.spaces.darts_cifar(channels=size, cells=2, nodes=2, in_channels=1)

    def nasbench201(size: int = 2) -> nn.Module:
        return ag.spaces.nasbench201(channels=size, cells=1, in_channels=1)

    return draw.choice([Dropped, cells, nasbench201])


def goes_with(method: Method, space: Callable[..., nn.Module]) -> bool:
    """Return whether a search of the space with the method gets through its first steps."""
    try:
        ag.search(space, some_digits(8, 8), method=method, epochs=2, batch_size=4, device="cpu", quiet=True)
    except (OptionError, SpaceError):
        return False
    return True


def problem_of(name: str, seed: int) -> Problem:
    """Return a problem by name; "method" or "recipe" with anything behind it draws a search or retraining at random.

    What is drawn are the parts of the method, the space, and the options.
    """
    draw = random.Random(f"{seed} {name}")
    if name.startswith("recipe"):
        recipe = {
            **random_options(draw),
            "optimizer": draw.choice(["sgd", "adamw"]),
            "batch_size": draw.choice([24, 32]),
            "drop_path": draw.choice([0.0, 0.3]),
            "label_smoothing": draw.choice([0.0, 0.1]),
        }
        return Problem(lambda folder, **given: run_drifting_retrain(folder, **recipe, **given), _RETRAIN_RESULTS)
    if not name.startswith("method"):
        return PROBLEMS[name]
    method, space = random_method(draw), random_space(draw)
    while not goes_with(method, space):
        method, space = random_method(draw), random_space(draw)
    options = {
        **random_options(draw),
        "batch_size": draw.choice([12, 16]),
        "activation_checkpointing": draw.choice([False, False, True]),
        "schedule": draw.choice(["cosine", "constant"]),
    }

    def run(folder: Path, *, resume: bool, **given: Any) -> ag.SearchResult:
        parts = {"step": None, "relaxation": None, "method": method}
        return run_search(folder, resume=resume, space=space, **parts, **options, **given)

    return Problem(run, _SEARCH_RESULTS)


PROBLEMS = {
    "search": Problem(run_search, _SEARCH_RESULTS),
    "selection": Problem(run_selection, _SEARCH_RESULTS),
    "retrain": Problem(run_drifting_retrain, _RETRAIN_RESULTS),
    "trainer": Problem(run_trainer, _SEARCH_RESULTS),
}


def results(problem: Problem, folder: Path) -> dict[str, bytes]:
    """Return everything of a finished run that must not depend on interruptions, by name.

    Its last checkpoint is among it, without the clock: weights, alphas, optimizers and random states.
    """
    found = {
        str(file.relative_to(folder)): file.read_bytes()
        for pattern in problem.results
        for file in sorted(folder.glob(pattern))
    }
    state = load_state(folder / "checkpoints" / "last.ckpt")
    del state["clock"]
    save_state(folder / "without-clock", state)
    found["state"] = (folder / "without-clock").read_bytes()
    (folder / "without-clock").unlink()
    return found


def position(folder: Path) -> tuple[int, int]:
    """Return (epoch, step) of the newest whole checkpoint; (0, 0) where there is none."""
    for name in ("last.ckpt", "previous.ckpt"):
        if (folder / "checkpoints" / name).exists():
            state = load_state(folder / "checkpoints" / name)
            return state["epoch"], state["step"]
    return 0, 0
