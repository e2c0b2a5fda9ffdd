"""Laws of depth: a mixture of prefixes, whose blocks are the derived network's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.errors import SpaceError
from toys import Times, relaxed, softmax, vector


def test_the_output_is_the_sum_of_all_prefixes() -> None:
    # x_d = 2 * 3 * ... x: y = (p_0 + 2 p_1 + 6 p_2) x
    repeat = ag.Repeat(lambda number: Times(2.0 + number), range(3), label="depth")
    p = softmax([0.1, -0.4, 0.7])
    y = relaxed(repeat, {"depth": [0.1, -0.4, 0.7]})(vector(1.0, -2.0))
    factor = p[0] + 2 * p[1] + 6 * p[2]
    assert y.tolist() == pytest.approx([factor, -2 * factor], rel=1e-14)
    for depth, expected in enumerate([1.0, 2.0, 6.0]):
        assert ag.derive(repeat, {"depth": depth})(vector(1.0)).tolist() == [expected]


def test_a_sampler_runs_no_block_that_it_did_not_draw() -> None:
    repeat = ag.Repeat(lambda number: Times(2.0), ag.ValueChoice([1, 3], label="d") + 1)
    supernet = relaxed(repeat, {"d": [1e5, 0.0]}, relaxation=ag.Gumbel())
    assert supernet(vector(1.0)).tolist() == [4.0]
    assert [block.calls for block in supernet.network.blocks] == [1, 1, 0, 0]


def test_shared_weights_are_one_module_and_own_weights_are_not() -> None:
    shared = ag.Repeat(nn.Linear(2, 2), range(1, 4), label="d", shared_weights=True)
    own = ag.Repeat(lambda number: nn.Linear(2, 2), range(1, 4), label="d")
    assert len(ag.Supernet(shared).weights) == 2
    assert len(ag.Supernet(own).weights) == 6
    network = ag.derive(shared, {"d": 3})
    assert len(network) == 3
    assert sum(p.numel() for p in network.parameters()) == 6
    for space in (shared, own):
        supernet = relaxed(space, {"d": [-1e5, 0.0, -1e5]})
        x = torch.randn(3, 2, dtype=torch.float64)
        plain = ag.derive(supernet, {"d": 2}, keep_weights=True)
        assert torch.allclose(plain(x), supernet(x), rtol=0, atol=1e-12)


def test_choices_in_blocks_beyond_the_depth_are_not_decided() -> None:
    def block(number: int) -> nn.Module:
        return ag.LayerChoice({"relu": nn.ReLU(), "tanh": nn.Tanh()}, label=f"block{number}")

    supernet = relaxed(ag.Repeat(block, range(1, 4), label="depth"), {"depth": [0.0, 1.0, 0.0]})
    found = ag.discretize(supernet)
    assert set(found.choices) == {"depth", "block0", "block1"}
    assert len(ag.derive(supernet, found)) == 2


def test_blocks_get_all_arguments_and_what_works_in_place_spoils_no_prefix() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, mask: Tensor, *, scale: float) -> Tensor:
            return scale * x * mask

    repeat = ag.Repeat(lambda number: Masked(), range(1, 3), label="d")
    mask = vector(1.0, 0.0)
    assert relaxed(repeat, {"d": [0.0, 0.0]})(vector(1.0, 1.0), mask, scale=2.0).tolist() == [3.0, 0.0]
    assert ag.derive(repeat, {"d": 2})(vector(1.0, 1.0), mask, scale=2.0).tolist() == [4.0, 0.0]
    clamped = ag.Repeat(lambda number: nn.ReLU(inplace=True), range(2), label="d")
    assert relaxed(clamped, {"d": [0.0, 0.0]})(vector(-2.0, 2.0)).tolist() == [-1.0, 2.0]


@pytest.mark.parametrize(
    ("build", "message"),
    {
        "a module": (
            lambda: ag.Repeat(nn.ReLU(), range(2)),
            "so that each has weights of its own.*shared_weights=True",
        ),
        "a class": (lambda: ag.Repeat(nn.ReLU, range(2), shared_weights=True), "applies one module, but got"),
        "no depth": (lambda: ag.Repeat(lambda n: nn.ReLU(), range(1)), "one of them at least 1"),
        "a label too many": (lambda: ag.Repeat(lambda n: nn.ReLU(), 2, label="d"), "label only for a range"),
        "half a block": (
            lambda: ag.Repeat(lambda n: nn.ReLU(), ag.ValueChoice([0.5, 1.0])),
            "depth must be a whole number",
        ),
        "no module": (lambda: ag.Repeat(lambda n: 3, range(2)), "returns a module, but it returned 3"),
    }.values(),
    ids=lambda value: "",
)
def test_what_cannot_be_repeated_is_refused(build: object, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        build()  # type: ignore[operator]


def test_blocks_of_other_shapes_are_refused_with_the_depths() -> None:
    repeat = ag.Repeat(lambda number: nn.Linear(2 + number, 3 + number), range(1, 3), label="d")
    with pytest.raises(SpaceError, match=r"Repeat\(depth=d\) needs candidates of equal output shape.*depth=1.*depth=2"):
        ag.Supernet(repeat)(torch.ones(1, 2))
