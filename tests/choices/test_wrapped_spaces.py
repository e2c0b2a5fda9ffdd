"""Spaces as people have them by the time they search: with computed weights, kept activations, wrappers around them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel

import archgrad as ag
from archgrad.copying import copied
from archgrad.errors import SpaceError
from archgrad.labels import label_choices

OPTIONS: dict[str, Any] = {"epochs": 1, "batch_size": 8, "device": "cpu", "quiet": True}


def x() -> Tensor:
    return torch.randn(24, 4, generator=torch.Generator().manual_seed(0))


def choice(make: Callable[[], nn.Module] = lambda: nn.Linear(4, 3)) -> ag.LayerChoice:
    return ag.LayerChoice({"plain": make(), "deep": nn.Sequential(nn.Linear(4, 3), nn.Tanh())})


class Keeping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.choice, self.kept = nn.Linear(4, 4), choice(), {}

    def forward(self, x: Tensor) -> Tensor:
        self.kept["activation"] = [self.first(x)]
        return self.choice(self.kept["activation"][0])


def keeping() -> nn.Module:
    space = Keeping()
    space.kept["activation"] = [space.first(x())]
    return space


COMPUTED = {
    "weight norm": lambda: weight_norm(nn.Linear(4, 3)),
    "spectral norm": lambda: spectral_norm(nn.Linear(4, 3)),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5),
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]


@pytest.mark.parametrize("name", COMPUTED)
def test_computed_weights_are_searched_derived_and_trained(name: str) -> None:
    def space() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(choice(COMPUTED[name]))

    data = (x(), torch.arange(24) % 3)
    result = ag.search(space(), data, **OPTIONS)
    kept = ag.derive(result.supernet, {"0": "plain"}, keep_weights=True).eval()
    own = result.supernet.network[0]["plain"].eval()
    with torch.no_grad():
        assert torch.equal(kept(x()), own(x()))
    assert ag.retrain(ag.derive(space(), {"0": "plain"}), data, **OPTIONS).history[0]["train_loss"] > 0


@pytest.mark.parametrize("name", COMPUTED)
def test_what_cannot_be_renewed_is_told_and_not_left_as_it_is(name: str) -> None:
    supernet = ag.Supernet(nn.Sequential(choice(COMPUTED[name])))
    with pytest.raises(SpaceError, match=r"'0' \(Linear\) computes its weight from .*set keep_weights=True"):
        ag.derive(supernet, {"0": "plain"})


def test_the_fast_path_computes_weights_anew() -> None:
    def space() -> nn.Module:
        torch.manual_seed(0)
        conv = lambda: weight_norm(nn.Conv2d(4, 4, 1, bias=False))  # noqa: E731
        branch = nn.Sequential(nn.ReLU(), conv(), nn.BatchNorm2d(4))
        return nn.Sequential(ag.LayerChoice({"a": branch, "b": nn.Sequential(conv(), nn.BatchNorm2d(4))}))

    images = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    outputs = []
    for fast in (True, False):
        supernet = ag.Supernet(space(), fast=fast)
        with torch.no_grad():
            for weight in supernet.weights.values():
                weight.mul_(3.0).add_(0.1)
        outputs.append(supernet(images))
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)


def test_a_space_that_keeps_an_activation_is_copied_with_it() -> None:
    space = keeping()
    made = copied(space)
    assert torch.equal(made.kept["activation"][0], space.kept["activation"][0])
    assert made.kept["activation"][0] is not space.kept["activation"][0]
    assert not made.kept["activation"][0].requires_grad
    result = ag.search(space, (x(), torch.arange(24) % 3), **OPTIONS)  # which keeps others in its turn
    assert ag.derive(result.supernet, result.architecture, keep_weights=True)(x()).shape == (24, 3)
    assert ag.derive(space, result.architecture)(x()).shape == (24, 3)


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


@pytest.mark.parametrize(
    ("wrapped", "label"),
    [
        (lambda: nn.DataParallel(nn.Sequential(choice())), "0"),
        (lambda: AveragedModel(nn.Sequential(choice())), "0"),
        (lambda: compiled(nn.Sequential(choice())), "0"),
        (lambda: nn.DataParallel(compiled(nn.Sequential(choice()))), "0"),
        (lambda: nn.Sequential(nn.Sequential(), compiled(nn.Sequential(nn.Identity(), choice()))), "1/1"),
        (lambda: compiled(choice()), "root"),
        (lambda: nn.ModuleDict({"module": choice()}), "module"),  # the user's own name
    ],
)
def test_wrappers_are_no_part_of_labels(wrapped: Callable[[], nn.Module], label: str) -> None:
    (found,) = label_choices(wrapped())
    assert found.label == label


def test_an_architecture_of_a_wrapped_space_is_one_of_the_space() -> None:
    result = ag.search(nn.DataParallel(nn.Sequential(choice())), (x(), torch.arange(24) % 3), **OPTIONS)
    assert ag.derive(nn.Sequential(choice()), result.architecture)(x()).shape == (24, 3)


@pytest.mark.parametrize("kept", [lambda: (i for i in range(3)), threading.Lock])
def test_what_cannot_be_copied_is_told(kept: Callable[[], Any]) -> None:
    space = nn.Sequential(choice())
    space.kept = kept()
    for attempt in (ag.Supernet, lambda space: ag.derive(space, {"0": "plain"})):
        with pytest.raises(SpaceError, match=r"cannot be copied.*cannot pickle.*out of modules"):
            attempt(space)


def test_scripted_modules_are_told() -> None:
    with pytest.raises(SpaceError, match=r"'0.weight' of Sequential .* torch.jit.script"):
        ag.Supernet(nn.Sequential(torch.jit.script(nn.Linear(4, 4)), choice()))


SCRIPT = """
import multiprocessing, torch, archgrad as ag
from torch import nn
class Samples:
    def __len__(self): return 24
    def __getitem__(self, i): return torch.ones(4) * i, i % 3
multiprocessing.set_start_method("spawn", force=True)
choice = ag.LayerChoice({"a": nn.Linear(4, 3), "b": nn.Sequential(nn.Linear(4, 3))})
ag.search(nn.Sequential(choice), Samples(), epochs=1, batch_size=8, workers=1, quiet=True, device="cpu")
"""


def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode
    assert "RunError: The script is read a second time, by a process that it has started" in ended.stderr
    assert "the script has no main guard (put what starts the run under `if __name__ == '__main__':`)" in ended.stderr
    assert "bootstrapping" not in ended.stderr
