"""Whatever works in place, every candidate, edge and input gives what it would on a copy of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag
from archgrad.errors import SpaceError
from archgrad.fast import accelerated
from toys import relaxed

C = 3


class AddsInPlace(nn.Module):
    """Has no attribute that says so."""

    def forward(self, x: Tensor) -> Tensor:
        x += 1.0
        return x


class Block(nn.Module):
    """Works in place where nobody else reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(C, C, 1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x)) + x


class OnlyInTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inplace = True

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2.0) if self.training and self.inplace else x * 2.0


IN_PLACE: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "sequence": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(C, C, 1), nn.BatchNorm2d(C)),
    "deep": lambda: nn.Sequential(nn.Identity(), nn.Sequential(nn.Hardtanh(-0.5, 0.5, inplace=True)), nn.Tanh()),
    "through a view": lambda: nn.Sequential(nn.Flatten(2), nn.ReLU(inplace=True), nn.Unflatten(2, (4, 4))),
    "dropout": lambda: nn.Dropout(0.5, inplace=True),
    "block": Block,
    "only in training": OnlyInTraining,
}


def out_of_place(module: nn.Module) -> nn.Module:
    """The same module, that writes to nothing."""
    other = copy.deepcopy(module)
    for part in other.modules():
        if hasattr(part, "inplace"):
            part.inplace = False
    return other


def twins(make: Callable[[Callable[[nn.Module], nn.Module]], nn.Module]) -> tuple[nn.Module, nn.Module]:
    """The module as made, and with parts that write to nothing; equal weights."""
    torch.manual_seed(0)
    first = make(lambda module: module)
    torch.manual_seed(0)
    return first.double(), make(out_of_place).double()


