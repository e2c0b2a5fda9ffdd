"""Laws of the named spaces of open sizes: what they cost, what is derived of them, and that methods search them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.cli.main import main
from archgrad.errors import OptionError, SpaceError
from archgrad.labels import label_choices
from archgrad.named_space import space_of
from archgrad.spaces.timeseries import TimeSeriesNetwork
from archgrad.valued import ValuedModule

SPACES: dict[str, tuple[Callable[..., nn.Module], Tensor]] = {
    "mobile": (
        lambda: ag.spaces.mobile(
            4, 3, in_channels=1, stages=2, depth=1, kernels=(1, 3), expansions=(2,), widths=(0.5, 1)
        ),
        torch.randn(12, 1, 4, 4),
    ),
    "timeseries": (lambda: TimeSeriesNetwork(sensors=2, num_classes=3, channels=4, depth=1), torch.randn(12, 2, 20)),
    "patches": (lambda: ag.spaces.transformer(8, 3, in_channels=1, depth=2), torch.randn(12, 1, 8, 9)),
    "tokens": (lambda: ag.spaces.transformer(8, 3, vocabulary=7, padding=0, depth=2), torch.randint(0, 7, (12, 5))),
    "tabular": (lambda: ag.spaces.tabular(5, 3, width=8, depth=2), torch.randn(12, 5)),
}


@pytest.mark.parametrize("name", SPACES)
def test_the_derived_network_is_of_plain_layers_and_costs_what_is_told(name: str) -> None:
    build, x = SPACES[name]
    space = build()
    costs = {cost: ag.ExpectedCost(space, x[:1], cost) for cost in ("parameters", "multiply-adds")}
    for seed in range(2):
        found = ag.random_architecture(space, seed=seed)
        network = ag.derive(space, found).eval()
        assert not any(isinstance(part, ValuedModule | ag.LayerChoice | ag.ValueChoice) for part in network.modules())
        assert network(x).shape == (12, 3)
        assert costs["parameters"].of(found) == ag.cost.count_parameters(network)
        if x.is_floating_point():
            assert costs["multiply-adds"].of(found) == ag.cost.count_multiply_adds(network, x.shape[1:])


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *(("mobile", "gdas"), ("mobile", "drnas"), ("timeseries", "darts"), ("tabular", "gdas")),
        *(("patches", "drnas"), ("tokens", "darts")),
    ],
)
def test_methods_search_it_within_a_budget(name: str, method: str) -> None:
    build, x = SPACES[name]
    torch.manual_seed(0)
    space, data = build(), (x, torch.arange(12) % 3)
    options: dict[str, Any] = {"epochs": 1, "batch_size": 6, "quiet": True, "device": "cpu"}
    found = ag.search(space, data, method=method, budget="parameters<=1k", **options)
    cost, last = ag.cost.count_parameters(ag.derive(space, found)), found.history[0]["derived_parameters"]
    assert cost == last or cost <= 1000 < last
    first = ag.Supernet(space, seed=0).alphas
    assert all(len(row) == 1 or not torch.equal(row, first[label]) for label, row in found.supernet.alphas.items())


def test_the_sizes_of_time_series_networks_are_those_that_are_told() -> None:
    for size, smallest, largest in (("s", 300, 8_000), ("m", 900, 45_000), ("l", 3_000, 229_000)):
        space = ag.spaces.timeseries(size=size)  # type: ignore[arg-type]
        values = {entry.label: entry.choice.values for entry in label_choices(space)}  # type: ignore[attr-defined]
        for extreme, parameters in ((min, smallest), (max, largest)):
            network = ag.derive(space, {label: extreme(row) for label, row in values.items()})
            assert ag.cost.count_parameters(network) == pytest.approx(parameters, rel=0.07)


def test_padding_changes_nothing() -> None:
    build, _ = SPACES["tokens"]
    network = ag.derive(build(), ag.random_architecture(build(), seed=0)).eval()
    short, long = torch.tensor([[3, 1, 2]]), torch.tensor([[3, 1, 2, 0, 0]])
    torch.testing.assert_close(network(short), network(long))
    assert bool(network(torch.zeros(1, 4, dtype=torch.int64)).isfinite().all())


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (ag.spaces.mobile, {"stages": 0}, "stages must be a whole number of at least 1, but got stages=0"),
        (ag.spaces.mobile, {"kernels": (2, 4)}, r"kernels must be odd, .* got kernels=\(2, 4\)"),
        (ag.spaces.mobile, {"widths": (-0.5, 1.0)}, "widths must be a finite number above 0, but got widths=-0.5"),
        (ag.spaces.timeseries, {"size": "xl"}, "size must be one of s, m, l, but got"),
        (ag.spaces.tabular, {"width": 0}, "width must be a whole number of at least 1, but got width=0"),
        (ag.spaces.transformer, {"heads": (1, 3)}, "cannot be built with .*num_heads=3"),
        (ag.spaces.transformer, {"padding": 0}, "padding is a token, but got padding=0 without a vocabulary"),
        (ag.spaces.transformer, {"padding": 9, "vocabulary": 9}, "padding must be at most 8"),
    ],
)
def test_options_outside_their_range_are_refused(build: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((OptionError, SpaceError), match=message):
        build(**options)


def test_what_no_machine_holds_is_refused_before_it_is_built() -> None:
    for build, sizes in ((ag.spaces.mobile, {"width": 40_000}), (ag.spaces.transformer, {"width": 400_000})):
        with pytest.raises(OptionError, match=r"takes about .* GB|more weights than can be counted"):
            build(**sizes)  # type: ignore[operator]


def test_data_tell_what_a_space_is_for() -> None:
    targets = torch.arange(8) % 2
    inputs = {"timeseries": torch.randn(8, 3, 20), "tabular": torch.randn(8, 4), "mobile": torch.randn(8, 1, 4, 4)}
    for name, x in inputs.items():
        data = ag.data.as_data((x, targets))
        for other in inputs:
            if other == name:
                space = space_of(name, data)()  # type: ignore[operator]
                assert ag.derive(space, ag.random_architecture(space, seed=0))(x).shape == (8, 2)
            else:
                with pytest.raises(SpaceError, match=f"'{other}' is for .* take .*{name}"):
                    space_of(other, data)
    with pytest.raises(SpaceError, match=r"for images, with a vocabulary \(--space.vocabulary\) for sequences"):
        space_of("transformer", ag.data.as_data((torch.zeros(8, 4, dtype=torch.int64), targets)))


def test_the_command_line_searches_and_retrains_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    np.savez("words.npz", x=random.integers(1, 6, (24, 4)), y=np.arange(24) % 2)
    quick = ["--epochs", "1", "--batch-size", "12", "--device", "cpu", "--quiet"]
    of_space = ["--space.vocabulary", "6", "--space.width", "8", "--space.depth", "1", "--space.heads", "[1, 2]"]
    typed = ["--space", "transformer", *of_space, "--data", "words.npz", *quick]
    assert main(["search", *typed, "--budget", "parameters<=1k", "--out", "found"]) == 0
    assert main(["retrain", "--arch", "found", "--drop-path", "0", *quick, "--out", "net"]) == 0
    network = ag.export.load_retrained(Path("net"))
    assert isinstance(network.embedding, nn.Embedding)
    assert network(torch.tensor([[1, 5, 2, 3]])).shape == (1, 2)
