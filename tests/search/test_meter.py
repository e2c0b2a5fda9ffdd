"""The means of an epoch, bit for bit, and how often a device is waited for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import archgrad as ag
from archgrad.search import meter as meter_module
from archgrad.search.meter import Meter
from toys import TabularSpace


class Waits(TorchDispatchMode):
    """Counts how often a value is read from a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket._qualified_op_name.endswith("::_local_scalar_dense")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("most_unread", [1, 7, 10_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_means_are_bit_for_bit_those_of_numbers_added_one_by_one(
    most_unread: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter_module, "_MOST_UNREAD", most_unread)
    generator = torch.Generator().manual_seed(0)
    meter, sums, samples = Meter(), {"loss": 0.0, "own": 0.0}, 0
    for step in range(20):
        loss = torch.rand((), generator=generator).to(dtype)
        own = float(torch.rand((), generator=generator))
        count = 7 + step % 3
        meter.add({"loss": loss, "own": own}, count)
        sums["loss"] += float(loss) * count
        sums["own"] += own * count
        samples += count
        loss.zero_()  # what is measured is not what comes after
        if step == 11:  # a checkpoint, from which another meter goes on
            saved, meter = meter.state_dict(), Meter()
            meter.add({"loss": 1e9}, 1)
            meter.load_state_dict(saved)
    assert meter.means() == {name: total / samples for name, total in sums.items()}
    assert meter.means_over_ranks(torch.device("cpu")) == meter.means()


def test_adding_waits_for_nothing_and_takes_tensors_of_one_element() -> None:
    meter = Meter()
    with Waits() as waits:
        for _ in range(5):
            meter.add({"a": torch.tensor(2.0, requires_grad=True), "b": torch.tensor([[3.0]])}, 4)
    assert waits.count == 0
    assert meter.means() == {"a": 2.0, "b": 3.0}


def test_a_step_of_a_search_reads_only_whether_it_was_finite() -> None:
    class Counted(TabularSpace):
        def forward(self, x: Tensor) -> Tensor:
            counts.append(waits.count)
            return super().forward(x)

    counts: list[int] = []
    data = (torch.randn(32, 4), torch.arange(32) % 3)
    with Waits() as waits:
        ag.search(Counted(), data, method="darts", epochs=1, batch_size=4, device="cpu", quiet=True, cutout=0)
    # After the look before the first step: a pass for the alphas, Adam (which counts its steps in tensors on the CPU),
    # a pass for the weights, and from there to the next step: whether loss and gradient are finite, and nothing
    # that is only measured.
    assert [after - before for before, after in zip(counts[2:8:2], counts[3:9:2], strict=True)] == [1, 1, 1]
