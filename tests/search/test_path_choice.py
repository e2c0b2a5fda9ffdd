"""A path that is chosen by measurement: which is taken, what is left out, and that nothing else comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.data.seeds import kept_randomness
from archgrad.engine import path_choice
from archgrad.engine.path_choice import PATHS, Decision, Trial, decide
from archgrad.errors import OptionError
from archgrad.fast import FastPath
from archgrad.fast.native import library
from archgrad.search import stage_builder
from toys import same_state

ALL = ("plain", "torch", "grouped")
QUICK = {"plain": 0.03, "torch": 0.02, "grouped": 0.01}


class Network(nn.Module):
    """A norm and noise: a pass moves buffers and takes random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.norm = nn.BatchNorm1d(3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        if "seen" not in self._buffers:
            self.register_buffer("seen", torch.zeros(()))
        self.seen = self.seen + 1
        return self.dropout(self.norm(self.weight * x))


class Clock:
    """Says how long steps have taken; a step takes what its path does."""

    def __init__(self, taken: Mapping[str, float]) -> None:
        self.now, self.steps = 0.0, dict.fromkeys(taken, 0)
        self._taken = taken

    def __call__(self) -> float:
        return self.now

    def step(self, path: str) -> None:
        self.steps[path] += 1
        self.now += self._taken[path] * (10 if self.steps[path] == 1 else 1)  # the first warms up


def trial_of(
    clock: Clock, *, gives: Mapping[str, Callable[[Tensor], Any]] | None = None, precision: Any = "32"
) -> Trial:
    """Return a trial on a network; `gives` says what paths make of the right gradient."""
    torch.manual_seed(0)
    network, x, generator = Network(), torch.randn(5, 3), torch.Generator().manual_seed(1)
    path = FastPath(network, "grouped")

    def results(own: str) -> dict[str, list[Any]]:
        y = network(x + torch.randn(5, 3, generator=generator))
        (gradient,) = torch.autograd.grad(y.square().sum(), [network.weight])
        change = (gives or {}).get(path.present)
        if change is not None:
            gradient = change(gradient)
        if own == "bf16":  # as far from the exact one for all
            gradient = 1.2 * gradient
        return {"outputs": [y], "gradients": [gradient], "buffers": list(network.buffers())}

    def step() -> None:
        results("32")
        clock.step(path.present)

    return Trial(
        network=network,
        path=path,
        device=torch.device("cpu"),
        precision=precision,
        results=results,
        step=step,
        generator=generator,
        clock=clock,
    )


def fails(error: BaseException) -> Callable[[Tensor], Tensor]:
    def raised(_: Tensor) -> Tensor:
        raise error

    return raised


@pytest.mark.parametrize("quickest", ALL)
def test_the_quickest_is_taken_and_all_times_are_said(quickest: str) -> None:
    taken = {path: 0.005 if path == quickest else seconds for path, seconds in QUICK.items()}
    decision = decide(trial_of(Clock(taken)), ALL)
    assert (decision.path, decision.left_out) == (quickest, {})
    assert decision.seconds == pytest.approx(taken)
    assert decision.line.startswith(f"Path: {quickest}. A step takes ")
    assert f"5 ms by {quickest}" in decision.line
    assert "\n" not in decision.line


def test_a_path_that_is_far_slower_is_timed_once_after_its_warm_up() -> None:
    clock = Clock({"plain": 0.01, "torch": 0.019, "grouped": 0.021})
    decide(trial_of(clock), ALL)
    assert clock.steps == {"plain": 4, "torch": 4, "grouped": 2}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (fails(RuntimeError("CUDA out of memory. Tried\nmuch")), "fails (CUDA out of memory. Tried)"),
        (fails(ZeroDivisionError()), "fails (ZeroDivisionError)"),
        (lambda g: 1.5 * g, "gives other gradients, by 50 %"),
        (lambda g: g * float("nan"), "gives other gradients"),
        (lambda g: None, "gives other gradients"),
        (lambda g: g[:2], "fails (The size of tensor a (2) must match the size of tensor b (3) at non-singleton"),
    ],
    ids=["memory", "raises", "wrong", "nan", "none", "shape"],
)
def test_a_path_that_fails_or_gives_something_else_is_left_out(change: Any, why: str) -> None:
    clock = Clock(QUICK)
    decision = decide(trial_of(clock, gives={"grouped": change}), ALL)
    assert decision.path == "torch"
    assert list(decision.left_out) == ["grouped"]
    assert decision.left_out["grouped"].startswith(why)
    assert f" Without grouped, which {why}" in decision.line
    assert clock.steps["grouped"] == 0


