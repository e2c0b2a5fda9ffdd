"""What is read from the launchers."""

from __future__ import annotations

import pytest
import torch

from archgrad.distributed.launch import Launch, find_launch, own_device, restarted
from archgrad.distributed.sync_batchnorm import SynchronisedBatchNorm2d, synchronised_norms
from archgrad.errors import OptionError

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_JOB_NAME": "search",
    "SLURM_NODELIST": "node[7-8]",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *SLURM, "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


def test_torchrun_says_where_a_process_stands() -> None:
    assert find_launch(TORCHRUN) == Launch(rank=3, world_size=4, local_rank=1, address="host", port=29500)


def test_no_launcher_and_one_process_are_no_launch() -> None:
    assert find_launch({}) is None
    assert find_launch(TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"}) is None


def test_slurm_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    # SLURM gives no port; lightning-fabric takes 15000 and the job's last four digits.
    assert find_launch() == Launch(rank=3, world_size=4, local_rank=1, address="node7", port=15000 + 3456)


@pytest.mark.parametrize("change", [{"RANK": "4"}, {"RANK": "-1"}, {"WORLD_SIZE": "many"}])
def test_settings_that_cannot_be_are_refused(change: dict[str, str]) -> None:
    with pytest.raises(OptionError, match="Start"):
        find_launch(TORCHRUN | change)


def test_a_restart_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not restarted()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert not restarted()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert restarted()


def test_each_process_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_device("auto") == "auto"
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device("auto") == own_device("cuda") == own_device("cuda:1") == torch.device("cuda", 1)
    assert own_device("cpu") == "cpu"
    with pytest.raises(OptionError, match="would be shared by the 4 processes"):
        own_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(OptionError, match="has 1 GPUs"):
        own_device("auto")


def test_one_process_keeps_its_norms_and_unknown_ones_are_refused() -> None:
    class OwnNorm(torch.nn.BatchNorm2d):
        pass

    network = torch.nn.Sequential(torch.nn.BatchNorm2d(2))
    with synchronised_norms(network, enabled=True):
        assert type(network[0]) is torch.nn.BatchNorm2d
    network.append(OwnNorm(2))
    with pytest.raises(OptionError, match="OwnNorm"), synchronised_norms(network, enabled=True):
        pass
    with synchronised_norms(network, enabled=False):
        assert not isinstance(network[0], SynchronisedBatchNorm2d)
