"""The paper's retraining networks: published cells, drop path, auxiliary head, image sizes."""

from __future__ import annotations

import pytest
import torch
from derived_networks import images, open_choices, parameters_without_gradient
from torch import nn

import archgrad as ag
from archgrad.errors import ArchitectureError, SpaceError
from archgrad.operations import ConvPair, DropPath, FactorizedReduce, SepConv

PUBLISHED = ("DARTS_V1", "DARTS_V2", "NASNet", "AmoebaNet", "PC_DARTS_cifar")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cells_run_and_use_every_parameter(name: str) -> None:
    template = ag.spaces.darts_cifar(4, 5, 7, auxiliary=True, stage="retrain")
    network = ag.derive(template, getattr(ag.architectures, name))
    assert open_choices(network) == []
    assert parameters_without_gradient(network, images(32)) == []
    assert network.eval()(images(32)).shape == (2, 7)


def test_nasnet_and_amoebanet_have_their_operations_and_joined_nodes() -> None:
    for architecture in (ag.architectures.NASNet, ag.architectures.AmoebaNet):
        network = ag.derive(ag.spaces.darts_cifar(4, 3, stage="retrain"), architecture)
        cells = dict(zip(("normal", "reduce", "reduce"), network.cells, strict=True))
        for label, cell in cells.items():
            decision = architecture.choices[label]
            nodes = [int(node) for node in decision if node != "concat"]
            assert cell.graph.concat == tuple(decision.get("concat", nodes))
    kernels = [m.op[1].kernel_size for m in network.modules() if isinstance(m, SepConv)]
    nasnet = ag.derive(ag.spaces.darts_cifar(4, 3, stage="retrain"), ag.architectures.NASNet)
    assert (7, 7) in [m.op[1].kernel_size for m in nasnet.modules() if isinstance(m, SepConv)]
    assert (7, 7) in kernels or any(isinstance(m, ConvPair) for m in network.modules())


@pytest.mark.parametrize("size", [4, 5, 7, 8, 9, 13, 28, 32, (6, 9), (17, 8)])
@pytest.mark.parametrize("name", ["DARTS_V2", "NASNet"])
def test_images_of_any_size_odd_ones_too(name: str, size: int | tuple[int, int]) -> None:
    template = ag.spaces.darts_cifar(4, 3, 5, auxiliary=True, in_channels=2, stage="retrain")
    network = ag.derive(template, getattr(ag.architectures, name)).train()
    logits, auxiliary = network(images(size, channels=2))
    assert logits.shape == auxiliary.shape == (2, 5)
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize(("size", "map_size"), [(8, 2), (28, 7), (32, 8), (64, 16)])
def test_the_auxiliary_head_pools_an_8x8_map_as_the_authors_do_and_any_other_adaptively(
    size: int, map_size: int
) -> None:
    template = ag.spaces.darts_cifar(2, 3, 5, auxiliary=True, stage="retrain")
    network = ag.derive(template, ag.architectures.DARTS_V2).train()
    head = network.auxiliary_head
    seen = []
    head.features[2].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    maps = []
    head.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    network(images(size))
    assert maps[0].shape[-2:] == (map_size, map_size)
    assert seen[0].shape[-2:] == (2, 2)
    relu = maps[0].relu()
    pooled = nn.functional.avg_pool2d(relu, 5, 3) if map_size == 8 else nn.functional.adaptive_avg_pool2d(relu, 2)
    assert torch.equal(seen[0], pooled)


def test_the_auxiliary_head_speaks_only_while_training() -> None:
    template = ag.spaces.darts_cifar(2, 3, 5, auxiliary=True, stage="retrain")
    network = ag.derive(template, ag.architectures.DARTS_V2)
    assert isinstance(network.train()(images(32)), tuple)
    assert isinstance(network.eval()(images(32)), torch.Tensor)
    assert [name for name, _ in network.named_children() if "aux" in name] == ["auxiliary_head"]


