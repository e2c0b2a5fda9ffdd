"""Predictions on image files are those that the network makes in retraining; what is no image or model is refused."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from archgrad import spaces
from archgrad.data import Augmentation, Data, TensorSamples, evaluation_batches, load
from archgrad.errors import DataError, ExportError, OptionError
from archgrad.export import Exported, ModelDescription, predict, session
from archgrad.export.predict import predict_samples
from archgrad.retrain import RetrainResult, retrain
from archgrad.runs import load_tensors, peak_memory_mb

from .runs import OPTIONS, TINY, few_digits, tiny_network


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The test set of the run as PNG files."""
    data, folder = few_digits(), tmp_path_factory.mktemp("digits")
    assert data.test is not None
    files = []
    for index, (images, _) in enumerate(evaluation_batches(data.test, batch_size=1)):
        files.append(folder / f"{index}.png")
        Image.fromarray(images[0, 0].numpy()).save(files[-1])
    return files


def png(width: int, height: int) -> bytes:
    """A PNG whose header claims this size, without the pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_run_folder_and_onnx_predict_what_the_run_recorded(
    finished: RetrainResult, exported: Exported, digits: list[Path]
) -> None:
    assert finished.run_dir is not None
    recorded = load_tensors(finished.run_dir / "predictions.safetensors")["logits"].softmax(1)
    for model in (finished.run_dir, exported.path):
        found = predict(model, digits, top=10)
        assert [prediction.image for prediction in found] == [str(file) for file in digits]
        for prediction, expected in zip(found, recorded, strict=True):
            by_class = [share for _, share in sorted(zip(prediction.classes, prediction.probabilities, strict=True))]
            torch.testing.assert_close(torch.tensor(by_class), expected, rtol=1e-4, atol=1e-5)
            assert list(prediction.probabilities) == sorted(prediction.probabilities, reverse=True)
            assert sum(prediction.probabilities) == pytest.approx(1)
    assert finished.test_accuracy is not None
    _, targets = next(evaluation_batches(few_digits().test, batch_size=60))  # type: ignore[arg-type]
    hits = sum(int(p.classes[0]) == target for p, target in zip(found, targets.tolist(), strict=True))
    assert hits / 60 == pytest.approx(finished.test_accuracy)


def test_any_size_and_colour_is_prepared_as_a_class_folder_is(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sizes = [(12, 12), (12, 12), (12, 12), (31, 12), (12, 19), (40, 50)]
    for part in ("train", "test"):
        for label in ("blue", "red"):
            (tmp_path / "set" / part / label).mkdir(parents=True)
            for index, (width, height) in enumerate(sizes):
                pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
                image = Image.fromarray(pixels)
                image = image.convert("L") if index == 1 else image.convert("RGBA") if index == 3 else image
                image.save(tmp_path / "set" / part / label / f"{index}.png")
    with pytest.warns(UserWarning, match="have another shape"):
        data = load(f"folder:{tmp_path / 'set'}", root=tmp_path / "cache")
    assert (data.channels, data.image_size) == (3, 12)
    result = retrain(
        tiny_network(num_classes=2, in_channels=3),
        data,
        architecture=TINY,
        run_dir=tmp_path / "run",
        config={"space": "tiny", "channels": 4},
        **{**OPTIONS, "batch_size": 4},
    )
    assert result.run_dir is not None
    files = [tmp_path / "set" / "test" / label / f"{index}.png" for label in ("blue", "red") for index in range(6)]
    found = predict(result.run_dir, files)
    recorded = load_tensors(result.run_dir / "predictions.safetensors")["logits"].softmax(1)
    for prediction, expected in zip(found, recorded, strict=True):
        shares = dict(zip(prediction.classes, prediction.probabilities, strict=True))
        torch.testing.assert_close(torch.tensor([shares["blue"], shares["red"]]), expected, rtol=1e-4, atol=1e-5)


def test_top_is_how_many_classes_are_told(exported: Exported, digits: list[Path]) -> None:
    for top, told in ((1, 1), (5, 5), (99, 10)):
        assert len(predict(exported.path, digits[:1], top=top)[0].classes) == told
    with pytest.raises(OptionError, match="at least 1, but got 0"):
        predict(exported.path, digits[:1], top=0)


def test_the_file_beside_the_model_names_the_classes(exported: Exported, digits: list[Path], tmp_path: Path) -> None:
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(exported.path.read_bytes())
    assert predict(alone, digits[:3]) == predict(exported.path, digits[:3])
    text = exported.description_path.read_text().replace('"7"', '"seven"')
    alone.with_suffix(".json").write_text(text)
    assert "seven" in predict(alone, digits[:1], top=10)[0].classes


def test_what_is_no_image_is_refused(exported: Exported, digits: list[Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.png"
    cut.write_bytes(digits[0].read_bytes()[:-30])
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png(8_000, 8_000))
    huge = tmp_path / "huge.png"
    huge.write_bytes(png(60_000, 60_000))
    text = tmp_path / "text.png"
    text.write_text("no image")
    for file, message in (
        (cut, "cut.png cannot be read as an image"),
        (bomb, r"bomb.png is refused: it has 8000 x 8000 pixels, and at most 50,000,000"),
        (huge, "huge.png"),
        (text, "text.png cannot be read as an image"),
        (tmp_path / "none.png", "none.png is no file"),
        (tmp_path, "is no file"),
    ):
        with pytest.raises(DataError, match=message):
            predict(exported.path, [digits[0], file])


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (str(self.mark), "w")


@pytest.mark.parametrize("suffix", [".pt2", ".pt", ".pth", ".onnx"])
def test_no_model_file_is_unpickled(suffix: str, digits: list[Path], tmp_path: Path) -> None:
    model, mark = tmp_path / f"net{suffix}", tmp_path / "it ran"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("net/data.pkl", pickle.dumps(Trap(mark)))
    for forged in (content.getvalue(), pickle.dumps(Trap(mark))):
        model.write_bytes(forged)
        refusal = r"onnxruntime" if suffix == ".onnx" else r"can run any code.*torch.export"
        with pytest.raises(ExportError, match=refusal):
            predict(model, digits[:1])
    assert not mark.exists()


def test_what_is_no_model_is_refused(exported: Exported, digits: list[Path], tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    with pytest.raises(ExportError, match="does not exist"):
        predict(model, digits[:1])
    with pytest.raises(ExportError, match=r"neither an .onnx file nor a run folder"):
        predict(digits[0], digits[:1])
    model.write_bytes(exported.path.read_bytes()[:-200])
    with pytest.raises(ExportError, match="cannot be run by onnxruntime"):
        predict(model, digits[:1])
    model.write_bytes(exported.path.read_bytes())
    good = exported.description_path.read_text()
    for change, message in (
        (("archgrad.model", "other"), "does not describe a model"),
        (('"9"', '"9", "10"'), r"shape \(1, 10\) for 1 images, but its description names 11"),
        (('"batch",\n      1,', '"batch",\n      3,'), "per channel"),
        (("8,\n      8", "9,\n      9"), r"cannot take inputs of shape \(1, 1, 9, 9\)"),
    ):
        assert change[0] in good
        model.with_suffix(".json").write_text(good.replace(*change))
        with pytest.raises(ExportError, match=message):
            predict(model, digits[:1])
    with pytest.raises(OptionError, match="go with a run folder"):
        predict(model, digits[:1], space=spaces.tiny())


def test_a_model_that_says_nothing_of_itself_is_refused(digits: list[Path], exported: Exported, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(str(exported.path))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "net.onnx"))
    with pytest.raises(ExportError, match=r"Nothing tells the classes.*no 'net.json' beside it"):
        predict(tmp_path / "net.onnx", digits[:1])


def test_networks_of_other_inputs_are_told_apart(digits: list[Path], tmp_path: Path) -> None:
    inputs, network = torch.randn(40, 5), nn.Linear(5, 2)
    retrain(network, (inputs, (inputs[:, 0] > 0).long()), run_dir=tmp_path / "run", **OPTIONS)
    with pytest.raises(ExportError, match=r"takes float32 inputs of shape \(5,\), not images"):
        predict(tmp_path / "run", digits[:1], space=network)


def test_run_folders_need_no_extra(
    finished: RetrainResult, exported: Exported, digits: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert finished.run_dir is not None
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert len(predict(finished.run_dir, digits[:2])) == 2
    with pytest.raises(OptionError, match=r"'onnxruntime'.*pip install 'archgrad\[onnx\]'"):
        predict(exported.path, digits[:1])


def foreign_model(folder: Path, nodes: list[Any], output: Any, classes: int = 10) -> Path:
    """Write a model of somebody else's making that takes digits, with a description beside it."""
    from onnx import TensorProto, helper

    inputs = helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["batch", 1, 8, 8])
    graph = helper.make_graph(nodes, "foreign", [inputs], [output])
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx.ml", 2)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    names = tuple(map(str, range(classes)))
    ModelDescription(classes=names, input_shape=(1, 8, 8)).save(folder / "net.json")
    return folder / "net.onnx"


