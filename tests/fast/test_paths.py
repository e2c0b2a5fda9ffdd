"""The paths through a network by name: all give the plain one's numbers, and each is taken where it is asked for."""

from __future__ import annotations

import copy
import pickle
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag
from archgrad.errors import OptionError
from archgrad.fast import Path, accelerate, accelerated, grouped_cell, native_cell, open_paths
from archgrad.fast.alone import FastOperation
from archgrad.fast.native import library
from archgrad.fast.path_names import usual_path

SEVERAL = [
    ["sep_conv_3x3", "none", "skip_connect"],
    ["skip_connect"],
    ["max_pool_3x3", "sep_conv_3x3"],
    ["none", "sep_conv_3x3", "dil_conv_3x3", "skip_connect"],
    ["sep_conv_3x3", "skip_connect"],
]
CPU, META = torch.device("cpu"), torch.device("meta")
SPACES = {
    "darts": lambda: ag.spaces.darts_cifar(4, 3, nodes=3),
    "s1": lambda: ag.spaces.darts_cifar(4, 3, operations="s1"),
    "lists of several lengths": lambda: ag.spaces.darts_cifar(
        4, 2, nodes=2, operations={"normal": SEVERAL, "reduce": SEVERAL}
    ),
    "nasbench201": lambda: ag.spaces.nasbench201(4, 1),
}


def step_of(supernet: ag.Supernet, x: Tensor) -> dict[str, Tensor]:
    """Outputs, gradients and statistics of one pass."""
    named = {**supernet.weights, **dict(supernet.alphas.items())}
    y = supernet(x)
    gradients = torch.autograd.grad(F.cross_entropy(y, torch.arange(len(x))), list(named.values()), allow_unused=True)
    found = {name: torch.zeros(()) if g is None else g for name, g in zip(named, gradients, strict=True)}
    return {"outputs": y, **found, **dict(supernet.network.named_buffers())}


@pytest.mark.parametrize("path", [each for each in get_args(Path) if each != "plain"])
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_path_gives_the_numbers_of_the_plain_one(space, path, request, monkeypatch) -> None:
    if path == "native":
        request.getfixturevalue("built")
    else:
        monkeypatch.setattr(library, "call", refuse)
    torch.manual_seed(0)
    network, x = space().double(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    expected, found = (step_of(ag.Supernet(network, seed=1, fast=each).train(), x) for each in ("plain", path))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10)


def refuse(*_: Any) -> None:
    raise AssertionError("the compiled kernels were called")


def test_supernets_of_one_process_each_go_their_own_way(built, monkeypatch) -> None:
    called: list[str] = []
    kernels, groups = native_cell.evaluate, grouped_cell.evaluate
    monkeypatch.setattr(native_cell, "evaluate", lambda *a: called.append("native") or kernels(*a))
    monkeypatch.setattr(grouped_cell, "evaluate", lambda *a: called.append("grouped") or groups(*a))
    x = torch.randn(2, 3, 8, 8)
    nets = {path: ag.Supernet(ag.spaces.darts_cifar(4, 2, nodes=2), fast=path) for path in get_args(Path)}
    for path in ("native", "plain", "grouped", "torch", "native"):
        called.clear()
        nets[path](x)
        assert set(called) == ({path} if path in ("native", "grouped") else set())


def test_a_path_that_is_taken_later_is_the_one_asked_for_at_once() -> None:
    space, x = ag.spaces.darts_cifar(4, 2, nodes=2), torch.randn(2, 3, 8, 8)
    moved = ag.Supernet(space, seed=1, fast="torch")
    for path in ("grouped", "plain", "torch"):
        moved.path.take(path)
        at_once = ag.Supernet(space, seed=1, fast=path)
        assert moved.channels_last == at_once.channels_last == (path != "plain")
        assert [type(part) for part in moved.network.modules()] == [type(part) for part in at_once.network.modules()]
        with torch.no_grad():
            assert torch.equal(moved(x), at_once(x))