@pytest.mark.parametrize(
    ("precision", "gap", "agrees"),
    [("32", 0.05, True), ("32", 0.15, False), ("bf16", 0.15, True), ("bf16", 0.3, False), ("64", 1e-5, False)],
)
def test_rounding_is_no_difference_and_the_precision_says_what_it_is(precision, gap: float, agrees: bool) -> None:
    trial = trial_of(Clock(QUICK), gives={"grouped": lambda g: g * (1 + gap)}, precision=precision)
    assert (decide(trial, ALL).path == "grouped") == agrees


@pytest.mark.parametrize("change", [fails(RuntimeError("too large")), lambda g: g / 0], ids=["fails", "not finite"])
def test_where_the_plain_path_fails_all_stays_as_it_was_without_a_choice(change: Any) -> None:
    trial = trial_of(Clock(QUICK), gives={"plain": change})
    decision = decide(trial, ALL)
    assert decision.path == trial.path.present == "grouped"
    assert decision.seconds == {}
    assert decision.line.startswith("Path: grouped, as there is nothing to compare it with. Without plain, which ")


def test_an_interruption_is_none_of_its_business() -> None:
    trial = trial_of(Clock(QUICK), gives={"torch": fails(KeyboardInterrupt())})
    with pytest.raises(KeyboardInterrupt):
        decide(trial, ALL)
    assert trial.path.present == "grouped"


@pytest.mark.parametrize("change", [None, fails(RuntimeError("half way"))], ids=["all agree", "one fails"])
def test_nothing_comes_of_it_but_the_decision(change: Any) -> None:
    trial = trial_of(Clock(QUICK), gives={} if change is None else {"torch": change})
    assert trial.generator is not None
    with kept_randomness():
        before = [trial.generator.get_state(), torch.get_rng_state(), *map(torch.clone, trial.network.buffers())]
        tensors = list(map(id, trial.network.buffers()))
        decide(trial, ALL)
        after = [trial.generator.get_state(), torch.get_rng_state(), *trial.network.buffers()]
    assert list(map(id, trial.network.buffers())) == tensors
    assert all(map(torch.equal, before, after))
    assert trial.network.weight.grad is None


# --- in a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, float]], None]:
    """Let this be a CPU without kernels, on which paths take so many seconds."""
    monkeypatch.setattr(library, "is_built", lambda: False)

    def clocked(taken: Mapping[str, float]) -> None:
        def seconds(trial: Trial, best: float) -> float:
            trial.step()
            return taken[trial.path.present]

        monkeypatch.setattr(Trial, "seconds", seconds)

    clocked(QUICK)
    return clocked


def images() -> tuple[Tensor, Tensor]:
    return torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


def searched(**options: Any) -> ag.SearchResult:
    torch.manual_seed(0)
    space = ag.spaces.darts_cifar(4, 2, nodes=2, num_classes=3)
    options = {"method": None if "step" in options else "darts", **options}
    return ag.search(space, images(), **{"epochs": 2, "batch_size": 6, "device": "cpu", "seed": 1, **options})


def retrained(**options: Any) -> ag.RetrainResult:
    torch.manual_seed(0)
    space = ag.spaces.darts_cifar(4, 2, num_classes=3, stage="retrain")
    network = ag.derive(space, ag.architectures.DARTS_V2)
    options = {"epochs": 2, "batch_size": 6, "cutout": 0, "drop_path": 0.3, "device": "cpu", "seed": 1, **options}
    return ag.retrain(network, images(), **options)


