"""The largest eigenvalue by Hessian-vector products is that of the full matrix, and a search stops by it."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import archgrad as ag
from archgrad.errors import OptionError
from archgrad.stopping import HessianEigenvalue, hessian_eigenvalue, largest_eigenvalue
from archgrad.testing import StoppingLaws, TabularSpace


def test_products_find_the_largest_eigenvalue_of_the_full_hessian() -> None:
    end = StoppingLaws.end()
    supernet, (inputs, targets) = end.supernet, end.valid_batch()
    start = torch.cat([alpha.detach() for alpha in supernet.alphas.values()])

    def loss_at(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([alpha.numel() for alpha in supernet.alphas.values()])
        mixtures = {
            label: supernet.relaxation.mix(part, supernet.rows[label], {})
            for label, part in zip(supernet.rows, parts, strict=True)
        }
        return F.cross_entropy(supernet.forward_at(mixtures, inputs), targets)

    hessian = torch.autograd.functional.hessian(loss_at, start)
    expected = float(torch.linalg.eigvalsh(hessian)[-1])
    assert expected > 0
    assert hessian_eigenvalue(end, tolerance=1e-8) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("eigenvalues", [[-9.0, 1.0, 2.0, 2.5], [-3.0, -2.0, -1.0], [0.0, 0.0], [4.0]])
def test_the_largest_is_not_the_largest_in_amount(eigenvalues: list[float]) -> None:
    size = len(eigenvalues)
    turned = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(1)).double())[0]
    matrix = turned @ torch.tensor(eigenvalues, dtype=torch.float64).diag() @ turned.T
    assert largest_eigenvalue(lambda v: matrix @ v, size) == pytest.approx(max(eigenvalues), abs=1e-12)
    assert math.isnan(largest_eigenvalue(lambda v: math.nan * v, size))


def test_a_search_stops_and_goes_back_to_the_epoch_before_the_growth() -> None:
    rule = HessianEigenvalue(frequency=1, window=3, factor=1e-6, start_epoch=1, delta=1)
    data = (torch.randn(44, 4, generator=torch.Generator().manual_seed(0)), torch.arange(44) % 3)
    method = replace(ag.methods.r_darts, stopping=rule)
    result = ag.search(TabularSpace(), data, method=method, epochs=8, batch_size=8, device="cpu", quiet=True)
    # epoch 3 is the first whose average, of epochs 1 to 3, has one before it that stands for an epoch that may be taken
    assert result.stop is not None
    assert (result.stop.epoch, len(result.history)) == (1, 4)
    assert "largest eigenvalue of the Hessian" in result.stop.reason


@pytest.mark.parametrize(("option", "value"), [("frequency", 0), ("window", 1.5), ("factor", 0.0), ("iterations", 0)])
def test_options_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(OptionError, match=option):
        HessianEigenvalue(**{option: value})


def test_parts_of_the_batch_give_the_eigenvalue_of_the_whole() -> None:
    end = StoppingLaws.end()
    whole = hessian_eigenvalue(end, tolerance=1e-8)
    for parts in (2, 8):
        before, state = end.supernet.generator.get_state(), torch.get_rng_state()
        found = hessian_eigenvalue(replace(end, accumulation=parts), tolerance=1e-8)
        assert found == pytest.approx(whole, rel=1e-9)
        assert torch.equal(end.supernet.generator.get_state(), before)
        assert torch.equal(torch.get_rng_state(), state)


def test_a_search_that_is_too_short_to_be_stopped_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    # the rule is asked about histories that grow a thousandfold from each epoch to the next
    for frequency, window, start, delta in itertools.product((1, 2, 3), (1, 4, 5), (0, 3, 10), (1, 4)):
        rule = HessianEigenvalue(frequency=frequency, window=window, start_epoch=start, delta=delta)
        rows = [{"epoch": e, "hessian_eigenvalue": 1000.0**e if e % frequency == 0 else None} for e in range(50)]
        first = next(e for e in range(50) if rule.decide(rows[: e + 1]) is not None)
        assert rule.remark(first + 2) is None  # the last epoch is not measured
        assert f"the first epoch that it tests is number {first + 1}" in str(rule.remark(first + 1))
    assert HessianEigenvalue().remark(24) is None
    data = (torch.randn(44, 4), torch.arange(44) % 3)
    ag.search(TabularSpace(), data, method="r_darts", epochs=1, batch_size=8, device="cpu")
    assert "cannot stop a search of 1 epochs" in "".join(capsys.readouterr())
