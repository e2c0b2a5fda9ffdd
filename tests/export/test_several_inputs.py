"""Networks of several inputs: tuples and dicts of tensors, exported as the network computes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from archgrad.cli import main
from archgrad.data import Data, TensorSamples
from archgrad.errors import ExportError, OptionError
from archgrad.export import ModelDescription, describe_run, export_onnx, export_program, load_retrained, predict
from archgrad.nested import placed, places, tensors_in
from archgrad.retrain import retrain

from .runs import OPTIONS


class Masked(nn.Module):
    """Takes one dict: tokens (B, 6) of int64, mask (B, 6) of bool; nothing reads the key "unused"."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.head((self.embedding(batch["tokens"]) * batch["mask"][..., None]).mean(1))


class Pair(nn.Module):
    """Takes one tuple: points (B, 5) and an image (B, 1, 4, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.points, self.image = nn.Linear(5, 3), nn.Conv2d(1, 3, 4)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        points, image = inputs
        return self.points(points) + self.image(image).flatten(1)


class TwoArguments(Pair):
    """Takes the two as arguments, as networks from elsewhere do."""

    def forward(self, points: Tensor, image: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward((points, image))


class Nested(nn.Module):
    """Takes {"a": (B, 2), "rest": ({"b": (B, 2)}, (B,))}, and returns both heads."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 3)

    def forward(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
        inner, length = x["rest"]
        return self.head(x["a"] * inner["b"]) + length[:, None], self.head(x["a"])


def masked(samples: int) -> dict[str, Tensor]:
    return {"tokens": torch.randint(0, 9, (samples, 6)), "mask": torch.rand(samples, 6) < 0.6}


def pair(samples: int) -> tuple[Tensor, Tensor]:
    return torch.randn(samples, 5), torch.randn(samples, 1, 4, 4)


def nested(samples: int) -> dict[str, Any]:
    return {"a": torch.randn(samples, 2), "rest": ({"b": torch.randn(samples, 2)}, torch.rand(samples))}


CASES = {
    "dict": (Masked, masked, ["tokens", "mask"]),
    "tuple": (Pair, pair, ["inputs.0", "inputs.1"]),
    "two arguments": (TwoArguments, pair, ["inputs.0", "inputs.1"]),
    "two arguments by name": (
        TwoArguments, lambda n: dict(zip(("image", "points"), pair(n)[::-1], strict=True)), ["image", "points"],
    ),
    "nested": (Nested, nested, ["a", "rest.0.b", "rest.1"]),
}  # fmt: skip


def called(network: nn.Module, inputs: Any) -> Tensor:
    if isinstance(network, TwoArguments):
        return network(**inputs) if isinstance(inputs, dict) else network(*inputs)
    output = network(inputs)
    return output[0] if isinstance(output, tuple) else output


def run_onnx(path: Path, inputs: Any) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    assert all(value.shape[0] == "batch" for value in session.get_inputs())
    feeds = {name: tensor.numpy() for name, tensor in zip(names, tensors_in(inputs), strict=True)}
    return torch.from_numpy(session.run(["logits"], feeds)[0])


@pytest.mark.parametrize("case", CASES)
def test_both_forms_compute_what_the_network_does_for_batches_of_any_size(case: str, tmp_path: Path) -> None:
    make, inputs_of, names = CASES[case]
    torch.manual_seed(0)
    network = make().eval()
    file = export_onnx(network, tmp_path / "net.onnx", example_inputs=inputs_of(2))
    program = export_program(network, tmp_path / "program.pt2", example_inputs=inputs_of(1))
    module = torch.export.load(program.path).module()
    assert [each.name for each in file.description.inputs] == names
    for batch in (1, 2, 7):
        inputs = inputs_of(batch)
        expected = called(network, inputs)
        torch.testing.assert_close(run_onnx(file.path, inputs), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(module(inputs), expected)
    assert ModelDescription.load(file.description_path) == file.description


def test_shapes_do_instead_of_examples(tmp_path: Path) -> None:
    network = Masked().eval()
    shapes = {"tokens": (6,), "mask": (6,)}
    types = {"tokens": "int64", "mask": "bool"}
    file = export_onnx(network, tmp_path / "net.onnx", input_shape=shapes, input_dtype=types)
    inputs = masked(4)
    torch.testing.assert_close(run_onnx(file.path, inputs), network(inputs), rtol=1e-4, atol=1e-5)
    by_example = export_onnx(network, tmp_path / "again.onnx", example_inputs=inputs)
    assert by_example.description == file.description
    assert by_example.description_path.read_text() == file.description_path.read_text()


def test_an_input_that_nothing_reads_stays_an_input(tmp_path: Path) -> None:
    inputs = {**masked(3), "unused": torch.randn(3, 2)}
    network = Masked().eval()
    file = export_onnx(network, tmp_path / "net.onnx", example_inputs=inputs)
    torch.testing.assert_close(run_onnx(file.path, inputs), network(inputs), rtol=1e-4, atol=1e-5)


def test_arrays_and_other_precisions_are_examples_too(tmp_path: Path) -> None:
    points, image = (part.double().numpy() for part in pair(3))
    file = export_program(Pair(), tmp_path / "net.pt2", example_inputs=(points, torch.from_numpy(image).half()))
    assert file.description.input_dtype == ("float32", "float32")


def test_one_example_tensor_is_as_its_shape(tmp_path: Path) -> None:
    network = nn.Linear(5, 2)
    one = export_program(network, tmp_path / "a.pt2", example_inputs=torch.randn(1, 5))
    other = export_program(network, tmp_path / "b.pt2", input_shape=(5,))
    assert one.description == other.description


def test_a_description_of_several_inputs_is_this_text() -> None:
    described = ModelDescription(
        classes=("a", "b"),
        input_shape={"tokens": (6,), "rest": ((2, 3), ())},
        input_dtype={"tokens": "int64", "rest": ("float32", "bool")},
    )
    assert json.loads(described.to_json()) == {
        "format": "archgrad.model",
        "version": 2,
        "inputs": [
            {"name": "tokens", "place": ["tokens"], "shape": ["batch", 6], "dtype": "int64"},
            {"name": "rest.0", "place": ["rest", 0], "shape": ["batch", 2, 3], "dtype": "float32"},
            {"name": "rest.1", "place": ["rest", 1], "shape": ["batch"], "dtype": "bool"},
        ],
        "output": {"name": "logits", "shape": ["batch", 2], "dtype": "float32"},
        "normalisation": None,
        "classes": ["a", "b"],
    }
    assert ModelDescription.from_json(described.to_json(), where="it") == described
    assert not described.is_image


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "do not go together"),
        ("inputs", "damaged"),
        ([{"place": [], "shape": ["batch", 2], "dtype": "bool"}] * 2, "two things stand in one place"),
        ([{"place": [1], "shape": ["batch", 2], "dtype": "bool"}], "neither keys nor positions"),
        ([{"place": ["a"] * 40, "shape": ["batch", 2], "dtype": "bool"}], "must be keys and positions"),
        ([{"place": [None], "shape": ["batch", 2], "dtype": "bool"}], "must be keys and positions"),
        ([{"place": "a", "shape": ["batch", 2], "dtype": "bool"}], "must have place, shape and dtype"),
        ([{"place": ["a"], "shape": ["batch", 0], "dtype": "bool"}], "each at least 1"),
        ([{"place": ["a"], "shape": ["batch", 2], "dtype": ["bool"]}], "uint8 or bool, but got"),
        ([{"place": [name], "shape": ["batch"], "dtype": "bool"} for name in ("a", 0)], "neither keys nor positions"),
    ],
)
def test_a_description_that_is_none_is_refused(inputs: Any, message: str) -> None:
    good = json.loads(ModelDescription(classes=("a",), input_shape={"a": (2,)}).to_json())
    with pytest.raises(ExportError, match=message):
        ModelDescription.from_json(json.dumps({**good, "inputs": inputs}), where="it")


