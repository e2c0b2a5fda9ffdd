"""Laws of value choices: one more kind of choice, on which everything works that works on the others."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.architecture import Architecture
from archgrad.errors import ArchitectureError, SpaceError
from archgrad.margins import margins_of
from archgrad.nni.export import export
from archgrad.show import to_dot, to_text
from archgrad.testing import SpaceLaws
from toys import relaxed


class Widths(nn.Module):
    """Every kind of open number, some of them shared, one within a candidate."""

    def __init__(self, in_channels: int = 1, num_classes: int = 10, *, drops: bool = True) -> None:
        super().__init__()
        self.width = ag.ValueChoice([2, 4], label="width")
        kernel = ag.ValueChoice([1, 3])
        self.stem = ag.nn.Conv2d(in_channels, self.width, 3, padding=1)
        self.body = ag.LayerChoice(
            {
                "conv": nn.Sequential(
                    ag.nn.Conv2d(self.width, self.width, kernel, padding=kernel // 2), ag.nn.BatchNorm2d(self.width)
                ),
                "skip": nn.Identity(),
            },
            label="body",
        )
        self.blocks = ag.Repeat(lambda number: self.block(), range(1, 3), label="depth")
        self.hidden = 2 * self.width
        self.drop = ag.nn.Dropout(ag.ValueChoice([0.0, 0.25], label="drop")) if drops else nn.Identity()
        self.head = nn.Sequential(
            ag.nn.Linear(self.width, self.hidden), nn.ReLU(), ag.nn.Linear(self.hidden, num_classes)
        )

    def block(self) -> nn.Module:
        return nn.Sequential(ag.nn.Conv2d(self.width, self.width, 1), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.blocks(self.body(self.stem(x))).mean((2, 3))))


KERNEL = "body/candidates/0/0/kernel_size"
ARCH = {"width": 4, "body": "conv", KERNEL: 3, "depth": 1, "drop": 0.25}


class TestWidths(SpaceLaws):
    def make(self) -> nn.Module:
        return Widths(drops=False)  # which draws other numbers the fast way

    def inputs(self) -> Tensor:
        return torch.randn(3, 1, 5, 5)


def test_a_choice_in_several_layers_has_one_row_and_so_have_choices_of_one_label() -> None:
    assert {label: row.names for label, row in ag.Supernet(Widths()).rows.items()} == {
        "width": ("2", "4"),
        "body": ("conv", "skip"),
        KERNEL: ("1", "3"),
        "depth": ("1", "2"),
        "drop": ("0.0", "0.25"),
    }
    twice = nn.Sequential(*(ag.nn.Linear(3, ag.ValueChoice([3], label="w")) for _ in range(2)))
    assert list(ag.Supernet(twice).alphas) == ["w"]
    other = nn.Sequential(*(ag.nn.Linear(3, ag.ValueChoice([3, 3 + n], label="w")) for n in (1, 2)))
    with pytest.raises(SpaceError, match="Label 'w' is shared by choices with other candidates"):
        ag.Supernet(other)


def test_derived_networks_hold_numbers_in_the_place_of_choices() -> None:
    network = ag.derive(Widths(), ARCH)
    assert (network.width, network.hidden) == (4, 8)
    assert {type(module).__module__.split(".")[0] for module in network.modules()} == {"torch", __name__, "archgrad"}
    assert [type(module).__name__ for module in network.modules() if "archgrad" in type(module).__module__] == [
        "Repeated"
    ]
    torch.save(network.state_dict(), io.BytesIO())
    assert ag.derive(Widths(), ARCH | {"body": "skip", KERNEL: 1})(torch.ones(2, 1, 4, 4)).shape == (2, 10)


def test_without_kept_weights_a_narrow_layer_is_initialised_as_torch_does_and_leaves_no_trace() -> None:
    # bound of nn.Linear: 1 / sqrt(fan in); a part of the widest weight would have 1 / sqrt(100).
    space = ag.nn.Linear(ag.ValueChoice([1, 100], label="w"), 50)
    before = torch.get_rng_state()
    weight = ag.derive(space, {"w": 1}).weight
    assert torch.equal(torch.get_rng_state(), before)
    assert 0.5 < weight.abs().max() <= 1.0
    assert torch.equal(weight, ag.derive(space, {"w": 1}).weight)


def test_an_architecture_is_json_with_numbers_which_takes_version_3() -> None:
    architecture = Architecture(ARCH, space="own")
    text = architecture.to_json()
    assert '"version": 3' in text
    assert '"drop": 0.25' in text
    assert '"width": 4' in text
    assert Architecture.from_json(text) == architecture
    assert Architecture.from_json(text).choices["width"] == 4
    with pytest.raises(ArchitectureError, match=r'file of version 2 a decision is no number.*Write "version": 3'):
        Architecture.from_json(text.replace('"version": 3', '"version": 2'))
    for bad in (float("nan"), True, None):
        with pytest.raises(ArchitectureError, match="must be a candidate's name, a number, a list"):
            Architecture({"width": bad})
    with pytest.raises(ArchitectureError, match=r"'width' has no value 3\. Its values are 2, 4"):
        ag.derive(Widths(), ARCH | {"width": 3})
    with pytest.raises(ArchitectureError, match="no decision for 'width'"):
        ag.derive(Widths(), {name: value for name, value in ARCH.items() if name != "width"})


def test_show_margins_and_nnis_export_read_numbers() -> None:
    supernet = relaxed(Widths(), {"width": [0.0, 1.0], "depth": [1.0, 0.0], "body": [1.0, 0.0], KERNEL: [1.0, 0.0]})
    found = ag.discretize(supernet)
    assert dict(found.choices) == {"width": 4, "depth": 1, "body": "conv", KERNEL: 1, "drop": found.choices["drop"]}
    assert "width = 4" in to_text(found)
    assert "depth = 1" in to_text(found)
    assert '[label="4"]' in to_dot(found)
    assert margins_of(found)["width"] == pytest.approx(torch.tanh(torch.tensor(0.5)).item())
    exported = export(supernet)
    assert (exported["width"], exported["body"]) == (4, "conv")
    assert Architecture.from_nni(exported).choices == found.choices


def test_what_no_layer_reads_any_more_is_not_decided() -> None:
    supernet = relaxed(Widths(), {"body": [0.0, 1.0]})
    assert KERNEL not in ag.discretize(supernet).choices
    space = nn.ModuleDict({"unused": ag.ValueChoice([1, 2], label="w")})
    space["pick"] = ag.LayerChoice(
        {"wide": ag.nn.Linear(2, 2 * space["unused"] // space["unused"]), "skip": nn.Identity()}, "pick"
    )
    assert ag.derive(space, {"pick": "skip"})["unused"].value is None


@pytest.mark.parametrize("method", ["darts", "gdas", "darts-pt"])
def test_methods_search_numbers(method: str, tmp_path: Path) -> None:
    def run(name: str) -> ag.SearchResult:
        return ag.search(
            Widths(),
            (torch.randn(32, 1, 8, 8), torch.arange(32) % 10),
            method=method,
            epochs=2,
            seed=0,
            batch_size=16,
            quiet=True,
            run_dir=tmp_path / name,
        )

    found = run("a")
    assert set(found.architecture.choices) >= {"width", "body", "depth", "drop"}
    assert all(bool(alpha.detach().isfinite().all()) for alpha in found.supernet.alphas.values())
    if method == "darts":
        page = ag.write_report([tmp_path / "a"]).read_text(encoding="utf-8")
        assert "width" in page
        assert "0.25" in page
        again = ag.derive(found.supernet, found, keep_weights=True).eval()
        assert again(torch.ones(2, 1, 8, 8)).shape == (2, 10)


def test_first_and_second_order_gradients_reach_every_row() -> None:
    supernet = ag.Supernet(Widths()).double()
    x, y = torch.randn(8, 1, 4, 4, dtype=torch.float64), torch.randint(0, 10, (8,))
    weights = torch.optim.SGD(supernet.weights.values(), lr=0.1)
    alphas = torch.optim.Adam(supernet.alphas.values(), lr=0.1)
    before = {label: alpha.clone() for label, alpha in supernet.alphas.items()}
    for step in (ag.FirstOrder(), ag.Unrolled(hvp="exact")):
        ag.search_step(supernet, (x, y), (x, y), step=step, weights_optimizer=weights, alphas_optimizer=alphas)
    assert all(not torch.equal(alpha, before[label]) for label, alpha in supernet.alphas.items())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "at least one number"),
        ([1, 1], "different numbers"),
        (["a"], "finite numbers"),
        ([1, float("inf")], "finite"),
    ],
)
def test_values_are_different_finite_numbers(values: list[object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        ag.ValueChoice(values)