def differentiated(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs, gradients and buffers of two passes, which draw the same random numbers in each network."""
    torch.manual_seed(1)
    found: list[Tensor] = []
    for _ in range(2):
        given = x.clone().requires_grad_()
        output = network(torch.tanh(given))  # whose backward pass needs what it gave
        output.square().sum().backward()
        found += [output.detach(), given.grad, *(p.grad.clone() for p in network.parameters() if p.grad is not None)]
    return found + [buffer.clone() for buffer in network.buffers()]


def agree(ours: nn.Module, expected: nn.Module) -> None:
    x = torch.randn(2, C, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for training in (False, True):
        for a, b in zip(
            differentiated(ours.train(training), x), differentiated(expected.train(training), x), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


class Reads(nn.Module):
    """Two choices and a residual read one tensor."""

    def __init__(self, change: Callable[[nn.Module], nn.Module], name: str) -> None:
        super().__init__()
        self.first = ag.LayerChoice({"it": change(IN_PLACE[name]()), "skip": nn.Identity()}, label="first")
        self.second = ag.LayerChoice({"skip": nn.Identity(), "it": change(IN_PLACE[name]())}, label="second")

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x) + x


class Selects(nn.Module):
    """What is selected is worked on in place, and read again."""

    def __init__(self, change: Callable[[nn.Module], nn.Module], reduction: str) -> None:
        super().__init__()
        self.join = ag.InputChoice(n_candidates=2, n_chosen=1, reduction=reduction, label="join")
        self.relu = change(nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        taken = self.join([x, x.sin()])
        return self.relu(taken[0] if isinstance(taken, list) else taken) + x


def cell(change: Callable[[nn.Module], nn.Module], name: str) -> nn.Module:
    class OneInput(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = ag.Cell(
                2,
                {"it": lambda source, node: change(IN_PLACE[name]()), "skip": lambda source, node: nn.Identity()},
                n_inputs=1,
                label="cell",
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.cell([x])

    return OneInput()


@pytest.mark.parametrize("name", IN_PLACE)
def test_relaxed_layer_choices(name: str) -> None:
    agree(*(relaxed(space, {}) for space in twins(lambda change: Reads(change, name))))


@pytest.mark.parametrize("name", IN_PLACE)
def test_derived_layer_choices(name: str) -> None:
    architecture = ag.Architecture({"first": "it", "second": "it"})
    agree(*(ag.derive(space, architecture) for space in twins(lambda change: Reads(change, name))))


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", IN_PLACE)
def test_relaxed_cells(name: str, fast: bool) -> None:
    agree(*(ag.Supernet(space, seed=1, fast=fast) for space in twins(lambda change: cell(change, name))))


@pytest.mark.parametrize("name", IN_PLACE)
def test_derived_cells(name: str) -> None:
    decision = {"2": [["it", 0], ["it", 1]], "1": [["it", 0]]}
    architecture = ag.Architecture({"cell": {"1": [["skip", 0], ["it", 0]], "2": decision["2"]}})
    agree(*(ag.derive(space, architecture) for space in twins(lambda change: cell(change, name))))
    with ExitStack() as stack:
        networks = [ag.derive(space, architecture) for space in twins(lambda change: cell(change, name))]
        for network in networks:
            stack.enter_context(accelerated(network))
        agree(*networks)


@pytest.mark.parametrize("reduction", ["sum", "mean", "concat", "none"])
def test_inputs_that_are_selected(reduction: str) -> None:
    agree(*(relaxed(space, {}) for space in twins(lambda change: Selects(change, reduction))))
    architecture = ag.Architecture({"join": [0]})
    agree(*(ag.derive(space, architecture) for space in twins(lambda change: Selects(change, reduction))))


def test_a_cell_of_skip_connections_gives_out_a_tensor_of_its_own() -> None:
    skips = ag.Cell(1, {"skip": lambda source, node: nn.Identity()}, n_inputs=1, n_kept=1, output="last", label="cell")
    network = ag.derive(skips, ag.Architecture({"cell": {"1": [["skip", 0]]}}))
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(1, C, 2, 2).to(memory_format=layout)
        before = x.clone()
        network([x]).relu_()
        assert torch.equal(x, before)
        with accelerated(network):
            network([x]).relu_()
        assert torch.equal(x, before)


# --- what archgrad cannot see beforehand ------------------------------------------------------------------------------


def test_a_candidate_that_writes_to_its_input_unannounced_is_an_error() -> None:
    supernet = relaxed(ag.LayerChoice({"add": AddsInPlace(), "skip": nn.Identity()}, label="c"), {})
    with pytest.raises(SpaceError, match=r"Candidate 'add' of choice 'c' \(AddsInPlace\) changes its input in place"):
        supernet(torch.zeros(2))


def test_a_part_that_works_in_place_later_is_seen() -> None:
    candidate = nn.Sequential(nn.SiLU(), nn.Conv2d(C, C, 1), nn.ReLU(inplace=True))
    net = relaxed(nn.Sequential(ag.LayerChoice([candidate, nn.Identity()])))
    x = torch.randn(2, C, 4, 4, dtype=torch.float64)
    expected = net(x)
    next(part for part in net.modules() if isinstance(part, nn.SiLU)).inplace = True
    torch.testing.assert_close(net(x), expected)


def test_so_is_an_operation_of_a_derived_cell() -> None:
    space = ag.Cell(1, {"add": lambda source, node: AddsInPlace()}, n_inputs=1, label="cell")
    network = ag.derive(space, ag.Architecture({"cell": {"1": [["add", 0]]}}))
    with pytest.raises(SpaceError, match="AddsInPlace changes its input in place"):
        network([torch.zeros(1, C, 2, 2)])


# --- what it costs ----------------------------------------------------------------------------------------------------


class Sees(nn.Module):
    """Notes the address of what it reads."""

    def __init__(self, part: nn.Module | None = None) -> None:
        super().__init__()
        self.part = part
        self.addresses: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.addresses.append(x.data_ptr())
        return x.sin() if self.part is None else self.part(x.sin())


@pytest.mark.parametrize(("part", "copies"), [(None, 0), (nn.ReLU(inplace=True), 1), (nn.Dropout(0.1, True), 3)])
def test_who_leaves_its_input_alone_reads_the_input_itself(part: nn.Module | None, copies: int) -> None:
    # A part that works in place further inside is found out by the first pass; dropout may begin to any time.
    sees = Sees(part)
    supernet = relaxed(ag.LayerChoice({"sees": sees, "skip": nn.Identity()}, label="c"), {})
    (sees,) = (module for module in supernet.modules() if isinstance(module, Sees))
    x = torch.zeros(2, dtype=torch.float64)
    for _ in range(3):
        supernet(x)
    assert [address == x.data_ptr() for address in sees.addresses] == [False] * copies + [True] * (3 - copies)


def test_a_derived_network_works_in_place_where_nobody_else_reads() -> None:
    block = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(C, C, 1), nn.ReLU(inplace=True))
    space = ag.LayerChoice({"block": block, "skip": nn.Identity()}, label="c")
    network = ag.derive(space, ag.Architecture({"c": "block"}))
    assert [part.inplace for part in network if isinstance(part, nn.ReLU)] == [False, True]
    assert block[0].inplace  # the space stays as it is
    cell = ag.Cell(1, {"block": lambda source, node: copy.deepcopy(block)}, n_inputs=1, label="cell")
    network = ag.derive(cell, ag.Architecture({"cell": {"1": [["block", 0]]}}))
    assert [part.inplace for part in network.modules() if isinstance(part, nn.ReLU)] == [False, True]


def test_inference_mode_has_no_versions() -> None:
    supernet = relaxed(ag.LayerChoice({"relu": nn.ReLU(inplace=True), "skip": nn.Identity()}, label="c"), {"c": [0, 0]})
    with torch.inference_mode():
        x = torch.tensor([-1.0, 2.0], dtype=torch.float64)
        torch.testing.assert_close(supernet(x), 0.5 * (F.relu(x) + x))
        assert x[0] == -1.0
