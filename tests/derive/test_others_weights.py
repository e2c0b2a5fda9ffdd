"""Trained weights of pt.darts and of NNI's hub: networks of the same layers, written here under their names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archgrad as ag
from archgrad import official
from archgrad.errors import ArchitectureError, SpaceError
from archgrad.operations import ConvPair

PAIRS = (
    "('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_3x3', 0), ('max_pool_3x3', 2)",
    "('skip_connect', 0), ('avg_pool_3x3', 1), ('sep_conv_5x5', 2), ('dil_conv_5x5', 1)",
)
GENOTYPE = f"Genotype(normal=[{PAIRS[0]}], normal_concat=range(2, 4), reduce=[{PAIRS[1]}], reduce_concat=range(2, 4))"


def conv(channels: int, size: int, stride: int, dilation: int = 1) -> nn.Sequential:
    """ReLU, depthwise, pointwise, BatchNorm."""
    padding = dilation * (size // 2)
    depthwise = nn.Conv2d(channels, channels, size, stride, padding, dilation=dilation, groups=channels, bias=False)
    return nn.Sequential(nn.ReLU(), depthwise, nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))


class Net(nn.Module):
    """A part whose layers are called `net`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Halving(nn.Module):
    def __init__(self, c_in: int, c_out: int, names: tuple[str, str]) -> None:
        super().__init__()
        self.names = names
        for name in names:
            self.add_module(name, nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False))
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (self.get_submodule(name) for name in self.names)
        return self.bn(torch.cat([first(x.relu()), second(x.relu()[:, :, 1:, 1:])], 1))


class PoolNorm(nn.Module):
    def __init__(self, pool: nn.Module, channels: int) -> None:
        super().__init__()
        self.pool, self.bn = pool, nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.pool(x))


def pool(name: str, stride: int) -> nn.Module:
    if name.startswith("max"):
        return nn.MaxPool2d(3, stride, 1)
    return nn.AvgPool2d(3, stride, 1, count_include_pad=False)


def pt_darts_operation(name: str, channels: int, stride: int) -> nn.Module:
    kind, size = name[:3], int(name[-1]) if name[-1].isdigit() else 0
    if kind == "sep":
        made: nn.Module = Net(nn.Sequential(Net(conv(channels, size, stride)), Net(conv(channels, size, 1))))
    elif kind == "dil":
        made = Net(conv(channels, size, stride, 2))
    elif kind == "ski":
        if stride == 1:
            return nn.Identity()
        made = Halving(channels, channels, ("conv1", "conv2"))
    else:
        made = PoolNorm(pool(name, stride), channels)
    return nn.Sequential(made, nn.Identity())  # their drop path


def hub_operation(name: str, channels: int, stride: int) -> nn.Module:
    kind, size = name[:3], int(name[-1]) if name[-1].isdigit() else 0
    if kind == "sep":
        return nn.Sequential(*conv(channels, size, stride), *conv(channels, size, 1))
    if kind == "dil":
        return conv(channels, size, stride, 2)
    if kind == "ski":
        return nn.Identity() if stride == 1 else Halving(channels, channels, ("conv_1", "conv_2"))
    return pool(name, stride)


def squeeze(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out))


class Cell(nn.Module):
    def __init__(self, c_pp: int, c_p: int, channels: int, reduction: bool, halved: bool, hub: bool) -> None:
        super().__init__()
        names = ("conv_1", "conv_2") if hub else ("conv1", "conv2")
        first = Halving(c_pp, channels, names) if halved else squeeze(c_pp, channels)
        second: nn.Module = squeeze(c_p, channels)
        if hub:
            self.preprocessor = nn.ModuleDict({"pre0": first, "pre1": second})
        else:
            self.preproc0 = first if halved else Net(first)
            self.preproc1 = Net(second)
        self.hub = hub
        edges = eval(f"[{PAIRS[reduction]}]")
        self.sources = [source for _, source in edges]
        make: Callable[[str, int, int], nn.Module] = hub_operation if hub else pt_darts_operation
        built = [make(name, channels, 2 if reduction and source < 2 else 1) for name, source in edges]
        rows = nn.ModuleList(nn.ModuleList(built[place : place + 2]) for place in (0, 2))
        self.add_module("ops" if hub else "dag", rows)
        self.rows = [list(row) for row in rows]

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        if self.hub:
            states = [self.preprocessor["pre0"](s0), self.preprocessor["pre1"](s1)]
        else:
            states = [self.preproc0(s0), self.preproc1(s1)]
        for node, row in enumerate(self.rows):
            states.append(sum(op(states[self.sources[2 * node + k]]) for k, op in enumerate(row)))
        return torch.cat(states[2:], 1)


