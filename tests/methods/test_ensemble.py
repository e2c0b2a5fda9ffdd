"""Ensembles: each member is a search, their mean decides, and how far they agree is said."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_searches import Cuts
from torch import nn

import archgrad as ag
from archgrad.discretize import discretize
from archgrad.errors import OptionError
from archgrad.methods import Ensemble, Method, Stage, gdas
from archgrad.methods.tree import method_of_tree, tree_of
from archgrad.report.agreement import agreement_table
from archgrad.report.read import read_run
from archgrad.runs import Interrupted
from archgrad.search.members import member_seed
from archgrad.search.optimizers import cosine
from archgrad.search.together import decided_together
from archgrad.selection import Likeliest, PerturbationBased, Selection, SkipLimit
from archgrad.stopping import EpochLimit, SkipCount
from archgrad.testing import MixedSpace, TabularSpace

DATA = (torch.randn(44, 4, generator=torch.Generator().manual_seed(0)), torch.arange(44) % 3)
THREE = Ensemble(members=3)
ALONE = Method(alphas_optimizer=ag.optimizers.Adam(learning_rate=0.3))
STAGED = replace(
    ALONE,
    stages=(
        Stage(epochs=1, alphas_start_epoch=1, space={"width": 4}),
        Stage(epochs=1, keep=1, space={"width": 6}, skip_dropout=0.4),
    ),
)
OPTIONS = {"batch_size": 8, "device": "cpu", "quiet": True, "epochs": 2}


def found(method: Method, space: Any = TabularSpace, **options: Any) -> ag.SearchResult:
    return ag.search(space, DATA, method=method, **{**OPTIONS, **options})


def without_place(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in ("epoch", "member")} for row in history]


# --- members ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alone", "space"),
    [
        (ALONE, TabularSpace),
        (ALONE, TabularSpace()),  # every member begins with its weights
        (replace(gdas, skip_noise=0.2), TabularSpace),  # draws of the supernet, and global ones
        (STAGED, TabularSpace),
        (replace(ALONE, selection=PerturbationBased(tune_epochs=1)), TabularSpace),
    ],
    ids=["darts", "a module", "gdas with noise", "stages", "a selection with epochs of its own"],
)
def test_each_member_is_the_search_that_its_seed_gives_alone(alone: Method, space: Any) -> None:
    whole = found(replace(alone, ensemble=THREE), space, seed=5)
    each = len(whole.history) // 3
    assert [row["member"] for row in whole.history] == [k for k in range(3) for _ in range(each)]
    assert [row["epoch"] for row in whole.history] == list(range(3 * each))
    seeds = [5, *(member_seed(5, k) for k in (1, 2))]
    assert len(set(seeds)) == 3
    for k, (seed, member) in enumerate(zip(seeds, whole.architecture.provenance["members"], strict=True)):
        one = found(alone, space, seed=seed)
        assert without_place(whole.history[each * k : each * (k + 1)]) == without_place(one.history)
        assert member["probabilities"] == one.architecture.provenance["probabilities"]
        assert member["seed"] == seed
        assert ag.Architecture(member["choices"]) == one.architecture
    for name, value in one.supernet.state_dict().items():
        assert torch.equal(whole.supernet.state_dict()[name], value)  # that of the last


def test_members_differ_in_split_and_order() -> None:
    seen: list[set[tuple[float, ...]]] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = TabularSpace()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled():
                seen.append({tuple(row) for row in x.tolist()})
            return self.inner(x)

    found(replace(ALONE, ensemble=Ensemble(members=2)), Watched, epochs=1)
    per_member = len(seen) // 2
    halves = [set().union(*seen[k * per_member : (k + 1) * per_member : 2]) for k in range(2)]  # of the alphas
    assert halves[0] != halves[1]


# --- what they decide together ----------------------------------------------------------------------------------------


def a_row(names: str = "none a b", skips: int = 0) -> ag.Supernet:
    candidates = {name: nn.Linear(2, 2) for name in names.split()}
    return ag.Supernet(nn.Sequential(*(ag.LayerChoice(candidates, label=f"c{k}") for k in range(1 + skips))))


def members_of(supernet: ag.Supernet, *members: dict[str, list[float]]) -> list[ag.Architecture]:
    """Searches that ended with these probabilities."""
    found = []
    for number, rows in enumerate(members):
        with torch.no_grad():
            for label, row in rows.items():
                supernet.alphas[label].copy_(torch.tensor(row).log())
        found.append(discretize(supernet, provenance={"seed": number, "epoch": number}))
    return found


def together(supernet: ag.Supernet, members: list[ag.Architecture], *, selection: Selection, **options: Any) -> Any:
    ensemble = Ensemble(members=len(members), **options)
    return decided_together(members, ensemble, selection, supernet, space=None, provenance={"seed": 0})


def test_the_mean_decides_and_agreement_is_the_share_that_took_the_same() -> None:
    # The mean of 0.5 0.4 0.1, of 0.5 0.1 0.4 and of 0.3 0.6 0.1 is 1.3/3, 1.1/3, 0.6/3. Alone they take none, none, a;
    # without "none" a, b, a.
    supernet = a_row()
    members = members_of(supernet, {"c0": [0.5, 0.4, 0.1]}, {"c0": [0.5, 0.1, 0.4]}, {"c0": [0.3, 0.6, 0.1]})
    whole = together(supernet, members, selection=Likeliest())
    assert whole.choices["c0"] == "none"
    mean = {"none": 1.3 / 3, "a": 1.1 / 3, "b": 0.6 / 3}
    assert whole.provenance["probabilities"]["c0"] == pytest.approx(mean, rel=1e-6)
    assert whole.provenance["agreement"] == {"c0": 2 / 3}
    assert "alphas" not in whole.provenance

    left = together(supernet, members, selection=Likeliest(), without="none")
    assert left.choices["c0"] == "a"
    assert left.provenance["probabilities"]["c0"] == pytest.approx(mean, rel=1e-6)
    assert left.provenance["agreement"] == {"c0": 2 / 3}
    assert [member["choices"]["c0"] for member in left.provenance["members"]] == ["a", "b", "a"]
    assert [member["seed"] for member in left.provenance["members"]] == [0, 1, 2]
    again = [ag.Architecture.from_json(member.to_json()) for member in members]  # as a checkpoint has them
    assert together(supernet, again, selection=Likeliest(), without="none").to_json() == left.to_json()


def test_a_limit_of_the_selection_holds_for_the_mean() -> None:
    # Each member has one skip connection, in different places; the mean would have both.
    supernet = a_row("skip_connect a b", skips=1)
    one, other = [0.5, 0.3, 0.2], [0.46, 0.06, 0.48]
    members = members_of(supernet, {"c0": one, "c1": other}, {"c0": other, "c1": one})
    both = together(supernet, members, selection=Likeliest())
    assert set(both.choices.values()) == {"skip_connect"}
    limited = together(supernet, members, selection=SkipLimit(limit=1))
    assert sorted(limited.choices.values()) == ["b", "skip_connect"]


def test_what_a_selection_measured_in_each_member_is_averaged() -> None:
    method = replace(ALONE, selection=PerturbationBased(tune_epochs=0, criterion="loss"), ensemble=THREE)
    whole = found(method)
    scores = whole.architecture.provenance["scores"]["second"]
    alone = [
        found(replace(method, ensemble=None), seed=member_seed(0, k)).architecture.provenance["scores"]["second"]
        for k in range(3)
    ]
    assert scores == pytest.approx({name: sum(row[name] for row in alone) / 3 for name in ("0", "1")})
    assert whole.architecture.choices["second"] == max(scores, key=lambda name: scores[name])
    assert whole.supernet.settled  # of the last member alone, so no part of what all decide
    assert "settled" not in whole.architecture.provenance


def test_cells_inputs_and_edge_weights_decide_by_the_mean() -> None:
    method = replace(ALONE, edge_weights=ag.relaxation.Softmax(), ensemble=Ensemble(members=2, without=("none",)))
    data = (DATA[0], torch.arange(44) % 6)
    result = ag.search(MixedSpace, data, method=method, **OPTIONS)
    alone = [
        ag.search(MixedSpace, data, method=replace(method, ensemble=None), seed=member_seed(0, k), **OPTIONS)
        for k in range(2)
    ]
    for name in ("probabilities", "edge_weights"):
        for label, row in result.architecture.provenance[name].items():
            rows = [one.architecture.provenance[name][label] for one in alone]
            for place in row if hasattr(row, "keys") else range(len(row)):
                assert row[place] == pytest.approx(sum(each[place] for each in rows) / 2)
    share = result.agreement
    assert list(share.values()) == sorted(share.values())
    assert set(share.values()) <= {0.0, 0.5, 1.0}
    assert not any("none" in str(decision) for decision in result.architecture.choices.values())


def test_after_each_epoch_there_is_the_ensemble_so_far(tmp_path: Path) -> None:
    whole = found(replace(ALONE, ensemble=THREE), run_dir=tmp_path / "run", seed=3)
    first = found(ALONE, seed=3)
    files = [ag.Architecture.load(tmp_path / "run" / "checkpoints" / f"epoch_{k}.json") for k in range(6)]
    assert files[1] == first.architecture
    assert files[1].provenance["probabilities"] == first.architecture.provenance["probabilities"]
    assert [len(file.provenance["members"]) for file in files] == [1, 1, 2, 2, 3, 3]
    assert files[5] == whole.architecture
    assert files[5].provenance["seed"] == 3
    run = read_run(tmp_path / "run")
    assert (run.done_epochs, run.planned_epochs) == (6, 6)
    table = agreement_table(whole.architecture)
    assert table.count("of 3<") == len(whole.agreement)
    assert agreement_table(first.architecture) == ""


# --- ends -------------------------------------------------------------------------------------------------------------


def test_a_limit_of_epochs_leaves_the_schedules_as_planned(tmp_path: Path) -> None:
    planned = found(ALONE, epochs=4)
    limited = found(replace(ALONE, stopping=EpochLimit(epochs=2)), epochs=4, run_dir=tmp_path / "run")
    assert limited.history == planned.history[:2]
    assert [row["learning_rate"] for row in limited.history] == [cosine(e, 4, first=0.025, last=0.001) for e in (0, 1)]
    assert limited.stop is not None
    assert limited.stop.epoch == 1
    run = read_run(tmp_path / "run")
    assert (run.done_epochs, run.planned_epochs) == (2, 2)
    several = found(replace(ALONE, stopping=EpochLimit(epochs=2), ensemble=THREE), epochs=4)
    assert without_place(several.history[:2]) == without_place(limited.history)
    assert len(several.history) == 6
    assert several.stop is None


def test_a_limit_beyond_the_end_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    found(replace(ALONE, stopping=EpochLimit(epochs=3)), quiet=False)
    assert "EpochLimit(epochs=3) cannot stop a search of 2 epochs" in capsys.readouterr().err


def test_members_that_are_stopped_have_lengths_of_their_own(tmp_path: Path) -> None:
    method = replace(ALONE, stopping=SkipCount(limit=1), ensemble=Ensemble(members=4))
    whole = found(method, epochs=3, run_dir=tmp_path / "run")
    alone = [found(replace(method, ensemble=None), epochs=3, seed=member_seed(0, k)) for k in range(4)]
    lengths = [len(one.history) for one in alone]
    assert len(set(lengths)) > 1
    assert [row["member"] for row in whole.history] == [k for k, n in enumerate(lengths) for _ in range(n)]
    members = whole.architecture.provenance["members"]
    assert [member["probabilities"] for member in members] == [
        one.architecture.provenance["probabilities"] for one in alone
    ]
    assert ag.Architecture.load(tmp_path / "run") == whole.architecture


def test_one_who_listens_may_end_all_members() -> None:
    result = found(replace(ALONE, ensemble=THREE), on_epoch=lambda state: state.epoch == 2)
    assert [row["member"] for row in result.history] == [0, 0, 1]
    assert len(result.architecture.provenance["members"]) == 2


@pytest.mark.parametrize(
    "alone",
    [STAGED, replace(gdas, skip_noise=0.2), replace(ALONE, stopping=SkipCount(limit=1))],
    ids=["stages", "draws", "stops"],
)
def test_killed_anywhere_it_goes_on_to_the_bit(alone: Method, tmp_path: Path) -> None:
    cuts = Cuts()
    options = {"method": replace(alone, ensemble=THREE), "space": cuts.space, "loss": cuts.loss, "checkpoint_steps": 1}
    expected = found(run_dir=tmp_path / "whole", **options)
    places = [{"call": call} for call in range(2, cuts.calls, 19)]
    places += [{"build": build} for build in (cuts.builds - 1, cuts.builds)]  # at a border
    for number, place in enumerate(places):
        run = tmp_path / f"cut-{number}"
        cuts.begin(**place)
        with pytest.raises((KeyboardInterrupt, Interrupted)):
            found(run_dir=run, **options)
        cuts.begin()
        resumed = found(run_dir=run, resume=True, **options)
        assert resumed.history == expected.history
        assert resumed.architecture.to_json() == expected.architecture.to_json()
        for name, value in expected.supernet.state_dict().items():
            assert torch.equal(resumed.supernet.state_dict()[name], value)
        last = f"checkpoints/epoch_{len(expected.history) - 1}.json"
        for file in ("metrics.csv", "checkpoints/epoch_1.json", last):
            assert (run / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


# --- as data, and at the door -----------------------------------------------------------------------------------------


def test_an_ensemble_is_part_of_a_methods_tree_and_needs_no_name() -> None:
    method = Method(ensemble=Ensemble(members=3, without="none"), stopping=EpochLimit(epochs=7))
    tree = tree_of(method)
    assert tree["ensemble"] == {"name": "ensemble", "members": 3, "without": ["none"]}
    own = partial(pytest.fail, pytrace=False)
    assert method_of_tree(tree, own=own) == method
    assert method_of_tree({"ensemble": {"members": 3}}, own=own).ensemble == THREE
    assert method_of_tree({"ensemble": None}, own=own) == Method()


def test_what_an_ensemble_cannot_do_is_told_before_the_first_epoch() -> None:
    with pytest.raises(OptionError, match="members must be a whole number of at least 1"):
        Ensemble(members=0)
    with pytest.raises(OptionError, match="without must be names"):
        Ensemble(without=("",))
    with pytest.raises(OptionError, match="decides without 'nothing', but the candidates are dense"):
        found(Method(ensemble=Ensemble(without="nothing")))
    with pytest.raises(OptionError, match=r"decides without tanh, softplus, but 'activation' then has 0 candidates"):
        found(Method(ensemble=Ensemble(without=("tanh", "softplus"))))
    with pytest.raises(OptionError, match="a supernet is searched in place"):
        found(Method(ensemble=THREE), ag.Supernet(TabularSpace()))
    space = TabularSpace()
    with pytest.raises(OptionError, match="Each member of the ensemble begins with new weights"):
        found(Method(ensemble=THREE), space, weights_optimizer=torch.optim.SGD(space.parameters(), 0.1))
    with pytest.raises(OptionError, match="epochs must be a whole number of at least 1"):
        EpochLimit(epochs=0)
