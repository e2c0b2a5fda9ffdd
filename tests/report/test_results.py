"""Results print as a few lines, and draw themselves in a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

import archgrad as ag
from archgrad.errors import OptionError
from archgrad.report import Figure, draw_architecture

SMALL: dict[str, Any] = {"epochs": 2, "batch_size": 16, "quiet": True}


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 3


@pytest.fixture(scope="module")
def results(pair: tuple[torch.Tensor, torch.Tensor]) -> list[Any]:
    space = ag.spaces.tiny(4, 3)
    found = ag.search(space, pair, **SMALL)
    network = ag.derive(space, found.architecture)
    return [found, ag.retrain(network, pair, architecture=found.architecture, cutout=0, drop_path=0.0, **SMALL)]


@pytest.mark.parametrize("which", [0, 1])
def test_a_result_prints_its_architecture_last_figures_and_folder_in_six_lines(results: list[Any], which: int) -> None:
    text = repr(results[which])
    lines = text.splitlines()
    assert 4 <= len(lines) <= 6
    assert max(map(len, lines)) < 121
    assert "after 2 epochs" in lines[0]
    assert "architecture: tiny: body = " in text
    assert f"loss {results[which].history[-1]['train_loss']:.4g}" in text
    assert "run folder: none" in text


@pytest.mark.parametrize("which", [0, 1])
def test_a_result_draws_its_choices_and_curves(results: list[Any], which: int, tmp_path: Path) -> None:
    html = results[which]._repr_html_()
    assert html.count("<svg") == 2
    assert "Choices: " in html
    assert "Loss over epochs" in html
    assert "\n<?xml" not in html
    plot = results[which].plot()
    ElementTree.fromstring(plot.to_svg().partition("?>")[2])
    assert plot.save(tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_show_prints_the_architecture(results: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    results[0].show()
    printed = capsys.readouterr().out
    assert printed.startswith("tiny\n")
    assert "SearchResult after 2 epochs" in printed


def test_an_architecture_is_drawn_without_a_path(tmp_path: Path) -> None:
    figure = draw_architecture(ag.architectures.DARTS_V2)
    assert isinstance(figure, Figure)
    assert figure._repr_html_().count("<svg") == 1
    assert "save(path)" in repr(figure)
    written = draw_architecture(ag.architectures.DARTS_V2, str(tmp_path / "cell.svg"))
    assert written.read_text(encoding="utf-8") == figure.to_svg()
    with pytest.raises(OptionError, match="Rename it"):
        figure.save(tmp_path / "cell.pdf")
