"""Exported networks compute what torch computes, say what they are, and hold nothing else."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from archgrad.errors import ExportError, OptionError
from archgrad.export import Exported, ModelDescription, export_onnx, export_program, load_retrained
from archgrad.export.inputs import Examples
from archgrad.export.trace import largest_difference
from archgrad.retrain import RetrainResult

from .runs import tiny_network, with_auxiliary

SMALL: dict[str, Any] = {"input_shape": (1, 6, 6), "classes": ("a", "b", "c", "é")}


def run_onnx(path: Path, inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["inputs"]
    assert [value.name for value in session.get_outputs()] == ["logits"]
    return torch.from_numpy(session.run(["logits"], {"inputs": inputs.numpy()})[0])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Exported, Exported]:
    """A network with an auxiliary head in training mode, as ONNX and as an exported program."""
    network, folder = with_auxiliary(), tmp_path_factory.mktemp("small")
    return network, export_onnx(network, folder / "a.onnx", **SMALL), export_program(network, folder / "b.pt2", **SMALL)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_onnx_of_a_trained_network_equals_torch(finished: RetrainResult, exported: Exported, batch: int) -> None:
    inputs = torch.randn(batch, 1, 8, 8)
    assert finished.run_dir is not None
    expected = load_retrained(finished.run_dir)(inputs)
    torch.testing.assert_close(run_onnx(exported.path, inputs), expected, rtol=1e-4, atol=1e-5)
    assert 0 <= exported.max_difference < 1e-4


def test_prediction_is_exported_whatever_the_mode(small: tuple[nn.Module, Exported, Exported]) -> None:
    network, onnx_file, program = small
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    inputs = torch.randn(5, 1, 6, 6)
    network.eval()
    expected = network(inputs)
    network.train()
    torch.testing.assert_close(run_onnx(onnx_file.path, inputs), expected)
    torch.testing.assert_close(torch.export.load(program.path).module()(inputs), expected)


def test_the_auxiliary_head_is_left_out(small: tuple[nn.Module, Exported, Exported]) -> None:
    _, onnx_file, program = small
    graph = onnx.load(str(onnx_file.path)).graph
    assert "auxiliary" not in " ".join(value.name for value in graph.initializer)
    assert sum(onnx.numpy_helper.to_array(value).size for value in graph.initializer) <= 3 * 9 + 3 + 4 * 3 + 12 + 4 + 8
    loaded = torch.export.load(program.path)
    assert set(loaded.state_dict) == {
        name for name in with_auxiliary().state_dict() if not name.startswith("auxiliary") and "num_batches" not in name
    }


def test_files_hold_no_source_code_and_no_path(small: tuple[nn.Module, Exported, Exported]) -> None:
    _, onnx_file, program = small
    here = str(Path(__file__).parent).encode()
    assert here not in onnx_file.path.read_bytes()
    with zipfile.ZipFile(program.path) as archive:
        assert not any(here in archive.read(name) for name in archive.namelist())


def test_the_description_travels_in_the_file_and_beside_it(exported: Exported) -> None:
    text = exported.description_path.read_text(encoding="utf-8")
    assert exported.description_path == exported.path.with_suffix(".json")
    (entry,) = onnx.load(str(exported.path)).metadata_props
    assert (entry.key, entry.value) == ("archgrad.model", text)
    assert ModelDescription.load(exported.description_path) == exported.description


def test_a_description_is_this_text() -> None:
    described = ModelDescription(classes=("cat", "é"), input_shape=(1, 8, 8), mean=(0.5,), std=(0.25,))
    assert json.loads(described.to_json()) == {
        "format": "archgrad.model",
        "version": 1,
        "input": {"name": "inputs", "shape": ["batch", 1, 8, 8], "dtype": "float32"},
        "output": {"name": "logits", "shape": ["batch", 2], "dtype": "float32"},
        "normalisation": {"pixels": [0, 1], "mean": [0.5], "std": [0.25]},
        "classes": ["cat", "é"],
    }
    assert ModelDescription.from_json(described.to_json(), where="it") == described


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "does not describe a model"),
        ({"version": 5}, "version 5, and this archgrad reads 1 to 4"),
        ({"version": 2}, "'inputs' is missing"),
        ({"classes": []}, "at least one name"),
        ({"classes": "ab"}, "classes must be a list"),
        ({"input": {"shape": ["batch", 1, 0], "dtype": "float32"}}, "each at least 1"),
        ({"input": {"shape": ["batch", 1, 8, 8], "dtype": "object"}}, "uint8 or bool, but got 'object'"),
        ({"input": {"shape": 3, "dtype": "float32"}}, "damaged"),
        ({"normalisation": {"mean": [0.5], "std": [0.0]}}, "std above 0"),
        ({"normalisation": {"mean": [0.5, 0.5, 0.5], "std": [1.0, 1.0, 1.0]}}, "per channel"),
        ({"normalisation": {"mean": ["x"], "std": [1.0]}}, "finite"),
    ],
)
def test_a_description_of_another_kind_is_refused(change: dict[str, Any], message: str) -> None:
    good = json.loads(ModelDescription(classes=("a", "b"), input_shape=(1, 8, 8)).to_json())
    text = json.dumps({**good, **change})
    with pytest.raises(ExportError, match=message):
        ModelDescription.from_json(text, where="it")


def test_what_is_no_json_is_refused() -> None:
    for text in ("", "[1]", "{", '{"format": "archgrad.model", "version": 1}', "[" * 100_000):
        with pytest.raises(ExportError, match=r"^it "):
            ModelDescription.from_json(text, where="it")


def test_a_file_that_computes_something_else_is_refused() -> None:
    network = tiny_network().eval()
    examples = Examples(shape=(1, 8, 8))
    for wrong, message in (
        (lambda x: network(x) + 0.01, "differ by up to 0.01"),
        (lambda x: network(x) * float("nan"), "differ by up to nan"),
        (lambda x: network(x)[:, :9], r"shape \(1, 9\) where"),
        (lambda x: network(x) if len(x) == 1 else network(x[:1]).expand(len(x), 10), "differ"),
    ):
        with pytest.raises(ExportError, match=message):
            largest_difference(network, wrong, examples, tolerance=1e-4, what="The file")
    assert largest_difference(network, network, examples, tolerance=1e-4, what="The file") == 0


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    network = tiny_network()
    with torch.no_grad():
        network.classifier.bias[0] = float("nan")
    with pytest.raises(ExportError, match="not written"):
        export_program(network, tmp_path / "net.pt2", input_shape=(1, 8, 8))
    assert not list(tmp_path.iterdir())


def test_both_heads_in_prediction_leave_the_first(tmp_path: Path) -> None:
    network = with_auxiliary(always=True).eval()
    file = export_program(network, tmp_path / "net.pt2", **SMALL)
    inputs = torch.randn(3, 1, 6, 6)
    torch.testing.assert_close(torch.export.load(file.path).module()(inputs), network(inputs)[0])


def test_whole_numbers_as_inputs(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(24, 2))
    file = export_onnx(network, tmp_path / "net.onnx", input_shape=(6,), input_dtype="int64")
    inputs = torch.randint(0, 9, (5, 6))
    torch.testing.assert_close(run_onnx(file.path, inputs), network(inputs))
    assert file.description.classes == ("0", "1")


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3] + torch.arange(6.0).view(2, 3)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


class NoLogits(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x}


class BranchingOfTwo(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.flatten(1) if y.sum() > 0 else -x.flatten(1)


def test_a_network_of_several_arguments_is_told_by_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="The network BranchingOfTwo cannot be written as one graph"):
        export_program(BranchingOfTwo(), tmp_path / "net.pt2", example_inputs=(torch.ones(2, 3), torch.ones(2, 3)))


@pytest.mark.parametrize("network", [FixedBatch(), Branching()])
def test_what_is_no_graph_for_any_batch_is_told(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"{type(network).__name__} cannot be written as one graph.*fixed batch size"):
        export_program(network, tmp_path / "net.pt2", input_shape=(3,))
    assert not list(tmp_path.iterdir())


def test_options_are_checked_before_the_work(tmp_path: Path) -> None:
    network = tiny_network()
    for change, message in (
        ({"path": "net.pt"}, "must end in .onnx, but got 'net.pt'"),
        ({"tolerance": 0.0}, "tolerance must be above 0"),
        ({"classes": ("a", "b")}, "logits for 10 classes, but 2 names"),
        ({"input_shape": (3, 8, 8)}, "cannot take inputs of shape"),
        ({"input_shape": ()}, "cannot take inputs of shape"),
        ({"mean": (0.5,)}, "Give both"),
        ({"input_dtype": "float64"}, "uint8 or bool, but got 'float64'"),
        ({"network": NoLogits()}, r"must return logits \(batch, classes\).*dict"),
    ):
        options: Any = {"network": network, "path": tmp_path / "net.onnx", "input_shape": (1, 8, 8), **change}
        with pytest.raises(OptionError, match=message):
            export_onnx(options.pop("network"), options.pop("path"), **options)
    assert not list(tmp_path.iterdir())


def test_an_architecture_beside_the_model_is_not_written_over(run_dir: Path) -> None:
    before = (run_dir / "architecture.json").read_bytes()
    with pytest.raises(ExportError, match="another file, which would be lost"):
        export_onnx(tiny_network(), run_dir / "architecture.onnx", input_shape=(1, 8, 8))
    assert (run_dir / "architecture.json").read_bytes() == before
    assert not (run_dir / "architecture.onnx").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_is_told_with_its_remedy(package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(OptionError, match=rf"'{package}'.*pip install 'archgrad\[onnx\]'"):
        export_onnx(tiny_network(), tmp_path / "net.onnx", input_shape=(1, 8, 8))


def test_exported_programs_need_no_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    file = export_program(nn.Linear(3, 2), tmp_path / "net.pt2", input_shape=(3,))
    extra = {"archgrad.model": ""}
    torch.export.load(file.path, extra_files=extra)
    assert extra["archgrad.model"] == file.description_path.read_text(encoding="utf-8")