def test_what_cannot_be_examples_is_refused(tmp_path: Path) -> None:
    for options, message in (
        ({}, "but got neither"),
        ({"input_shape": (5,), "example_inputs": torch.ones(2, 5)}, "but got both"),
        ({"example_inputs": torch.ones(2, 5), "input_dtype": "bool"}, "input_dtype goes without them"),
        ({"example_inputs": (torch.ones(2, 5), torch.ones(3, 5))}, r"as many samples each.*\[2, 3\]"),
        ({"example_inputs": torch.ones(0, 5)}, "at least 1"),
        ({"example_inputs": {"a": "text"}}, "among them is 'text'"),
        ({"example_inputs": torch.ones(())}, r"must be a batch \(B, ...\)"),
        ({"example_inputs": {1: torch.ones(2)}}, "need keys of text, but got 1"),
        ({"example_inputs": {"a.b": torch.ones(2), "a": {"b": torch.ones(2)}}}, "a name of its own"),
        ({"example_inputs": torch.ones(2, dtype=torch.int16)}, "uint8 or bool, but got 'int16'"),
        ({"input_shape": {"a": (2,)}, "input_dtype": ("bool",)}, "input_dtype must be one type, or one for each"),
        ({"input_shape": {"a": 2}}, "must be sizes, or a tuple or dict of such, but among it is 2"),
        ({"input_shape": {"a": (5,), "b": (4,)}}, r"cannot take inputs of shape a \(batch, 5\), b \(batch, 4\)"),
    ):
        with pytest.raises(OptionError, match=message):
            export_program(Pair(), tmp_path / "net.pt2", **options)
    assert not list(tmp_path.iterdir())


