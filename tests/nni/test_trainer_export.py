"""The dict of `export` has the shape of NNI 2.4, and says what `discretize` says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from nni_problems import trainer
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import archgrad as ag
from archgrad.errors import ArchitectureError, SpaceError
from archgrad.nni.export import export

OPERATIONS = {"maxpool", "avgpool", "skipconnect", "sepconv3x3", "sepconv5x5", "dilconv3x3", "dilconv5x5"}


def paper() -> ag.DartsTrainer:
    dataset = TensorDataset(torch.randn(16, 3, 8, 8), torch.arange(16) % 2)
    return trainer(ag.spaces.darts_cifar(channels=2, cells=3, num_classes=2), dataset=dataset)


def draw(made: ag.DartsTrainer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for alpha in made.supernet.alphas.values():
            alpha.copy_(torch.randn(alpha.shape, generator=generator))


@pytest.fixture(scope="module")
def made() -> ag.DartsTrainer:
    return paper()


@pytest.mark.parametrize("seed", range(20))
def test_what_is_exported_reads_back_as_what_discretize_says(made: ag.DartsTrainer, seed: int) -> None:
    draw(made, seed)
    exported = json.loads(json.dumps(made.export()))
    expected = ag.discretize(made.supernet, space="darts-cifar")
    assert ag.Architecture.from_nni(exported) == expected
    assert made.architecture() == expected


def test_a_file_of_an_export_loads(made: ag.DartsTrainer, tmp_path: Path) -> None:
    draw(made, 0)
    (tmp_path / "checkpoint.json").write_text(json.dumps(made.export()))
    assert ag.Architecture.load(tmp_path / "checkpoint.json") == made.architecture()


@pytest.mark.shared
def test_keys_and_kinds_are_those_of_a_file_of_nni_2_4(made: ag.DartsTrainer, shared_dir: Path) -> None:
    theirs = json.loads((shared_dir / "golden" / "nni" / "v2.4_checkpoint.json").read_text())
    ours = made.export()
    assert list(ours) == list(theirs)
    assert {key: type(value) for key, value in ours.items()} == {key: type(value) for key, value in theirs.items()}


def test_every_edge_tells_its_likeliest_operation_but_never_none(made: ag.DartsTrainer) -> None:
    draw(made, 0)
    with torch.no_grad():
        for alpha in made.supernet.alphas.values():
            alpha[0] = 10.0  # none
        made.supernet.alphas["normal/0->2"][5] = 9.0
    exported = made.export()
    edges = {value for key, value in exported.items() if not key.endswith("_switch")}
    assert edges <= OPERATIONS
    assert exported["normal_n2_p0"] == "sepconv5x5"


def test_a_switch_lists_the_kept_sources_best_first(made: ag.DartsTrainer) -> None:
    with torch.no_grad():
        for alpha in made.supernet.alphas.values():
            alpha.zero_()
        made.supernet.alphas["reduce/3->5"][4] = 3.0
        made.supernet.alphas["reduce/1->5"][4] = 2.0
    assert made.export()["reduce_n5_switch"] == [3, 1]
    assert made.export()["normal_n5_switch"] == [0, 1]  # of equals the first


class Own(nn.Module):
    def __init__(self, layer: str = "layer") -> None:
        super().__init__()
        inner = ag.LayerChoice([nn.Linear(4, 4), nn.Identity()], label="inner")
        self.layer = ag.LayerChoice({"nested": inner, "max_pool_3x3": nn.Identity()}, label=layer)
        self.join = ag.InputChoice(n_candidates=3, n_chosen=2, label="join")
        self.cell = ag.Cell(
            2, {"none": lambda s, n: nn.Dropout(1.0), "my_op": lambda s, n: nn.Identity()}, n_inputs=1, label="mine"
        )
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return self.head(self.cell([self.join([x, y, 2 * x])]))


def own(**options: str) -> ag.DartsTrainer:
    dataset = TensorDataset(torch.randn(16, 4), torch.arange(16) % 2)
    return trainer(Own(**options), loss=nn.CrossEntropyLoss(), dataset=dataset)


def test_a_cell_that_gives_out_its_last_node_is_exported_by_its_nodes_alone() -> None:
    cell = ag.Cell(2, {"my_op": lambda s, n: nn.Identity()}, n_inputs=1, n_kept=1, output="last", label="mine")
    supernet = ag.Supernet(cell)
    with torch.no_grad():
        for alpha in supernet.alphas.values():
            alpha.zero_()
    exported = export(supernet)
    edges = dict.fromkeys(("mine_n1_p0", "mine_n2_p0", "mine_n2_p1"), "my_op")
    assert exported == edges | {"mine_n1_switch": [0], "mine_n2_switch": [0]}
    assert ag.derive(cell, ag.Architecture.from_nni(exported))([torch.ones(1)]).tolist() == [1.0]


def test_choices_of_an_own_space_are_exported_by_label() -> None:
    made = own()
    with torch.no_grad():
        made.supernet.alphas["layer"].copy_(torch.tensor([0.0, 1.0]))
        made.supernet.alphas["inner"].copy_(torch.tensor([1.0, 0.0]))
        made.supernet.alphas["join"].copy_(torch.tensor([0.3, 0.1, 0.5]))
        for label in ("mine/0->1", "mine/0->2", "mine/1->2"):
            made.supernet.alphas[label].zero_()
        made.supernet.alphas["mine/1->2"][1] = 1.0
    assert made.export() == {
        "layer": "max_pool_3x3",  # outside a cell a name stays as the user wrote it
        "inner": "0",  # inside a candidate that was not taken: exported, but not part of the architecture
        "mine_n1_p0": "my_op",
        "mine_n2_p0": "my_op",
        "mine_n2_p1": "my_op",
        "join": [2, 0],
        "mine_n1_switch": [0],
        "mine_n2_switch": [1, 0],
    }
    assert made.architecture().choices["join"] == (0, 2)
    assert "inner" not in made.architecture().choices


def test_export_before_fit_is_of_the_initial_alphas_and_changes_nothing() -> None:
    made = own()
    first = ag.discretize(ag.Supernet(Own(), seed=0))
    assert made.architecture() == first
    assert made.export() == made.export()
    assert made.history == []
    made.fit()
    assert made.architecture().provenance["epoch"] == 0
    assert [row["epoch"] for row in made.history] == [0]


def test_what_properties_return_cannot_be_set_and_history_is_a_copy() -> None:
    made = own()
    made.fit()
    made.history[0]["epoch"] = 7
    assert made.history[0]["epoch"] == 0
    for name in ("supernet", "history"):
        with pytest.raises(AttributeError):
            setattr(made, name, None)


def test_two_choices_with_the_same_key_are_an_error_at_once() -> None:
    with pytest.raises(SpaceError, match="'mine_n2_p1'"):
        own(layer="mine_n2_p1")


def test_what_is_exported_of_a_cell_that_would_be_cut_is_what_is_derived() -> None:
    supernet = ag.Supernet(ag.spaces.nasbench201(4, 1, 3))
    with torch.no_grad():
        for alpha in supernet.alphas.values():
            alpha.copy_(torch.tensor([9.0, 0.0, 0.0, 1.0, 0.0]))
    exported = export(supernet)
    decision = ag.discretize(supernet).choices["cell"]
    assert {f"cell_n{node}_p{e.source}": e.operation for node in ("1", "2", "3") for e in decision[node]} == {
        key: value for key, value in exported.items() if not key.endswith("switch")
    }
    assert "nor_conv_3x3" in exported.values()


class OwnCells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        candidates = {"skip_connect": lambda s, n: nn.Identity(), "double": lambda s, n: Doubled()}
        self.stem = ag.LayerChoice({"a.b": nn.Linear(4, 4), "tanh": nn.Tanh()}, label="stem/0")
        self.cell = ag.Cell(3, candidates, n_inputs=1, n_kept=2, label="my_n2_cell")
        self.join = ag.InputChoice(n_candidates=3, n_chosen=2, label="join")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.join([x, 2 * x, self.cell([x])[:, :4]])


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@pytest.mark.parametrize("seed", range(4))
def test_an_export_of_a_space_of_ones_own_loads_and_derives(seed: int, tmp_path: Path) -> None:
    supernet = ag.Supernet(OwnCells(), seed=seed)
    (tmp_path / "export.json").write_text(json.dumps(export(supernet)), encoding="utf-8")
    loaded = ag.Architecture.load(tmp_path / "export.json")
    assert loaded.choices == ag.discretize(supernet).choices
    assert ag.derive(OwnCells(), loaded)(torch.randn(2, 4)).shape == (2, 4)
    assert ag.Architecture.from_nni(export(supernet)) == loaded


@pytest.mark.parametrize("data", [{}, {"a": ""}, {"a": []}, {"a": [0.5]}, {"a": True}, {"a": {"b": "c"}}, {"a": [-1]}])
def test_what_is_no_export_is_still_refused(data: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ArchitectureError):
        ag.Architecture.load(tmp_path / "file.json")
