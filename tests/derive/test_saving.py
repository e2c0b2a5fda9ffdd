"""A derived network is saved and loaded as any other module."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from derived_networks import images
from torch import nn

import archgrad as ag
from toys import TabularSpace, in_fresh_process


def networks() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    return {
        "darts_cifar": (
            ag.derive(ag.spaces.darts_cifar(2, 3, auxiliary=True, stage="retrain"), ag.architectures.DARTS_V2),
            images(32),
        ),
        "nasbench201": (
            ag.derive(ag.spaces.nasbench201(4, 1), ag.random_architecture(ag.spaces.nasbench201(4, 1), seed=0)),
            images(),
        ),
        "tabular": (ag.derive(TabularSpace(), ag.random_architecture(TabularSpace(), seed=0)), torch.randn(2, 4)),
    }


@pytest.mark.parametrize("name", ["darts_cifar", "nasbench201", "tabular"])
def test_pickle_deepcopy_and_torch_save_give_the_same_network(name: str, tmp_path: Path) -> None:
    network, x = networks()[name]
    network.eval()
    torch.save(network, tmp_path / "network.pt")
    for copied in (
        pickle.loads(pickle.dumps(network)),
        copy.deepcopy(network),
        torch.load(tmp_path / "network.pt", weights_only=False),
    ):
        assert torch.equal(copied(x), network(x))


@pytest.mark.parametrize("name", ["darts_cifar", "nasbench201", "tabular"])
def test_a_state_dict_goes_into_a_network_that_is_derived_anew(name: str, tmp_path: Path) -> None:
    network, x = networks()[name]
    torch.save(network.state_dict(), tmp_path / "state.pt")
    again, _ = networks()[name]
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(again.eval()(x), network.eval()(x))


def test_a_saved_network_loads_and_runs_in_a_process_that_never_sees_a_supernet(tmp_path: Path) -> None:
    network, x = networks()["darts_cifar"]
    network.eval()
    torch.save((network, x), tmp_path / "network.pt")
    code = (
        f"import sys, torch; network, x = torch.load({str(tmp_path / 'network.pt')!r}, weights_only=False);"
        "print(network(x).flatten().tolist(), [r for r in ('supernet', 'bilevel') if f'archgrad.{r}' in sys.modules])"
    )
    assert in_fresh_process(code, hash_seed=0) == f"{network(x).flatten().tolist()} []"
