"""Networks too small to hold both cells."""

from __future__ import annotations

import pytest
import torch

import archgrad as ag


@pytest.mark.parametrize("cells", [1, 2, 3])
def test_a_published_architecture_fits_networks_of_any_depth(cells: int) -> None:
    space = ag.spaces.darts_cifar(4, cells, 3, stage="retrain")
    network = ag.derive(space, ag.architectures.DARTS_V1).eval()
    assert network(torch.randn(2, 3, 16, 16)).shape == (2, 3)
