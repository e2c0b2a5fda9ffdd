"""What a config.yaml asks for is checked before anything is built, read or written for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from archgrad.errors import RunError
from archgrad.export import load_retrained

from .typed import QUICK, Type, content

ABSURD: list[tuple[dict[str, Any], str]] = [
    ({"channels": 200_000}, "takes about"),
    ({"space": "darts-cifar", "cells": 200_000}, "takes about"),
    ({"channels": 10**30}, "channels must be at most 2147483647"),
    ({"channels": "many"}, "--channels takes a whole number"),
    ({"channels": 1.5}, "--channels takes a whole number"),
    ({"channels": [2]}, "--channels takes a whole number"),
    ({"channels": True}, "--channels"),
    ({"channels": 0}, "channels must be a whole number of at least 1, but got channels=0"),
    ({"epochs": 10**30}, "epochs must be at most 2147483647"),
    ({"batch_size": {"a": 1}}, "--batch-size"),
    ({"workers": 10**6}, "workers must be at most 1024"),
    ({"train_samples": 10**12}, "--train-samples must be from 1 to"),
    ({"learning_rate": float("inf")}, "learning_rate must be"),
    ({"log_frequency": 10**30}, "log_frequency must be at most"),
    ({"data": "folder:/" + "x" * 5000}, "cannot be read"),
    ({"data": "x" * 5000}, "There is no data set"),
    ({"space": "x" * 5000}, "There is no space"),
    ({"out": "elsewhere", "overwrite": True}, "says out, but where a run goes"),
    ({"overwrite": True}, "says overwrite, but where a run goes"),
    ({"method": {"regularizers": 3}}, "regularizers must be a list, but got 3"),
    ({"method": {"regularizers": [3]}}, "regularizers must be a name, or a name and options"),
    ({"method": {"alphas_optimizer": 3}, "alphas_learning_rate": 0.1}, "alphas_optimizer must be a name"),
]


@pytest.mark.parametrize(("changes", "message"), ABSURD, ids=lambda value: str(value)[:40])
def test_a_search_by_an_absurd_config_is_refused_and_nothing_is_written(
    changes: dict[str, Any], message: str, searched: Path, archgrad: Type
) -> None:
    config = {**yaml.safe_load((searched / "config.yaml").read_text()), **changes}
    Path("c.yaml").write_text(yaml.safe_dump(config))
    before = content(Path())
    outcome = archgrad("search", "--config", "c.yaml", *([] if "out" in changes else ["--out", "new"]))
    assert outcome.status == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert content(Path()) == before


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("channels", "200000", "takes about"), ("epochs", "9" * 30, "at most"), ("workers", "99999", "at most 1024")],
)
def test_so_is_what_is_typed(option: str, value: str, message: str, archgrad: Type) -> None:
    for command in (("search",), ("retrain", "--arch", "random")):
        outcome = archgrad(*command, *QUICK, f"--{option}", value, "--out", "new")
        assert outcome.status == 2
        assert message in outcome.err
        assert not Path("new").exists()


def test_a_resumed_run_and_a_retrained_network_are_checked_as_well(archgrad: Type) -> None:
    assert archgrad("search", *QUICK, "--out", "s").status == 0
    assert archgrad("retrain", "--arch", "s", *QUICK, "--out", "r").status == 0
    good = {run: (Path(run) / "config.yaml").read_text() for run in ("s", "r")}
    for value, typed, loaded in (
        (200_000, "takes about", "takes about"),
        ("many", "--channels takes a whole number", "channels must be a whole number"),
        ([2], "--channels takes a whole number", "channels must be a whole number"),
        (10**30, "at most", "at most"),
    ):
        for run, command in (("s", "search"), ("r", "retrain")):
            (Path(run) / "config.yaml").write_text(yaml.safe_dump({**yaml.safe_load(good[run]), "channels": value}))
            outcome = archgrad(command, "--resume", run)
            assert (outcome.status, outcome.out) == (2, "")
            assert typed in outcome.err
        with pytest.raises(RunError, match=f"cannot be built as its config.yaml says: .*{loaded}"):
            load_retrained("r")
