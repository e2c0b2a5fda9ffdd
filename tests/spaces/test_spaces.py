"""Laws of the shipped spaces: shapes for any image, checked options, the published macro architecture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.cell import Cell
from archgrad.errors import ArchitectureError, OptionError
from archgrad.labels import label_choices
from archgrad.operations import DARTS_PRIMITIVES
from archgrad.report import write_report


def images(size: int | tuple[int, int], channels: int, batch: int = 2) -> Tensor:
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "darts_cifar": lambda **options: ag.spaces.darts_cifar(2, 3, nodes=2, **options),
    "darts_imagenet": lambda **options: ag.spaces.darts_imagenet(2, 3, nodes=2, stage="search", **options),
    "nasbench201": lambda **options: ag.spaces.nasbench201(2, 1, **options),
    "tiny": lambda **options: ag.spaces.tiny(2, **options),
}


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize(("size", "channels", "classes"), [(8, 3, 10), (9, 1, 2), ((6, 13), 4, 1), (28, 1, 10)])
def test_images_of_any_size_and_number_of_channels_give_logits_of_any_number_of_classes(
    name: str, size: int | tuple[int, int], channels: int, classes: int
) -> None:
    supernet = ag.Supernet(BUILDERS[name](num_classes=classes, in_channels=channels)).train()
    assert supernet(images(size, channels, batch=3)).shape == (3, classes)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_space_has_a_name(name: str) -> None:
    assert BUILDERS[name](num_classes=10).space_name == name.replace("_", "-")


CELL_OPTIONS = ("channels", "cells", "num_classes", "in_channels")
BAD_OPTIONS: list[tuple[Callable[..., nn.Module], dict[str, Any], str]] = [
    *[
        (ag.spaces.darts_cifar, {name: 0}, f"{name} must be a whole number of at least 1, but got {name}=0")
        for name in CELL_OPTIONS
    ],
    (ag.spaces.darts_cifar, {"nodes": 0}, "nodes must be a whole number of at least 1, but got nodes=0"),
    (ag.spaces.darts_cifar, {"stage": "train"}, "stage must be 'search' or 'retrain', but got stage='train'"),
    (ag.spaces.darts_cifar, {"operations": "s9"}, "operations must be .*s1, s2, s3, s4, but got operations='s9'"),
    (
        ag.spaces.darts_cifar,
        {"operations": "s1", "nodes": 2},
        "for each of the 5 edges of cells of 2 nodes.*'normal': '14 edges', 'reduce': '14 edges'",
    ),
    (ag.spaces.darts_cifar, {"operations": {"normal": [["none"]] * 14}}, "of 'normal' and of 'reduce', but got"),
    (
        ag.spaces.darts_cifar,
        {"operations": dict.fromkeys(("normal", "reduce"), ["noise"] * 14)},
        "a list for each edge, but got 'noise'",
    ),
    (ag.spaces.darts_cifar, {"operations": ["sep_conv_9x9"]}, "operations must be .*but got operations='sep_conv_9x9'"),
    (ag.spaces.darts_cifar, {"auxiliary": True}, "no auxiliary head; give auxiliary=True with stage='retrain'"),
    (ag.spaces.darts_imagenet, {"channels": 3}, "channels must be even for the ImageNet stem, but got channels=3"),
    (ag.spaces.darts_imagenet, {"cells": -1}, "cells must be a whole number of at least 1, but got cells=-1"),
    *[
        (ag.spaces.nasbench201, {name: 0}, f"{name}.* must be a whole number of at least 1, but got .*{name}=0")
        for name in CELL_OPTIONS
    ],
    (ag.spaces.nasbench201, {"stage": "train"}, "stage must be 'search' or 'retrain', but got stage='train'"),
    *[
        (ag.spaces.tiny, {name: 0}, f"{name}.* must be a whole number of at least 1, but got .*{name}=0")
        for name in ("channels", "num_classes", "in_channels")
    ],
]


@pytest.mark.parametrize(("build", "options", "message"), BAD_OPTIONS)
def test_options_outside_their_range_are_errors_that_name_them(
    build: Callable[..., nn.Module], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        build(**options)


class TestDartsCifar:
    @pytest.mark.parametrize(("cells", "reductions"), [(8, [2, 5]), (20, [6, 13]), (3, [1, 2]), (2, [0, 1]), (1, [0])])
    def test_cells_at_one_third_and_two_thirds_of_the_depth_are_reductions(
        self, cells: int, reductions: list[int]
    ) -> None:
        network = ag.spaces.darts_cifar(1 if cells > 3 else 2, cells, nodes=2)
        assert [i for i, cell in enumerate(network.cells) if cell.graph.label == "reduce"] == reductions

    def test_operations_are_those_of_robust_darts_or_a_list(self) -> None:
        lists = {
            "s2": ("skip_connect", "sep_conv_3x3"),
            "s3": ("none", "skip_connect", "sep_conv_3x3"),
            "s4": ("noise", "sep_conv_3x3"),
        }
        for operations, names in [*lists.items(), (["skip_connect", "max_pool_3x3"], ("skip_connect", "max_pool_3x3"))]:
            supernet = ag.Supernet(ag.spaces.darts_cifar(2, 2, nodes=2, operations=operations))
            assert {row.names for row in supernet.rows.values()} == {names}

    def test_edges_have_candidates_of_their_own_in_s1(self) -> None:
        rows = ag.Supernet(ag.spaces.darts_cifar(2, 3, operations="s1")).rows
        names = {label: row.names for label, row in rows.items()}
        assert names["normal/0->2"] == ("skip_connect", "dil_conv_3x3")
        assert names["normal/0->4"] == ("max_pool_3x3", "skip_connect")
        assert names["normal/4->5"] == ("dil_conv_3x3", "dil_conv_5x5")
        assert names["reduce/1->2"] == ("max_pool_3x3", "dil_conv_3x3")
        assert names["reduce/1->4"] == ("max_pool_3x3", "sep_conv_3x3")
        assert names["reduce/4->5"] == ("skip_connect", "dil_conv_5x5")
        counts = {
            label: Counter(name for row, own in names.items() if row.startswith(label) for name in own)
            for label in ("normal", "reduce")
        }
        assert counts["normal"] == Counter(
            skip_connect=12, dil_conv_3x3=6, dil_conv_5x5=4, sep_conv_3x3=4, max_pool_3x3=2
        )
        assert counts["reduce"] == Counter(
            skip_connect=6, max_pool_3x3=8, avg_pool_3x3=6, dil_conv_3x3=2, dil_conv_5x5=5, sep_conv_3x3=1
        )

    @pytest.mark.parametrize("method", ["pc-darts", "darts-pt", "fair-darts", "gdas"])
    def test_a_space_whose_edges_differ_is_searched_derived_and_retrained(self, method: str, tmp_path: Path) -> None:
        data = (images(8, 3, batch=16), torch.arange(16) % 3)
        edges = {
            "normal": [
                ["skip_connect", "sep_conv_3x3"],
                ["max_pool_3x3"],
                ["none", "avg_pool_3x3"],
                ["noise"],
                ["none", "dil_conv_3x3"],
            ],
            "reduce": [["max_pool_3x3", "avg_pool_3x3", "skip_connect"]] * 5,
        }
        space = partial(ag.spaces.darts_cifar, 4, 3, num_classes=3, nodes=2, operations=edges)
        options = {"epochs": 2, "batch_size": 8, "device": "cpu", "quiet": True}
        result = ag.search(space, data, method=method, run_dir=tmp_path / "run", **options)
        for label, lists in edges.items():
            for (source, node), names in zip([(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)], lists, strict=True):
                kept = {name for name, at in result.architecture.choices[label][str(node)] if at == source}
                assert kept <= set(names) - {"none"}
        report = write_report([tmp_path / "run"])
        assert "this edge does not have the operation" in report.read_text()
        network = ag.derive(ag.spaces.darts_cifar(4, 3, num_classes=3, stage="retrain"), result.architecture)
        assert network(data[0]).shape == (16, 3)

    def test_noise_is_searched_derived_and_drawn_anew(self) -> None:
        data = (images(8, 3, batch=12), torch.arange(12) % 3)
        space = ag.spaces.darts_cifar(2, 2, num_classes=3, nodes=2, operations="s4")
        found = ag.search(space, data, epochs=1, batch_size=6, quiet=True, device="cpu").architecture
        ag.derive(space, found)(data[0])
        cell = {"2": [["noise", 0], ["sep_conv_3x3", 1]]}
        network = ag.derive(
            ag.spaces.darts_cifar(2, 2, num_classes=3, stage="retrain"), {"normal": cell, "reduce": cell}
        ).eval()
        assert network(data[0]).shape == (12, 3)
        assert not torch.equal(network(data[0]), network(data[0]))

    def test_width_doubles_and_size_halves_at_reductions(self) -> None:
        space = ag.spaces.darts_cifar(2, 3, nodes=2)
        supernet = ag.Supernet(space)
        shapes: list[tuple[int, ...]] = []
        for cell in supernet.network.cells:
            cell.register_forward_hook(lambda _m, _i, output: shapes.append(tuple(output.shape[1:])))
        supernet(images(8, 3))
        assert shapes == [(4, 8, 8), (8, 4, 4), (16, 2, 2)]

    def test_the_stem_is_three_times_as_wide_and_ends_in_an_affine_norm(self) -> None:
        stem = ag.spaces.darts_cifar(2, 3).stem
        assert [type(layer) for layer in stem] == [nn.Conv2d, nn.BatchNorm2d]
        assert stem[0].out_channels == 6
        assert stem[1].affine

    def test_two_cells_share_28_rows_of_8_candidates(self) -> None:
        supernet = ag.Supernet(ag.spaces.darts_cifar(2, 4))
        assert len(supernet.rows) == 28
        assert all(row.names == DARTS_PRIMITIVES for row in supernet.rows.values())
        assert [entry.label for entry in supernet.choices] == ["normal", "reduce", "reduce", "normal"]

    def test_edges_from_the_inputs_of_a_reduction_are_strided_and_all_others_are_not(self) -> None:
        space = ag.spaces.darts_cifar(2, 3)
        strides = {}
        for entry in label_choices(space):
            assert isinstance(entry.choice, Cell)
            for (source, node), edge in zip(entry.choice.pairs, entry.choice.edges, strict=True):
                strides[entry.label, source, node] = edge["max_pool_3x3"][0].stride
        expected = {key: 2 if key[0] == "reduce" and key[1] < 2 else 1 for key in strides}
        assert strides == expected

    def test_preprocessing_after_a_reduction_halves_the_older_input(self) -> None:
        network = ag.spaces.darts_cifar(2, 6, nodes=1)
        reduced = [type(cell.preprocess0).__name__ == "FactorizedReduce" for cell in network.cells]
        assert reduced == [False, False, False, True, False, True]  # reductions are cells 2 and 4

    def test_a_template_needs_both_cells(self) -> None:
        template = ag.spaces.darts_cifar(4, 3, stage="retrain")
        only_normal = {"normal": {"2": [["skip_connect", 0], ["skip_connect", 1]]}}
        with pytest.raises(
            ArchitectureError, match="needs the cells 'normal' and 'reduce', but the architecture has 'normal'"
        ):
            ag.derive(template, ag.Architecture(only_normal))
        with pytest.raises(ArchitectureError, match="has no choices"):
            ag.derive(template, ag.Architecture({}))

    def test_the_widths_of_a_template_follow_the_joined_nodes(self) -> None:
        skips = [["skip_connect", 0], ["skip_connect", 1]]
        cells = {"normal": {str(n): skips for n in range(2, 8)}, "reduce": {"2": skips, "3": skips, "concat": [3]}}
        network = ag.derive(ag.spaces.darts_cifar(4, 4, stage="retrain"), ag.Architecture(cells)).eval()
        shapes: list[tuple[int, ...]] = []
        for cell in network.cells:
            cell.register_forward_hook(lambda _m, _i, output: shapes.append(tuple(output.shape[1:])))
        network(images(8, 3))
        # cells 1 and 2 are reductions that join one node, cell 3 is normal and joins six
        assert shapes == [(24, 8, 8), (8, 4, 4), (16, 2, 2), (96, 2, 2)]


class TestNasBench201:
    def test_one_shared_cell_of_six_edges_with_five_operations(self) -> None:
        supernet = ag.Supernet(ag.spaces.nasbench201(2, 2))
        assert list(supernet.rows) == ["cell/0->1", "cell/0->2", "cell/1->2", "cell/0->3", "cell/1->3", "cell/2->3"]
        names = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
        assert all(row.names == names for row in supernet.rows.values())
        assert len(supernet.choices) == 6

    def test_every_edge_is_kept_and_none_may_be_derived(self) -> None:
        # the space has 5^6 = 15,625 cells: `none` is an operation as any other
        space = ag.spaces.nasbench201(2, 1, connected=False)
        supernet = ag.Supernet(space)
        with torch.no_grad():
            for alpha in supernet.alphas.values():
                alpha[0] = 5.0
        decision = ag.discretize(supernet).choices["cell"]
        assert decision == {
            "1": (("none", 0),),
            "2": (("none", 0), ("none", 1)),
            "3": (("none", 0), ("none", 1), ("none", 2)),
            "concat": (3,),
        }
        network = ag.derive(space, ag.discretize(supernet)).eval()
        assert bool(torch.isfinite(network(images(8, 3))).all())

    def test_a_node_sums_its_edges_and_the_last_is_the_output(self) -> None:
        # all skips: node 1 = x, node 2 = 2x, node 3 = x + x + 2x = 4x
        space = ag.spaces.nasbench201(2, 1)
        skips = {str(n): [["skip_connect", s] for s in range(n)] for n in (1, 2, 3)}
        network = ag.derive(space, ag.Architecture({"cell": skips}))
        x = images(4, 2)
        assert torch.allclose(network.blocks[0](x), 4.0 * x)

    def test_groups_are_16_32_and_64_wide_with_residual_reductions_between(self) -> None:
        supernet = ag.Supernet(ag.spaces.nasbench201(16, 2)).eval()
        shapes: list[tuple[int, ...]] = []
        for block in supernet.network.blocks:
            block.register_forward_hook(lambda _m, _i, output: shapes.append(tuple(output.shape[1:])))
        with torch.no_grad():
            supernet(images(8, 3, batch=1))
        assert shapes == [(16, 8, 8)] * 2 + [(32, 4, 4)] * 3 + [(64, 2, 2)] * 3

    def test_norms_on_the_edges_are_affine_in_the_retraining_stage_only(self) -> None:
        for stage, affine in (("search", False), ("retrain", True)):
            space = ag.spaces.nasbench201(2, 1, stage=stage)
            cells = [entry.choice for entry in label_choices(space)]
            norms = [m for cell in cells for m in cell.modules() if isinstance(m, nn.BatchNorm2d)]
            assert norms
            assert all(m.affine is affine for m in norms)


class TestTiny:
    def test_it_has_every_kind_of_choice_but_a_cell_and_one_is_nested(self) -> None:
        choices = {entry.label: type(entry.choice) for entry in label_choices(ag.spaces.tiny())}
        assert choices == {
            "stem": ag.LayerChoice,
            "body": ag.LayerChoice,
            "body/kernel": ag.LayerChoice,
            "join": ag.InputChoice,
        }

    def test_what_the_join_does_not_take_is_left_out(self) -> None:
        space = ag.spaces.tiny(4)
        decided = {"stem": "conv3", "body": "conv", "body/kernel": "conv3"}
        with_body = ag.derive(space, ag.Architecture({**decided, "join": [1]}))
        without = ag.derive(space, ag.Architecture({**decided, "join": [0]}))
        assert with_body.body is not None
        assert without.body is None
        assert without(images(8, 1)).shape == (2, 10)