def test_outputs_that_are_no_tensor_of_numbers_are_refused(digits: list[Path], tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    text = helper.make_tensor("t", TensorProto.STRING, [1], [b"word"])
    flat = helper.make_node("Reshape", ["inputs", "shape"], ["flat"])
    shape = helper.make_node("Constant", [], ["shape"], value=helper.make_tensor("s", TensorProto.INT64, [2], [-1, 64]))
    cases = {
        "seq": (
            [helper.make_node("SequenceConstruct", ["inputs"], ["y"])],
            helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None),
        ),
        "map": (
            [shape, flat, helper.make_node(
                "ZipMap", ["flat"], ["y"], domain="ai.onnx.ml", classlabels_int64s=list(range(64))
            )],
            helper.make_value_info("y", helper.make_sequence_type_proto(helper.make_map_type_proto(
                TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
            ))),
        ),
        "string": (
            [helper.make_node("Constant", [], ["y"], value=text)],
            helper.make_tensor_value_info("y", TensorProto.STRING, [1]),
        ),
    }  # fmt: skip
    for case, (nodes, output) in cases.items():
        with pytest.raises(ExportError, match=f"gives out .*{case}.*Export the network again"):
            predict(foreign_model(tmp_path, nodes, output), digits[:1])


def test_a_constant_of_gigabytes_is_refused_and_takes_no_memory(digits: list[Path], tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    size = helper.make_tensor("s", TensorProto.INT64, [1], [2**29])
    one = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    nodes = [
        helper.make_node("Constant", [], ["size"], value=size),
        helper.make_node("ConstantOfShape", ["size"], ["large"], value=one),
        helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
        helper.make_node("ReduceMax", ["inputs"], ["most"], axes=[1, 2], keepdims=0),
        helper.make_node("Add", ["most", "sum"], ["logits"]),
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 8])
    model = foreign_model(tmp_path, nodes, output, classes=8)
    before = peak_memory_mb(torch.device("cpu"))
    with pytest.raises(ExportError, match="takes more memory than archgrad gives a model"):
        predict(model, digits[:3])
    after = peak_memory_mb(torch.device("cpu"))
    assert before is None or after is None or after - before < 512


