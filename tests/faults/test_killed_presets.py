"""Every published method is broken off between the last step of an epoch and its end, and again within another.

It ends as if nothing had happened.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import archgrad as ag
from archgrad.methods import Method
from archgrad.relaxation import Gumbel
from archgrad.runs import Interrupted
from archgrad.search import search_run
from archgrad.search.short_forms import PRESETS
from archgrad.selection import PerturbationBased
from archgrad.stopping import HessianEigenvalue
from parts_of_methods import images, space_of_preset

from .problems import PROBLEMS, position, results

METHODS = {
    **PRESETS,
    "darts_pt": replace(PRESETS["darts_pt"], selection=PerturbationBased(tune_epochs=1)),  # a fifth of the time
    # what is measured at the end of an epoch needs to know the epoch, also where no step was taken since the start
    "measured": Method(relaxation=Gumbel(), stopping=HessianEigenvalue(frequency=1, iterations=2)),
}
EPOCHS = {name: max(2, len(method.stages)) for name, method in METHODS.items()}
STEPS = 3
"""Of an epoch: 24 samples are two halves of 12, and a batch has 4."""


def run(name: str, folder: Path, **options: Any) -> None:
    torch.manual_seed(0)
    ag.search(
        space_of_preset(METHODS[name]), images(24), method=METHODS[name], epochs=EPOCHS[name], batch_size=4, cutout=0,
        seed=2, device="cpu", quiet=True, run_dir=folder, **options,
    )  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_a_search_that_is_broken_off_twice_goes_on_to_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(name, tmp_path / "whole")
    last = (EPOCHS[name] - 1) * STEPS
    real_step, taken = search_run.search_step, 0

    def step(*arguments: Any, **named: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken in (STEPS, last + 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return real_step(*arguments, **named)

    monkeypatch.setattr(search_run, "search_step", step)
    for resume, place in ((False, (0, STEPS)), (True, (EPOCHS[name] - 1, 1))):
        with pytest.raises(Interrupted):
            run(name, tmp_path / "run", resume=resume)
        assert position(tmp_path / "run") == place
    run(name, tmp_path / "run", resume=True)
    assert results(PROBLEMS["search"], tmp_path / "run") == results(PROBLEMS["search"], tmp_path / "whole")