def test_the_imagenet_network_reduces_eightfold_before_its_cells_and_leaves_one_norm_out() -> None:
    template = ag.spaces.darts_imagenet(4, 3, 5, auxiliary=True)
    network = ag.derive(template, ag.architectures.DARTS_V2).train()
    shapes = []
    network.cells[0].register_forward_pre_hook(lambda _, inputs: shapes.extend(x.shape[-1] for x in inputs))
    logits, auxiliary = network(images(64))
    assert shapes == [16, 8]
    assert logits.shape == auxiliary.shape == (2, 5)
    norms = [m for m in network.auxiliary_head.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 1
    cifar = ag.derive(ag.spaces.darts_cifar(4, 3, auxiliary=True, stage="retrain"), ag.architectures.DARTS_V2)
    assert len([m for m in cifar.auxiliary_head.modules() if isinstance(m, nn.BatchNorm2d)]) == 2


def drop(network: nn.Module, p: float) -> None:
    for module in network.modules():
        if isinstance(module, DropPath):
            module.p = p


def test_drop_path_starts_at_zero_and_needs_no_attribute_set_before_the_first_pass() -> None:
    network = ag.derive(ag.spaces.darts_cifar(4, 3, stage="retrain"), ag.architectures.DARTS_V2).train()
    paths = [m for m in network.modules() if isinstance(m, DropPath)]
    assert len(paths) == 3
    assert {path.p for path in paths} == {0.0}
    assert torch.equal(network(images()), network(images()))


def test_drop_path_acts_while_training_only() -> None:
    network = ag.derive(ag.spaces.darts_cifar(4, 3, stage="retrain"), ag.architectures.DARTS_V2)
    drop(network, 0.5)
    network.train()
    assert not torch.equal(network(images(batch=8)), network(images(batch=8)))
    network.eval()
    assert torch.equal(network(images()), network(images()))


def test_drop_path_spares_the_identity_but_not_a_strided_skip() -> None:
    # with p = 1 only identities are left: a normal cell of skips passes its input, a reduction of skips gives zeros
    skips = {label: {"2": [["skip_connect", 0], ["skip_connect", 1]]} for label in ("normal", "reduce")}
    network = ag.derive(ag.spaces.darts_cifar(4, 3, stage="retrain"), ag.Architecture(skips)).train()
    drop(network, 1.0)
    states = [torch.randn(2, 12, 8, 8), torch.randn(2, 12, 8, 8)]
    normal, reduction, _ = network.cells
    assert normal(*states).abs().sum() > 0
    assert any(isinstance(m, FactorizedReduce) for m in reduction.graph.operations.values())
    outputs = reduction(states[0], normal(*states))
    assert outputs.shape == (2, 8, 4, 4)
    assert outputs.abs().sum() == 0


def test_the_search_network_has_neither_drop_path_nor_affine_norms_in_its_cells_but_norms_after_pools() -> None:
    search = ag.spaces.darts_cifar(2, 3)
    assert not any(isinstance(m, DropPath) for m in search.modules())
    norms = [m for m in search.cells.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.affine for m in norms)
    retrain = ag.derive(ag.spaces.darts_cifar(2, 3, stage="retrain"), ag.architectures.DARTS_V2)
    assert all(m.affine for m in retrain.modules() if isinstance(m, nn.BatchNorm2d))


def test_the_widths_follow_the_nodes_that_have_edges() -> None:
    # FairDARTS may leave a node without edges; the cells' outputs are then narrower by its channels.
    sparse = ag.architectures.DARTS_V1.to_dict()["choices"]
    sparse["normal"] |= {"4": [], "5": [["sep_conv_3x3", 2]]}
    sparse["reduce"] |= {"3": []}
    sparse["reduce"]["5"] = [["skip_connect", 2]]
    sparse["reduce"]["4"] = [["max_pool_3x3", 0]]
    architecture = ag.Architecture.from_json(ag.Architecture(sparse, space="darts-cifar").to_json())
    network = ag.derive(ag.spaces.darts_cifar(4, 3, auxiliary=True, stage="retrain"), architecture)
    assert network.classifier.in_features == 3 * 16
    logits, auxiliary = network.train()(images())
    (logits.sum() + auxiliary.sum()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    with pytest.raises(ArchitectureError, match="node 4 of 'normal' has"):
        architecture.to_genotype()


def test_a_template_that_is_called_says_what_to_do() -> None:
    with pytest.raises(SpaceError, match=r"archgrad\.derive\(space, architecture\)"):
        ag.spaces.darts_cifar(4, 3, stage="retrain")(images())


def test_one_template_serves_any_number_of_architectures() -> None:
    template = ag.spaces.darts_cifar(4, 3, stage="retrain")
    counts = {
        name: sum(p.numel() for p in ag.derive(template, getattr(ag.architectures, name)).parameters())
        for name in PUBLISHED
    }
    assert len(set(counts.values())) == len(PUBLISHED)