def random_draws(result: ag.SearchResult) -> list[Tensor]:
    return [torch.rand(2, generator=result.supernet.generator)]


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize(
    "options",
    [{}, {"step": "unrolled", "relaxation": "gumbel"}, {"accumulation": 2, "method": "sdarts-rs"}],
    ids=["first order", "unrolled", "in parts"],
)
def test_a_search_that_measures_is_the_one_that_is_told_to_the_bit(options: dict[str, Any], capsys) -> None:
    measured, told = searched(**options), searched(fast="grouped", quiet=True, **options)
    assert capsys.readouterr().err.count("Path: grouped. A step takes 30 ms by plain, 20 ms by torch, 10 ms by") == 1
    assert measured.supernet.path.present == told.supernet.path.present == "grouped"
    assert measured.supernet.path.asked == "auto"
    assert measured.history == told.history
    assert same_state(measured.supernet, told.supernet.state_dict())
    assert all(map(torch.equal, random_draws(measured), random_draws(told)))


@pytest.mark.parametrize("quickest", ["plain", "torch"])
def test_a_retraining_that_measures_is_the_one_that_is_told_to_the_bit(quickest, foreign, capsys) -> None:
    foreign({**QUICK, quickest: 0.001})
    measured, told = retrained(), retrained(fast=quickest, quiet=True)
    assert f"Path: {quickest}. A step takes " in capsys.readouterr().err
    assert measured.history == told.history
    assert same_state(measured.network, told.network.state_dict())


@pytest.mark.parametrize("run", [searched, retrained])
def test_a_resumed_run_takes_its_path_and_measures_nothing(run, foreign, monkeypatch, tmp_path: Path) -> None:
    foreign({**QUICK, "torch": 0.001})
    folder = tmp_path / "run"
    whole = run(run_dir=folder, epochs=2, schedule="constant", **({"drop_path": 0} if run is retrained else {}))
    (kept,) = json.loads((folder / PATHS).read_text())["networks"].values()
    assert (kept["path"], kept["left_out"]) == ("torch", {})
    assert kept["seconds"] == {**QUICK, "torch": 0.001}
    short = tmp_path / "short"
    options = {"run_dir": short, "schedule": "constant", **({"drop_path": 0} if run is retrained else {})}
    run(epochs=1, quiet=True, **options)
    monkeypatch.setattr(path_choice, "decide", fails(AssertionError("measured again")))
    resumed = run(epochs=2, resume=True, quiet=True, **options)
    assert resumed.history == whole.history


@pytest.mark.parametrize("damage", [lambda text: text[:40], lambda text: text.replace("torch", "fastest"), None])
def test_what_was_kept_is_measured_again_where_it_cannot_be_read_or_the_device_is_another(
    damage, foreign, monkeypatch, tmp_path: Path, capsys
) -> None:
    foreign({**QUICK, "torch": 0.001})
    folder = tmp_path / "run"
    searched(run_dir=folder, epochs=1, schedule="constant", quiet=True)
    if damage is None:
        monkeypatch.setattr(path_choice, "_named", lambda _: "another")
    else:
        (folder / PATHS).write_text(damage((folder / PATHS).read_text()))
    foreign(QUICK)
    found = searched(run_dir=folder, epochs=2, schedule="constant", resume=True)
    assert "Path: grouped. " in capsys.readouterr().err
    assert found.supernet.path.present == "grouped"
    assert json.loads((folder / PATHS).read_text())["networks"]["stage 1"]["path"] == "grouped"


def test_every_network_of_a_search_has_its_own_path(foreign, tmp_path: Path, capsys) -> None:
    stages = (ag.Stage(epochs=1, space={"channels": 2}), ag.Stage(epochs=1, space={"channels": 4}))
    ag.search(
        "nasbench201", images(), method=ag.Method(stages=stages), batch_size=6, device="cpu", run_dir=tmp_path / "run",
        config={"cells": 1},
    )  # fmt: skip
    assert capsys.readouterr().err.count("Path: grouped. ") == 2
    assert list(json.loads((tmp_path / "run" / PATHS).read_text())["networks"]) == ["stage 1", "stage 2"]