class Network(nn.Module):
    """Four cells: normal, reduction, reduction, normal, at 2 channels."""

    def __init__(self, hub: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        cells, c_pp, c_p, channels, halved = [], 6, 6, 2, False
        for place in range(4):
            reduction = place in (1, 2)
            channels *= 2 if reduction else 1
            cells.append(Cell(c_pp, c_p, channels, reduction, halved, hub))
            c_pp, c_p, halved = c_p, 2 * channels, reduction
        if hub:  # stages of 1, 1 and 2 cells
            self.stages = nn.ModuleList(nn.ModuleList(part) for part in (cells[:1], cells[1:2], cells[2:]))
            self.classifier = nn.Linear(c_p, 5)
        else:
            self.cells = nn.ModuleList(cells)
            self.linear = nn.Linear(c_p, 5)
        self.in_order = [cells]

    def forward(self, x: Tensor) -> Tensor:
        s0 = s1 = self.stem(x)
        for cell in self.in_order[0]:
            s0, s1 = s1, cell(s0, s1)
        head = self.classifier if hasattr(self, "classifier") else self.linear
        return head(F.adaptive_avg_pool2d(s1, 1).flatten(1))


@pytest.fixture(scope="module", params=["pt.darts", "hub"])
def theirs(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    network = Network(hub=request.param == "hub")
    network(torch.randn(4, 3, 8, 8))  # so that statistics are not those of the start
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight)
    return network.eval()


def test_a_network_with_their_weights_computes_what_theirs_does(theirs: nn.Module) -> None:
    saved = {"state_dict": {f"module.{name}": value for name, value in theirs.state_dict().items()}}
    own = official.read_network(saved, GENOTYPE).eval()
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(own(x), theirs(x))
    assert all(not isinstance(module, ag.LayerChoice) for module in own.modules())


def test_weights_of_another_architecture_are_refused(theirs: nn.Module) -> None:
    other = GENOTYPE.replace("('dil_conv_3x3', 0)", "('sep_conv_3x3', 0)")
    with pytest.raises(ArchitectureError, match="does not fit this network"):
        official.read_network(theirs.state_dict(), other)


def test_pools_with_a_batch_norm_have_no_form_of_the_authors() -> None:
    network = official.read_network(Network(hub=False).state_dict(), GENOTYPE)
    with pytest.raises(SpaceError, match=r"pt\.darts"):
        official.network_to_state_dict(network)


def test_a_network_of_the_authors_tells_its_sizes() -> None:
    space = ag.spaces.darts_cifar(2, 4, 5, in_channels=1, auxiliary=True, stage="retrain")
    network = ag.derive(space, ag.architectures.AmoebaNet)
    own = official.read_network(official.network_to_state_dict(network), ag.architectures.AmoebaNet)
    assert own.state_dict().keys() == network.state_dict().keys()
    assert any(isinstance(module, ConvPair) for module in own.modules())  # whose names lack `op` there


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (nn.Linear(1, 1), "a state dict, name -> tensor"),
        ({}, "a state dict"),
        ({"layer.weight": torch.ones(1)}, "not those of the authors"),
        ({"cells.0.dag.9.0.net.1.weight": torch.ones(1)}, "a node 11 in cell 0"),
        ({"cells.0._ops.0.op.1.weight": torch.ones(1)}, "has the weights 'stem.0.weight'"),
    ],
)
def test_what_is_no_trained_network_is_refused(saved: object, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        official.read_network(saved, GENOTYPE)  # type: ignore[arg-type]


def test_a_search_of_a_fork_that_saves_its_alphas_is_read() -> None:
    supernet = ag.Supernet(ag.spaces.darts_cifar(2, 1, 5), seed=1)
    state, normal, reduce = official.to_official(supernet)
    read = official.read_supernet({**state, "alphas_normal": normal, "alphas_reduce": reduce})
    assert ag.discretize(read) == ag.discretize(supernet)
    with pytest.raises(ArchitectureError, match="have no alphas_normal"):
        official.read_supernet(state)
