"""Training in float16: losses are scaled, so that gradients neither vanish nor overflow."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag
from archgrad.bilevel import Implicit, Unrolled
from archgrad.bilevel.passes import run_pass
from archgrad.bilevel.probe import probe_of
from archgrad.engine.precision import check_device
from archgrad.errors import NonFiniteError, OptionError
from archgrad.loss_scale import LossScale
from archgrad.methods import Ensemble
from archgrad.search.members import member_seed

PAIR = torch.randn(48, 4, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 2


def space() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), ag.LayerChoice({"relu": nn.ReLU(), "tanh": nn.Tanh()}, label="layer"), nn.Linear(6, 2)
    )


def tiny(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets) * 1e-6


def huge(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets) * 1e2


def searched(**options: Any) -> ag.SearchResult:
    given = {"epochs": 2, "batch_size": 8, "quiet": True, "device": "cpu", "precision": "fp16", **options}
    return ag.search(space(), PAIR, **given)


def test_small_gradients_are_those_of_single_precision_with_the_scale_and_nothing_without() -> None:
    supernet = ag.Supernet(space())
    wrt = [*supernet.weights.values(), *supernet.alphas.values()]
    expected = run_pass(supernet, PAIR, tiny, wrt).gradients
    with torch.autocast("cpu", torch.float16):
        nothing = run_pass(supernet, PAIR, tiny, wrt).gradients
        with LossScale(enabled=True).applied():
            scaled = run_pass(supernet, PAIR, tiny, wrt)
    assert all(not gradient.any() for gradient in nothing[:2] if gradient is not None)
    for found, right in zip(scaled.gradients, expected, strict=True):
        assert found is not None
        assert right is not None
        torch.testing.assert_close(found, right, rtol=0.02, atol=1e-9)
    torch.testing.assert_close(scaled.loss, run_pass(supernet, PAIR, tiny, wrt).loss, rtol=1e-3, atol=0)


def test_a_perturbation_sees_small_gradients_too() -> None:
    supernet = ag.Supernet(space())
    probe = probe_of(supernet, PAIR, tiny, 1)
    weights = {label: torch.full((1, len(row.names)), 0.5) for label, row in supernet.rows.items()}
    expected = probe(weights)[1]["layer"]
    with torch.autocast("cpu", torch.float16):
        assert not probe(weights)[1]["layer"].any()
        with LossScale(enabled=True).applied():
            torch.testing.assert_close(probe(weights)[1]["layer"], expected, rtol=0.02, atol=1e-9)


def test_the_scale_is_halved_by_an_overflow_and_doubled_by_2000_steps_without() -> None:
    scale = LossScale(enabled=True)
    assert scale.can_fall()
    assert scale.value == 2.0**15
    for _ in range(1999):
        scale.step_taken()
    again = LossScale(enabled=True)
    again.load_state_dict(scale.state_dict())
    again.step_taken()
    assert (scale.value, again.value) == (2.0**15, 2.0**16)
    assert sum(again.can_fall() for _ in range(30)) == 16
    assert again.value == 1.0
    off = LossScale(enabled=False)
    off.step_taken()
    assert (off.can_fall(), off.value, off.state_dict()) == (False, 1.0, {})
    for state in ({}, {"value": 0.5, "steps": 1}, {"value": float("nan"), "steps": 1}, {"value": 2.0, "steps": "1"}):
        with pytest.raises(ValueError, match="loss scale"):
            again.load_state_dict(state)
    with pytest.raises(ValueError, match="does not go with the precision"):
        off.load_state_dict({"value": 2.0, "steps": 0})


def test_a_search_learns_as_in_single_precision_and_goes_on_to_the_bit(tmp_path: Path) -> None:
    whole = searched()
    single = searched(precision="32")
    for row, other in zip(whole.history, single.history, strict=True):
        assert row["valid_loss"] == pytest.approx(other["valid_loss"], rel=0.01)

    def interrupt(state: Any) -> None:
        if state.epoch == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searched(run_dir=tmp_path, on_epoch=interrupt)
    assert searched(run_dir=tmp_path, resume=True).history == whole.history


def test_steps_that_overflow_are_left_out_or_taken_again_until_the_scale_is_small_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = searched(loss=huge, on_nonfinite="stop")
    assert 0 < found.history[-1]["skipped_steps"] < 6
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    given = {"epochs": 2, "batch_size": 8, "quiet": True, "device": "cpu", "precision": "fp16", "loss": huge}
    fallen: list[bool] = []
    can_fall = LossScale.can_fall
    monkeypatch.setattr(LossScale, "can_fall", lambda scale: fallen.append(can_fall(scale)) or fallen[-1])
    trained = ag.retrain(network, PAIR, **given, learning_rate=1e-4)
    assert fallen
    assert all(fallen)
    assert trained.skipped_steps == 0  # taken again
    assert trained.history[-1]["train_loss"] < trained.history[0]["train_loss"]
    assert all(bool(value.isfinite().all()) for value in network.state_dict().values())

    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets) * float("inf")

    with pytest.raises(NonFiniteError):
        ag.retrain(network, PAIR, **{**given, "loss": broken})


def test_each_member_of_an_ensemble_begins_with_the_first_scale() -> None:
    method = ag.Method(ensemble=Ensemble(members=2))
    both = searched(method=method, loss=huge).history
    for number in range(2):
        alone = searched(method=ag.Method(), loss=huge, seed=member_seed(0, number)).history
        assert alone[-1]["skipped_steps"] > 0
        for row, own in zip(both[2 * number :], alone, strict=False):
            assert {**row, "epoch": own["epoch"]} == {"member": number, **own}


def test_a_loss_that_is_not_finite_leaves_the_scale_as_it_is() -> None:
    calls: list[bool] = []

    def once_broken(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(outputs.requires_grad)
        return F.cross_entropy(outputs, targets) * (float("nan") if sum(calls) == 2 and calls[-1] else 1.0)

    torch.manual_seed(0)
    given: dict[str, Any] = {"epochs": 1, "batch_size": 8, "quiet": True, "device": "cpu", "on_nonfinite": "skip"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LossScale, "can_fall", lambda scale: pytest.fail("the scale fell"))
        trained = ag.retrain(nn.Linear(4, 2), PAIR, **given, precision="fp16", loss=once_broken)
    assert trained.skipped_steps == 1


def test_what_float16_cannot_do_is_refused_and_an_emulation_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (Unrolled(hvp="exact"), Implicit()):
        with pytest.raises(OptionError, match="too few numbers for second derivatives"):
            searched(step=step)
    assert searched(step=Unrolled(), epochs=1).history[0]["skipped_steps"] == 0
    with pytest.raises(OptionError, match="Leave cuda_graphs out"):
        searched(cuda_graphs=True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "An old GPU")
    for capability, told in (((7, 5), 1), ((8, 0), 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check_device(torch.device("cuda"), "bf16")
            check_device(torch.device("cuda"), "fp16")
        assert len(caught) == told