@pytest.mark.parametrize("fast", ["plain", "torch", "grouped", False])
@pytest.mark.usefixtures("foreign")
def test_a_path_that_is_asked_for_is_taken_without_measuring(fast, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(path_choice, "decide", fails(AssertionError("measured")))
    found = searched(fast=fast, epochs=1, quiet=True, run_dir=tmp_path / "run")
    assert found.supernet.path.present == (fast or "plain")
    assert not (tmp_path / "run" / PATHS).exists()


def test_on_a_cpu_with_kernels_nothing_is_measured(monkeypatch) -> None:
    if not library.is_built():
        pytest.skip("the compiled kernels were not built")
    monkeypatch.setattr(path_choice, "decide", fails(AssertionError("measured")))
    assert searched(epochs=1, quiet=True).supernet.path.present == "native"
    retrained(epochs=1, quiet=True)


@pytest.mark.usefixtures("foreign")
def test_a_supernet_that_is_searched_in_place_has_its_own_path() -> None:
    supernet = ag.Supernet(ag.spaces.darts_cifar(4, 2, nodes=2, num_classes=3), fast="torch")
    with pytest.raises(OptionError, match="fast='plain' does not go with a supernet, which has fast='torch'"):
        ag.search(supernet, images(), fast=False, batch_size=6, device="cpu")
    ag.search(supernet, images(), epochs=1, batch_size=6, device="cpu", quiet=True)
    assert supernet.path.present == "torch"


@pytest.mark.parametrize("run", [searched, retrained])
def test_kernels_that_are_not_there_are_told_before_a_folder_is_written(run, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "is_built", lambda: False)
    with pytest.raises(OptionError, match="fast='native' needs the compiled kernels"):
        run(fast="native", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("old", [True, False])
def test_a_retraining_of_before_there_were_paths_goes_on(old: bool, tmp_path: Path) -> None:
    options = {"run_dir": tmp_path / "run", "fast": old, "quiet": True, "schedule": "constant", "drop_path": 0}
    retrained(epochs=1, **options)
    config = tmp_path / "run" / "config.yaml"
    text, word = config.read_text(), "auto" if old else "plain"
    assert f"fast: {word}\n" in text
    config.write_text(text.replace(f"fast: {word}", f"fast: {str(old).lower()}"))
    assert len(retrained(epochs=2, resume=True, **options).history) == 2


def test_a_decision_is_a_line_with_its_reasons() -> None:
    decision = Decision("torch", {"plain": 0.25, "torch": 0.0123}, {"grouped": "fails (no memory)"})
    assert decision.line == (
        "Path: torch. A step takes 250 ms by plain, 12.3 ms by torch. Without grouped, which fails (no memory)."
    )


def test_passes_that_are_recorded_are_measured_as_recordings(foreign, monkeypatch) -> None:
    entered: list[str] = []

    def recorded(supernet: ag.Supernet, *, say: Any) -> Any:
        entered.append(supernet.path.present)
        return nullcontext()

    monkeypatch.setattr(stage_builder, "recorded_on_cuda", recorded)
    monkeypatch.setattr(stage_builder, "check_recordable", lambda *_: None)
    searched(cuda_graphs=True, epochs=1, quiet=True)
    assert entered == ["plain", "plain", "torch", "grouped", "grouped"]  # the first is exact


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_on_cuda_every_path_agrees_and_one_is_taken(precision, graphs, tmp_path: Path, capsys) -> None:
    searched(device="cuda", precision=precision, cuda_graphs=graphs, run_dir=tmp_path / "run")
    kept = json.loads((tmp_path / "run" / PATHS).read_text())["networks"]["stage 1"]
    assert kept["left_out"] == {}
    assert list(kept["seconds"]) == list(ALL)
    retrained(device="cuda", precision=precision, run_dir=tmp_path / "retrained")
    assert json.loads((tmp_path / "retrained" / PATHS).read_text())["networks"]["network"]["left_out"] == {}
    assert "Path: " in capsys.readouterr().err