def test_a_batch_that_is_too_large_is_halved_until_it_fits(
    exported: Exported, digits: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = predict(exported.path, digits[:40])
    sizes: list[int] = []
    run = session.OnnxSession._run
    monkeypatch.setattr(
        session.OnnxSession,
        "_run",
        lambda self, inputs, names: (sizes.append(len(inputs)), run(self, inputs, names))[1],
    )
    monkeypatch.setattr(session, "_LEAST_MEMORY", 2**15)
    found = predict(exported.path, digits[:40])
    assert sizes[:2] == [40, 20]
    for one, other in zip(found, expected, strict=True):
        assert one.classes == other.classes
        assert one.probabilities == pytest.approx(other.probabilities)


def test_images_larger_than_class_folders_may_have_are_refused(exported: Exported, digits: list[Path]) -> None:
    description = exported.description_path.read_text()
    try:
        exported.description_path.write_text(description.replace("8,\n      8", "40000,\n      40000"))
        with pytest.raises(ExportError, match="at most 4096 pixels a side"):
            predict(exported.path, digits[:1])
    finally:
        exported.description_path.write_text(description)


def test_a_folder_of_images_of_other_colours_is_brought_to_the_networks(
    finished: RetrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHGRAD_CACHE", str(tmp_path / "cache"))
    pixels = np.random.default_rng(0).integers(0, 255, (12, 9, 9, 3)).astype(np.uint8)
    for number, picture in enumerate(pixels):
        folder = tmp_path / "coloured" / ("test" if number < 4 else "train") / ("a", "b")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{number}.png")
    assert finished.run_dir is not None
    found = predict_samples(finished.run_dir, f"folder:{tmp_path / 'coloured'}")
    files = sorted((tmp_path / "coloured" / "test").glob("*/*.png"))
    assert [each.classes for each in found] == [each.classes for each in predict(finished.run_dir, files)]
    coloured = TensorSamples(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.arange(12) % 2)
    data = Data.from_datasets(coloured, augmentation=Augmentation(), name="coloured")
    with pytest.raises(ExportError, match=r"takes images of 1 channels, but those of 'coloured' have 3\. Give"):
        predict_samples(finished.run_dir, data)
