"""Members of an ensemble as runs of their own against members one after the other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import archgrad as ag
from archgrad.cli import member_processes
from archgrad.cli.main import main
from archgrad.cli.member_processes import jobs_of_members
from archgrad.errors import OptionError, RunError
from archgrad.methods import Ensemble, Method, Stage
from archgrad.regularizers import CostBudget, CostPenalty
from archgrad.runs import Interrupted, read_config
from archgrad.search.search_options import SearchOptions
from archgrad.search.side_by_side import MemberRun, search_side_by_side
from archgrad.selection import PerturbationBased, SkipLimit
from archgrad.stopping import EpochLimit
from archgrad.testing import TabularSpace

DATA = (torch.randn(44, 4, generator=torch.Generator().manual_seed(0)), torch.arange(44) % 3)
ALONE = Method(alphas_optimizer=ag.optimizers.Adam(learning_rate=0.3))
STAGES = (
    Stage(epochs=1, alphas_start_epoch=1, space={"width": 4}),
    Stage(epochs=1, keep=1, space={"width": 6}, skip_dropout=0.4),
)
OPTIONS: dict[str, Any] = {"batch_size": 8, "device": "cpu", "quiet": True, "epochs": 2, "seed": 5}


def in_this_process(method: Method, begun: list[int], ends: int = 99) -> Any:
    """Run members one by one; the process is told to end before the one with this number."""

    def run(members: Sequence[MemberRun]) -> None:
        for member in members:
            if member.number == ends:
                raise Interrupted(15)
            begun.append(member.number)
            alone = replace(method, ensemble=None)
            own = {**OPTIONS, "seed": member.seed, "run_dir": member.folder, "resume": "auto"}
            ag.search(TabularSpace, DATA, method=alone, **own)

    return run


def content(folder: Path) -> dict[str, bytes]:
    """All that a search came to, by file; TensorBoard's events, times and the checkpoint aside."""
    names = ["metrics.csv", "architecture.json", *(f"checkpoints/epoch_{epoch}.json" for epoch in range(40))]
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


@pytest.mark.parametrize(
    "alone",
    [
        ALONE,
        replace(ALONE, stages=STAGES),
        replace(ALONE, selection=PerturbationBased(tune_epochs=1)),
        replace(
            ALONE,
            selection=SkipLimit(limit=0),
            stopping=EpochLimit(epochs=1),
            regularizers=(CostPenalty(cost="parameters"),),
        ),
        replace(ALONE, regularizers=(CostBudget(limit=91, cost="parameters"),)),
        replace(ALONE, regularizers=(CostBudget(limit=91, cost="parameters", weight=1.0),)),
    ],
    ids=["darts", "stages", "a selection with epochs of its own", "stopped, with costs", "the smallest", "pressed"],
)
def test_members_side_by_side_come_to_the_same_bits(alone: Method, tmp_path: Path) -> None:
    method = replace(alone, ensemble=Ensemble(members=3))
    ag.search(TabularSpace, DATA, method=method, run_dir=tmp_path / "one", **OPTIONS)
    options = SearchOptions(TabularSpace, DATA, method=method, run_dir=tmp_path / "two", **OPTIONS)
    begun: list[int] = []
    with pytest.raises(Interrupted):
        search_side_by_side(options, in_this_process(method, begun, ends=1))
    found = search_side_by_side(replace(options, resume=True), in_this_process(method, begun))
    assert begun == [0, 0, 1, 2]  # the first one is done, and read again
    one, two = content(tmp_path / "one"), content(tmp_path / "two")
    assert one.keys() == two.keys()
    assert len(one) >= 4
    for name, written in one.items():
        assert two[name] == written, name
    assert [row["member"] for row in found.history] == sorted(row["member"] for row in found.history)
    assert found.architecture.to_json().encode() in two.values()


def test_a_search_that_runs_them_one_after_the_other_stays_so(tmp_path: Path) -> None:
    method = replace(ALONE, ensemble=Ensemble(members=2))
    ag.search(TabularSpace, DATA, method=method, run_dir=tmp_path, **OPTIONS)
    options = SearchOptions(TabularSpace, DATA, method=method, run_dir=tmp_path, resume=True, **OPTIONS)
    with pytest.raises(RunError, match=r"one after the other\. Go on with it without --jobs"):
        search_side_by_side(options, in_this_process(method, []))
    for one in (None, Ensemble(members=1)):
        with pytest.raises(OptionError, match="no ensemble of at least two"):
            search_side_by_side(replace(options, method=replace(method, ensemble=one)), in_this_process(method, []))


class InThisProcess:
    """In the place of processes."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *error: object) -> None: ...

    def stop(self) -> None: ...

    def run(self, arguments: Sequence[str], log: Path) -> int:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("what it said\n", encoding="utf-8")
        assert self.threads >= 1
        return main(arguments)


def test_the_command_line_runs_members_as_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(member_processes, "Processes", InThisProcess)
    short = ["--space", "tiny", "--train-samples", "64", "--epochs", "1", "--batch-size", "32", "--device", "cpu"]
    members = ["--ensemble.members", "2", "--seed", "3"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["search", *short, *members, "--quiet", "--out", str(one)]) == 0
    assert main(["search", *short, *members, "--quiet", "--jobs", "1", "--out", str(two)]) == 0
    assert content(one) == content(two)
    assert read_config(one / "config.yaml") == read_config(two / "config.yaml")
    assert main(["search", "--resume", str(two), "--quiet"]) == 0  # all is done, and stays so
    assert content(one) == content(two)
    assert f"Architecture:  {two}" in capsys.readouterr().out
    assert main(["search", *short, *members, "--jobs", "2", "--max-minutes", "1", "--out", str(tmp_path / "x")]) == 2
    assert "does not go with --jobs" in capsys.readouterr().err


def test_a_members_command_is_the_search_with_its_seed_and_names_code_again(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "command: search\nspace: net.py:Net\ndata: digits\nseed: 3\nepochs: 2\nwandb: project\nmethod:\n"
        "  ensemble: {name: ensemble, members: 2}\n  relaxation: {name: 'own.py:Mine', rate: 2}\n"
        "  regularizers: [{name: entropy}, {name: 'own.py:Small'}]\n",
        encoding="utf-8",
    )
    (job,) = jobs_of_members([MemberRun(number=1, seed=77, folder=tmp_path / "members" / "1")], tmp_path)
    command = job.arguments()
    assert command[0] == "search"
    assert re.search(
        r"--resume auto --relaxation own.py:Mine --regularizers entropy,own.py:Small --space net.py:Net",
        " ".join(command),
    )
    config = read_config(tmp_path / "members" / "1.yaml")
    assert (config["seed"], config["epochs"], config["method"]["ensemble"]) == (77, 2, None)
    assert "wandb" not in config
