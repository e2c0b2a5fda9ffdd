"""A whole derived cell as one program of the compiled kernels, against its operations one by one."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archgrad.derived_cell import DerivedCell
from archgrad.fast import accelerate, derived_program, native
from archgrad.operations import DARTS_OPERATIONS, DropPath

pytestmark = pytest.mark.usefixtures("built")

KNOWN = [name for name in DARTS_OPERATIONS if name not in ("none", "noise", "conv_7x1_1x7")]


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[native.Program]]:
    """The programs that cells ran."""
    found: list[native.Program] = []
    run = native.run_program

    def watched(program: native.Program, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        found.append(program)
        return run(program, *args, **kwargs)

    monkeypatch.setattr(derived_program.native, "run_program", watched)
    return found


def a_cell(
    *nodes: str, channels: int = 4, p: float = 0.0, stride: int = 1, affine: bool = True, joins: tuple[int, ...] = ()
) -> DerivedCell:
    """A cell with two inputs; a node is written "operation@source operation@source"."""
    operations: list[nn.Module] = []
    sources: list[list[int]] = []
    for node in nodes:
        sources.append([])
        for edge in node.split():
            name, source = edge.split("@")
            sources[-1].append(int(source))
            own = stride if int(source) < 2 else 1
            if name == "pool_norm":
                pool = nn.MaxPool2d(3, own, 1)
                operations.append(nn.Sequential(pool, nn.BatchNorm2d(channels, affine=affine)))
            else:
                operations.append(DARTS_OPERATIONS[name](channels, own, affine))
    concat = joins or tuple(range(2, 2 + len(nodes)))
    cell = DerivedCell(operations, sources, concat, n_inputs=2, drop_path=DropPath(p)).double()
    for norm in cell.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5), nn.init.normal_(norm.bias)
    return cell


def normal_cell(p: float = 0.0, **options: Any) -> DerivedCell:
    return a_cell(
        "sep_conv_3x3@0 sep_conv_3x3@1",
        "sep_conv_5x5@1 skip_connect@0",
        "skip_connect@0 dil_conv_3x3@2",
        p=p,
        **options,
    )


def images(channels: int = 4, batch: int = 3, size: tuple[int, int] = (7, 6), **options: Any) -> list[Tensor]:
    return [torch.randn(batch, channels, *size, dtype=torch.float64, **options) for _ in range(2)]


def outcome(cell: DerivedCell, states: list[Tensor | None], *, wants_inputs: bool = True) -> dict[str, Tensor]:
    """Output, gradients, statistics and the next random number of a pass."""
    torch.manual_seed(3)
    given = [None if x is None else x.detach().clone().requires_grad_(wants_inputs) for x in states]
    output = cell(given)
    found = {"output": output.detach(), "next": torch.rand(1)}
    if output.requires_grad:
        torch.manual_seed(4)
        output.backward(torch.randn(output.shape, dtype=output.dtype))
    found |= {f"gradient of {k}": x.grad for k, x in enumerate(given) if x is not None and x.grad is not None}
    found |= {f"gradient of {name}": p.grad for name, p in cell.named_parameters() if p.grad is not None}
    return found | dict(cell.named_buffers())


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], told: str = "") -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-10, atol=1e-10, msg=lambda text, n=name: f"{told} {n}: {text}"
        )


def fast_one(cell: DerivedCell) -> DerivedCell:
    fast = copy.deepcopy(cell)
    accelerate(fast, "native")
    return fast


def random_cell(seed: int) -> tuple[str, DerivedCell, list[Tensor | None]]:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    channels, stride = draw.choice((4, 6, 18)), draw.choice((1, 2))
    affine, p = draw.random() < 0.8, draw.choice((0.0, 0.3, 0.5, 1.0))
    names = [*KNOWN, "pool_norm"]
    nodes = [
        " ".join(f"{draw.choice(names)}@{draw.randrange(node)}" for _ in range(draw.choice((1, 2, 2, 3))))
        for node in range(2, 2 + draw.randint(1, 4))
    ]
    joins = tuple(draw.sample(range(2, 2 + len(nodes)), draw.randint(1, len(nodes))))
    cell = a_cell(*nodes, channels=channels, p=p, stride=stride, affine=affine, joins=joins)
    for parameter in cell.parameters():
        parameter.requires_grad_(draw.random() < 0.8)
    size = draw.choice(((8, 6), (20, 9)))  # the kernels make the larger one a few rows at a time
    states: list[Tensor | None] = list(images(channels, draw.randint(2, 4), size))
    for k in range(2):
        if k not in cell.used_inputs:
            states[k] = None
        elif draw.random() < 0.5:
            states[k] = states[k].contiguous(memory_format=torch.channels_last)
    return f"seed {seed}: {nodes} of {size}, joins {joins}, stride {stride}, affine {affine}, p {p}", cell, states


@pytest.mark.parametrize(("threads", "seeds"), [(1, 40), (2, 6)])
def test_a_random_cell_gives_what_its_operations_give(threads: int, seeds: int, programs: list[native.Program]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for seed in range(seeds):
            told, plain, states = random_cell(1000 * threads + seed)
            fast = fast_one(plain)
            for wants_inputs in (True, False):
                expected = outcome(plain, states, wants_inputs=wants_inputs)
                assert_equal(outcome(fast, states, wants_inputs=wants_inputs), expected, told)
        assert len(programs) > 1.7 * seeds  # of two passes each: some cells give their input as it is
    finally:
        torch.set_num_threads(before)


def test_dropped_paths_are_those_that_the_plain_cell_drops(programs: list[native.Program]) -> None:
    plain, states = normal_cell(p=0.4), images(batch=8)
    assert_equal(outcome(fast_one(plain), states), outcome(plain, states))
    (program,) = programs
    factors = [u.factor for s in program.steps if isinstance(s, native.Step) for u in s.plan.units]
    assert sorted(f for f in factors if f is not None) == [0, 1, 2, 3]  # all but the two identities


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_evaluation_equals_the_plain_cell_s(p: float) -> None:
    plain, states = normal_cell(p=p), images()
    outcome(plain, states)  # moves the statistics
    plain.zero_grad()
    fast = fast_one(plain).eval()
    assert_equal(outcome(fast, states), outcome(plain.eval(), states))


def test_without_gradients_the_output_is_the_same(programs: list[native.Program]) -> None:
    plain, states = normal_cell(p=0.3), images()
    fast = fast_one(plain)
    found = []
    with torch.no_grad():
        for cell in (plain, fast):
            torch.manual_seed(5)
            found.append(cell(states))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)
    assert len(programs) == 1


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_output_has_the_memory_format_of_the_inputs(channels_last: bool) -> None:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    states = [x.contiguous(memory_format=memory_format) for x in images()]
    output = fast_one(normal_cell())(states)
    assert output.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("affine", [True, False])
def test_the_gradient_can_be_differentiated_again(p: float, affine: bool, programs: list[native.Program]) -> None:
    plain = a_cell("sep_conv_3x3@0 max_pool_3x3@1", "skip_connect@0 dil_conv_3x3@2", p=p, affine=affine)
    states = images(batch=2, size=(5, 4))
    found = []
    for cell in (plain, fast_one(plain)):
        torch.manual_seed(6)
        given = [x.clone().requires_grad_() for x in states]
        wanted = [*given, *cell.parameters()]
        first = torch.autograd.grad(cell(given).sin().sum(), wanted, create_graph=True)
        found.append([*first, *torch.autograd.grad(sum(g.square().sum() for g in first), wanted)])
    for mine, other in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-9)
    assert len(programs) == 1


def test_two_passes_before_one_backward_add_up() -> None:
    plain = normal_cell(p=0.3)
    first, second = images(), images()
    gradients = []
    for cell in (plain, fast_one(plain)):
        torch.manual_seed(7)
        (cell(first).square().sum() + cell(second).sin().sum()).backward()
        gradients.append({name: p.grad for name, p in cell.named_parameters()} | dict(cell.named_buffers()))
    assert_equal(gradients[1], gradients[0])


def hook(cell: DerivedCell, seen: list[str]) -> None:
    next(iter(cell.operations.values())).register_forward_hook(lambda *_: seen.append("hook"))


def own_drop_path(cell: DerivedCell, seen: list[str]) -> None:
    class Half(DropPath):
        def forward(self, x: Tensor) -> Tensor:
            seen.append("called")
            return x / 2

    cell.drop_path = Half(0.5)


def hook_on_drop_path(cell: DerivedCell, seen: list[str]) -> None:
    cell.drop_path.register_forward_hook(lambda *_: seen.append("hook"))


@pytest.mark.parametrize("change", [hook, own_drop_path, hook_on_drop_path])
@pytest.mark.parametrize("late", [False, True])
def test_what_calling_would_show_is_shown(change: Any, late: bool, programs: list[native.Program]) -> None:
    states, found, seen = images(), [], []
    plain = normal_cell(p=0.3)
    fast = fast_one(plain)
    if late:
        outcome(plain, states), outcome(fast, states)
        plain.zero_grad(), fast.zero_grad()
        programs.clear()
    for cell in (plain, fast):
        seen.append([])
        change(cell, seen[-1])
        found.append(outcome(cell, states))
    assert_equal(found[1], found[0])
    assert seen[0] == seen[1] != []
    assert programs == []


def test_a_norm_that_is_evaluated_and_an_edge_that_moves_are_seen() -> None:
    plain, states = normal_cell(), images()
    fast = fast_one(plain)
    assert_equal(outcome(fast, states), outcome(plain, states))
    for cell in (plain, fast):
        cell.zero_grad()
        next(part for part in cell.modules() if isinstance(part, nn.BatchNorm2d)).eval()
    assert_equal(outcome(fast, states), outcome(plain, states))
    for cell in (plain, fast):
        cell.zero_grad()
        (key, source), second = cell.nodes[1]
        cell.nodes[1] = [(key, 1 - source), second]
    assert_equal(outcome(fast, states), outcome(plain, states))


def test_what_is_not_finite_stays_where_the_plain_cell_has_it() -> None:
    plain, states = normal_cell(p=0.5), images()
    states[0][0, 0, 0, 0] = float("inf")
    fast = fast_one(plain)
    expected, found = outcome(plain, states), outcome(fast, states)
    assert torch.equal(found["output"].isfinite(), expected["output"].isfinite())