def test_places_are_those_of_the_parts() -> None:
    value = {"a": 1, "b": [2, {"c": 3}]}
    assert list(places(value)) == [(("a",), 1), (("b", 0), 2), (("b", 1, "c"), 3)]
    assert placed(places(value)) == {"a": 1, "b": (2, {"c": 3})}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """The run folder of a network of dicts, and the network; not to be changed."""
    folder = tmp_path_factory.mktemp("masked")
    torch.manual_seed(0)
    inputs = masked(40)
    network = Masked()
    samples = TensorSamples(inputs, inputs["tokens"][:, 0] % 3)
    retrain(network, Data.from_datasets(samples, samples), run_dir=folder / "run", **OPTIONS)
    return folder / "run", network


def test_a_run_on_nested_data_tells_its_inputs(trained: tuple[Path, nn.Module], tmp_path: Path) -> None:
    run, network = trained
    described = describe_run(run)
    assert (described.input_shape, described.input_dtype) == (
        {"tokens": (6,), "mask": (6,)},
        {"tokens": "int64", "mask": "bool"},
    )
    loaded = load_retrained(run, space=network)
    file = export_onnx(loaded, tmp_path / "net.onnx", input_shape=described.input_shape,
                       input_dtype=described.input_dtype, classes=described.classes)  # fmt: skip
    inputs = masked(5)
    torch.testing.assert_close(run_onnx(file.path, inputs), network(inputs), rtol=1e-4, atol=1e-5)
    with pytest.raises(ExportError, match="image files cannot be brought to it"):
        predict(file.path, ["none.png"])


OWN = """
import torch
from torch import nn

import archgrad as ag


class Net(nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, width), nn.Linear(width, 2)
        self.f = ag.LayerChoice({"relu": nn.ReLU(), "tanh": nn.Tanh()}, label="f")

    def forward(self, batch):
        return self.head(self.f(self.embedding(batch["tokens"]) * batch["mask"][..., None]).mean(1))


def words(length: int = 6):
    x = {"tokens": torch.randint(0, 9, (48, length)), "mask": torch.rand(48, length) < 0.6}
    return x, x["tokens"][:, 0] % 2
"""


def test_what_was_searched_on_data_of_one_s_own_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    own = ["--space", "own.py:Net", "--data", "own.py:words"]
    quick = ["--epochs", "1", "--batch-size", "16", "--quiet", "--device", "cpu"]
    assert main(["search", *own, "--data.length", "5", "--space.width", "3", *quick, "--out", "s"]) == 0
    assert main(["retrain", "--arch", "s", *own, *quick, "--drop-path", "0", "--out", "r"]) == 0
    exporting = ["export", "r", "--space", "own.py:Net", "--onnx"]
    assert main([*exporting, "told.onnx"]) == 0
    assert "IMAGE" not in capsys.readouterr().out
    summary = json.loads(Path("r/summary.json").read_text())
    assert summary.pop("inputs") == [
        {"place": ["tokens"], "shape": [5], "dtype": "int64"},
        {"place": ["mask"], "shape": [5], "dtype": "bool"},
    ]
    Path("r/summary.json").write_text(json.dumps(summary))  # as runs of older versions are
    assert main([*exporting, "no.onnx"]) == 2
    assert "(--data), or the shape of each tensor (--input-shape" in capsys.readouterr().err
    assert main([*exporting, "by_data.onnx", "--data", "own.py:words"]) == 0  # with --data.length 5, as the run had
    shapes = ["--input-shape", "tokens=5:int64", "--input-shape", "mask=5:bool"]
    assert main([*exporting, "by_shape.onnx", *shapes]) == 0
    inputs = {"tokens": torch.randint(0, 9, (7, 5)), "mask": torch.rand(7, 5) < 0.6}
    logits = [run_onnx(Path(f"{name}.onnx"), inputs) for name in ("told", "by_data", "by_shape")]
    torch.testing.assert_close(logits[1], logits[0])
    torch.testing.assert_close(logits[2], logits[0])
    for typed, message in (
        ([*shapes, "--data", "own.py:words"], "does not go with --input-shape"),
        (["--data.length", "5"], "--data.length goes with --data FILE.py:NAME"),
        (["--input-shape", "5by5"], "--input-shape takes sizes such as 3x32x32"),
        (["--input-shape", "a=5", "--input-shape", "a=5"], "two things stand in one place"),
    ):
        assert main([*exporting, "no.onnx", *typed]) == 2
        assert message in capsys.readouterr().err
    assert not Path("no.onnx").exists()


def test_a_data_set_of_arrays_tells_its_inputs(tmp_path: Path) -> None:
    class Arrays(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            return np.full(5, index / 40), index % 2

    network = nn.Linear(5, 2)
    retrain(network, Arrays(), run_dir=tmp_path / "run", **OPTIONS)
    assert describe_run(tmp_path / "run") == ModelDescription(classes=("0", "1"), input_shape=(5,))
