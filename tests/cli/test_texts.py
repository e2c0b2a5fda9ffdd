"""`--data text:FILE`: from a text to a language model, its perplexity and its predictions."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from archgrad.architecture import Architecture

from .typed import Type

QUICK = ("--epochs", 1, "--batch-size", 8, "--quiet", "--device", "cpu")


def test_a_text_is_searched_retrained_reported_and_predicted(tmp_path: Path, archgrad: Type) -> None:
    (tmp_path / "corpus").write_text("to be or not to be, that is the question.\n" * 12)
    told = archgrad(
        *("search", "--data", "text:corpus", "--window", 6, "--space.hidden-size", 4, "--space.nodes", 2),
        *("--out", "found", *QUICK),
    )
    assert told.status == 0, told.err
    config = yaml.safe_load(Path("found/config.yaml").read_text())
    assert (config["space"], config["data"], config["window"]) == ("darts-rnn", f"text:{tmp_path / 'corpus'}", 6)
    assert list(Architecture.load("found").choices) == ["recurrent"]
    told = archgrad(
        "retrain", "--arch", "found", "--optimizer", "adamw", "--learning-rate", 0.01, "--out", "net", *QUICK
    )
    assert told.status == 0, told.err
    (row,) = csv.DictReader(Path("net/metrics.csv").read_text().splitlines())
    assert float(row["test_perplexity"]) == pytest.approx(math.exp(float(row["test_loss"])), rel=1e-4)
    assert archgrad("report", "found", "net", "--out", "report.html").status == 0
    assert "test perplexity" in Path("report.html").read_text()

    (tmp_path / "new").write_text("to be?")  # "?" is no token of the training
    told = archgrad("predict", "net", "--data", "text:new", "--json")
    assert told.status == 0, told.err
    (window,) = json.loads(told.out)
    assert len(window["positions"]) == 6
    told = archgrad("predict", "net", "--data", "text:new", "--csv")
    (row,) = csv.DictReader(io.StringIO(told.out))
    assert row["positions"] == " ".join(map(str, window["positions"]))
    classes = json.loads(Path("net/summary.json").read_text())["classes"]
    told = archgrad("predict", "net", "--space", "darts-rnn", "--data", "text:new")
    shown = [repr(classes[k]) if classes[k].isspace() else classes[k] for k in window["positions"]]
    assert told.out == f"0\n  positions  {' '.join(shown)}\n"


def test_what_does_not_go_with_a_text_is_said(tmp_path: Path, archgrad: Type) -> None:
    (tmp_path / "corpus").write_text("a text of some length")
    told = archgrad("search", "--data", "text:corpus", "--space", "tiny", *QUICK)
    assert told.status == 2
    assert "'tiny' is for images" in told.err
    assert "darts-rnn" in told.err
    told = archgrad("search", "--data", "digits", "--window", 7, *QUICK)
    assert "window goes with text:PATH" in told.err
    np.savez("pairs.npz", x=np.zeros((8, 4)), y=np.arange(8) % 2)
    told = archgrad("search", "--data", "pairs.npz", "--space", "darts-rnn", *QUICK)
    assert "'darts-rnn' is for sequences of whole numbers" in told.err
