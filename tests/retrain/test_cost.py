"""Counts of parameters and multiply-adds, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from archgrad import architectures, derive, spaces
from archgrad.cost import count_multiply_adds, count_parameters, count_prediction_parameters
from archgrad.errors import OptionError


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),  # 8x8 outputs, 8 channels, 3*3*3 each
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False),  # depthwise: 4x4 outputs, 8 channels, 3*3 each
        nn.Conv2d(8, 16, 1),  # 4x4 outputs, 16 channels, 8 each
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def test_multiply_adds_are_those_worked_out_by_hand() -> None:
    by_hand = 64 * 8 * 27 + 16 * 8 * 9 + 16 * 16 * 8 + 16 * 10
    assert count_multiply_adds(network(), (3, 8, 8)) == by_hand


def test_parameters_are_those_worked_out_by_hand() -> None:
    by_hand = 8 * 27 + 2 * 8 + 8 * 9 + (16 * 8 + 16) + (16 * 10 + 10)
    module = network()
    assert count_parameters(module) == by_hand
    assert count_prediction_parameters(module, (3, 8, 8)) == by_hand
    module[0].weight.requires_grad_(False)
    assert count_parameters(module) == count_prediction_parameters(module, (3, 8, 8)) == by_hand - 8 * 27


def test_features_cost_what_their_products_do() -> None:
    module = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2, bias=False))
    assert count_multiply_adds(module, (5,)) == 5 * 7 + 7 * 2


@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_costs_its_projections_and_products_whichever_way_it_is_computed(need_weights: bool) -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.attention(x, x, x, need_weights=need_weights)[0]
            return output

    # of L vectors of W features: four projections of W x W, and the products of L x L x W
    assert count_multiply_adds(Attending(), (5, 8)) == 4 * 5 * 8 * 8 + 2 * 5 * 5 * 8


class WithAuxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.auxiliary = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> object:
        x = self.body(x)
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)


def test_an_auxiliary_head_costs_a_prediction_nothing() -> None:
    module = WithAuxiliary()
    assert count_parameters(module) == 20 + 10 + 10
    assert count_prediction_parameters(module, (4,)) == 20 + 10
    assert count_multiply_adds(module, (4,)) == 16 + 8


def test_counting_leaves_the_network_as_it_was() -> None:
    module = network()
    module[1].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    count_multiply_adds(module, (3, 8, 8))
    count_prediction_parameters(module, (3, 8, 8))
    assert [part.training for part in module] == [True, False, *[True] * 6]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_double_network_is_counted_in_double() -> None:
    assert count_multiply_adds(nn.Linear(3, 2).double(), (3,)) == 6


def test_a_shape_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(OptionError, match=r"cannot take one input of shape \(4, 8, 8\)"):
        count_multiply_adds(network(), (4, 8, 8))


def test_a_published_network_costs_the_sum_over_its_layers() -> None:
    module = derive(
        spaces.darts_cifar(channels=4, cells=5, num_classes=10, auxiliary=True, stage="retrain"), architectures.DARTS_V2
    )
    by_layer = []

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        places = output[0, 0].numel()  # output pixels; 1 for a linear layer
        assert isinstance(layer.weight, torch.Tensor)
        by_layer.append(places * layer.weight.numel())

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    assert count_multiply_adds(module, (3, 32, 32)) == sum(by_layer) > 0


def test_the_published_networks_have_their_number_of_parameters() -> None:
    # Liu et al. 2019, table 3: 4.7 M on ImageNet; the auxiliary head is left out.
    space = spaces.darts_imagenet(channels=48, cells=14, num_classes=1000, auxiliary=True, stage="retrain")
    assert count_prediction_parameters(derive(space, architectures.DARTS_V2), (3, 64, 64)) == 4_718_752