@pytest.mark.parametrize(("fast", "asked"), [(True, "auto"), (False, "plain"), ("auto", "auto"), ("torch", "torch")])
def test_true_and_false_say_what_they_did(fast, asked) -> None:
    path = ag.Supernet(ag.spaces.nasbench201(2, 1), fast=fast).path
    assert path.asked == asked
    assert path.present == (usual_path(CPU) if asked == "auto" else asked)


def test_a_network_takes_the_usual_path_of_the_device_that_it_comes_to() -> None:
    supernet = ag.Supernet(ag.spaces.darts_cifar(2, 2, nodes=2))
    assert supernet.path.present == usual_path(CPU) != "grouped"
    with torch.no_grad():
        supernet.to("meta")(torch.randn(2, 3, 8, 8, device="meta"))
    assert supernet.path.present == usual_path(META) == "grouped"
    asked = ag.Supernet(ag.spaces.darts_cifar(2, 2, nodes=2), fast="torch").to("meta")
    with torch.no_grad():
        asked(torch.randn(2, 3, 8, 8, device="meta"))
    assert asked.path.present == "torch"


def test_a_copy_takes_its_path_for_itself() -> None:
    supernet = ag.Supernet(ag.spaces.darts_cifar(4, 2, nodes=2), fast="torch")
    twin = copy.deepcopy(supernet)
    twin.path.take("plain")
    assert not any(isinstance(part, FastOperation) for part in twin.network.modules())
    assert any(isinstance(part, FastOperation) for part in supernet.network.modules())


def test_what_is_open_is_known_where_there_are_kernels_or_one_is_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(library, "is_built", lambda: True)
    assert open_paths("auto", CPU) == open_paths("torch", META) == ()
    assert open_paths("auto", META) == ("plain", "torch", "grouped")
    monkeypatch.setattr(library, "is_built", lambda: False)
    assert open_paths("auto", CPU) == ("plain", "torch", "grouped")
    assert open_paths("plain", CPU) == ()


def test_kernels_that_are_not_there_are_an_error_that_says_what_to_do(monkeypatch) -> None:
    monkeypatch.setattr(library, "is_built", lambda: False)
    monkeypatch.setattr(library, "why_missing", lambda: "were not built")
    with pytest.raises(
        OptionError, match=r"but they were not built\. `archgrad doctor` says what to do; or give fast="
    ):
        ag.Supernet(ag.spaces.nasbench201(2, 1), fast="native")


def test_kernels_for_another_device_are_an_error(built) -> None:
    supernet = ag.Supernet(ag.spaces.nasbench201(2, 1), fast="native").to("meta")
    with pytest.raises(OptionError, match=r"kernels for the CPU, but the network is on 'meta'\. Give fast='auto', or"):
        supernet(torch.randn(2, 3, 8, 8, device="meta"))


@pytest.mark.parametrize("fast", ["fastest", None, 1])
def test_there_is_no_other_path(fast) -> None:
    with pytest.raises(OptionError, match="fast must be one of plain, native, torch, grouped, auto, but got fast="):
        ag.Supernet(ag.spaces.nasbench201(2, 1), fast=fast)


def test_a_network_that_is_accelerated_for_a_while_goes_on_as_before() -> None:
    network = ag.derive(ag.spaces.darts_cifar(4, 2, stage="retrain"), ag.architectures.DARTS_V2)
    accelerate(network, "torch")
    before = [(type(part), getattr(part, "evaluator", None)) for part in network.modules()]
    with accelerated(network, "plain"):
        assert not any(isinstance(part, FastOperation) for part in network.modules())
    assert [(type(part), getattr(part, "evaluator", None)) for part in network.modules()] == before


@pytest.mark.parametrize("path", ["native", "torch"])
def test_an_operation_that_is_pickled_comes_back_on_its_path(path) -> None:
    network = nn.Sequential(ag.operations.SepConv(4, 4, 3, 1))
    accelerate(network, path)
    again = pickle.loads(pickle.dumps(network))[0]
    assert type(again) is type(network[0])
    assert again.kernels == (path == "native")
