"""Laws of what tells modules apart that cost differently."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from archgrad.equal_layers import module_key, shapes_key


class Dilated(nn.Module):
    """A setting that `repr` does not show."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation


def tied() -> nn.Sequential:
    both = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    both[1].weight = both[0].weight
    return both


def once_and_again() -> nn.Sequential:
    one = nn.Linear(2, 2)
    return nn.Sequential(one, one)


def frozen() -> nn.Linear:
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    return layer


def test_modules_with_other_weights_have_one_key_and_those_with_other_settings_have_not() -> None:
    def two() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    assert module_key(two()) == module_key(two())
    others = [two(), tied(), once_and_again(), nn.Linear(2, 2), frozen(), nn.Linear(2, 3), nn.Linear(2, 2).double()]
    others += [Dilated(1), Dilated(2), nn.Conv1d(2, 2, 1), nn.Conv1d(2, 2, 1, stride=2)]
    assert len({module_key(module) for module in others}) == len(others)


def test_a_module_that_is_not_known_through_has_no_key() -> None:
    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(lambda *call: None)
    odd = nn.Identity()
    odd.compute = lambda x: x
    assert module_key(hooked) is None
    assert module_key(odd) is None
    assert shapes_key([object()]) is None


@pytest.mark.parametrize("other", [torch.zeros(2, 3), torch.zeros(3, 2).double(), (torch.zeros(3, 2), 1)])
def test_inputs_are_equal_by_shape_and_type(other: object) -> None:
    assert shapes_key([torch.zeros(3, 2)]) == shapes_key([torch.ones(3, 2)])
    assert shapes_key([torch.zeros(3, 2)]) != shapes_key([other])


def test_on_another_device_keys_are_the_same() -> None:
    assert module_key(nn.Linear(2, 3)) == module_key(nn.Linear(2, 3, device="meta"))
    assert shapes_key([torch.zeros(3, 2)]) == shapes_key([torch.zeros(3, 2, device="meta")])
