"""Everything of archgrad that reads bytes from outside: valid samples of each, and how each is read."""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import re
import shutil
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import archgrad as ag
from archgrad import files as archgrad_files
from archgrad import nasbench, official, sizes
from archgrad.cli import retrain_command as retrain_command
from archgrad.cli import search_command as search_command
from archgrad.cli.main import main
from archgrad.data import image_folder as data_folder
from archgrad.data import load, sources
from archgrad.data.decode import decode
from archgrad.data.listing import StoredImage
from archgrad.engine import Engine
from archgrad.errors import DataError, RunError
from archgrad.export import describe_run, export_onnx, load_retrained, predict
from archgrad.report import write_report
from archgrad.report.read import read_run, read_table
from archgrad.runs import Checkpoints, MetricsFile, load_state, load_tensors, read_config, read_metrics, save_tensors
from archgrad.runs.lock import RunLock
from archgrad.show import to_dot, to_text
from faults.mutations import MUTATIONS, mutate_bytes

__all__ = ["READERS", "Done", "Reader", "make_samples", "prepare"]

MEMORY = 2**30
"""What the readers are told that this machine has."""
_CHECKPOINT = struct.Struct("<8sIQQ")
_SMALL = [
    "--epochs",
    "1",
    "--batch-size",
    "16",
    "--train-samples",
    "48",
    "--channels",
    "4",
    "--device",
    "cpu",
    "--quiet",
]


class Done(Exception):  # noqa: N818 (no error: the run would go on from here)
    """All has been read, and training would begin."""


@dataclass(frozen=True)
class Reader:
    """One thing that reads."""

    sample: str
    """Folder of a valid sample."""
    files: str
    """Which of its files are made hostile; a pattern."""
    read: Callable[[Path], object]
    """Called with a folder that holds the sample."""
    share: int
    """How often, among the others."""


# --- reading ----------------------------------------------------------------------------------------------------------


def _typed(*arguments: object) -> None:
    err_text = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err_text), contextlib.suppress(Done):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        assert status in (0, 2), status
        if status == 2:
            raise RunError(err_text.getvalue())


def _architecture(folder: Path) -> None:
    architecture = ag.Architecture.load(_only(folder))
    assert ag.Architecture.from_json(architecture.to_json()) == architecture
    to_text(architecture, width=80)
    to_dot(architecture)
    _typed("show", _only(folder))


def _only(folder: Path) -> Path:
    return next(iter(sorted(folder.glob("input*"))), folder / "input.json")


def _draw(folder: Path) -> None:
    _typed("show", folder / "input.json", "--out", folder / "out.svg")


def _derive(folder: Path) -> None:
    architecture = ag.Architecture.load(folder / "input.json")
    ag.derive(ag.spaces.darts_cifar(4, 3, stage="retrain"), architecture)


def _metrics(folder: Path) -> None:
    read_metrics(folder / "metrics.csv")
    read_table(folder / "metrics.csv")
    MetricsFile(folder / "metrics.csv").truncate(epochs=1)
    MetricsFile(folder / "metrics.csv").append({"epoch": 1, "train_loss": 1.0})


def _checkpoints(folder: Path) -> None:
    Checkpoints(folder / "checkpoints").load(set_aside=True)


def _network(folder: Path) -> None:
    describe_run(folder)
    load_retrained(folder)
    load_tensors(folder / "predictions.safetensors")


def _official(folder: Path) -> None:
    state, genotype = load_tensors(folder / "state.safetensors"), ag.Architecture.load(folder / "genotype.txt")
    official.network_from_state_dict(state, genotype, channels=2, cells=3, num_classes=5, auxiliary=False)


def _table(folder: Path) -> None:
    table = nasbench.load_table(folder / "table.csv")
    nasbench.query(table, nasbench.parse_arch(next(iter(table.rows)))).to_text()


def _images(folder: Path) -> None:
    for name in ("images", "images.tar", "images.tar.gz"):
        if (folder / name).exists():
            load(f"folder:{folder / name}", root=folder / "cache", image_size=8)


def _cached(folder: Path) -> None:
    """As the name of a cached file stands for the folder's place, it gets that of this place."""
    for name in ("8", "9"):
        for ending in (".json", ".safetensors"):
            if (file := folder / f"{name}{ending}").exists():
                (folder / "cache" / "decoded").mkdir(parents=True, exist_ok=True)
                target = _cached_name(folder, int(name)).with_suffix(ending)
                file.rename(target) if file.is_file() else target.mkdir()
        data = load(
            f"folder:{folder / 'images'}", root=folder / "cache", image_size=int(name), memory_limit=_LIMITS[name]
        )
        assert data.train[0][0].shape == (3, int(name), int(name))


_LIMITS = {"8": 2**20, "9": 0}
"""The images of 8 pixels are kept in memory, of those of 9 pixels their facts are cached."""


def _cached_name(folder: Path, image_size: int) -> Path:
    """Return where the decoded images of a folder are cached, made by loading them elsewhere first."""
    root = folder / "found"
    load(f"folder:{folder / 'images'}", root=root, image_size=image_size, memory_limit=2**20)
    (file,) = (root / "decoded").glob("*.safetensors")
    file.unlink()
    return folder / "cache" / "decoded" / file.name


def _image(folder: Path) -> None:
    for file in folder.glob("input.*"):
        with contextlib.suppress(DataError):
            decode(
                StoredImage(file, "input", 0, file.stat().st_size if file.is_file() else 0, 0), image_size=8, channels=3
            )


def _predict(folder: Path) -> None:
    predict(folder / "net.onnx", [folder / "input.png"])
    _typed("predict", folder / "net.onnx", folder / "input.png", "--json")


def _report(folder: Path) -> None:
    write_report([folder], out=folder / "out.html")


def _lock(folder: Path) -> None:
    RunLock(folder).release()


READERS = {
    "architecture": Reader("architecture", "input.json", _architecture, 12),
    "drawing": Reader("architecture", "input.json", _draw, 2),
    "derived network": Reader("architecture", "input.json", _derive, 6),
    "genotype": Reader("genotype", "input.txt", _architecture, 10),
    "NNI's export": Reader("nni", "input.json", _architecture, 6),
    "config.yaml": Reader("search", "config.yaml", lambda folder: read_config(folder / "config.yaml"), 10),
    "config of a search": Reader(
        "search", "config.yaml",
        lambda folder: _typed("search", "--config", folder / "config.yaml", "--out", folder / "out"), 5,
    ),
    "resumed search": Reader("search", "*.*", lambda folder: _typed("search", "--resume", folder), 4),
    "resumed retraining": Reader("retrain", "*.*", lambda folder: _typed("retrain", "--resume", folder), 4),
    "forged search": Reader("search", "checkpoints/last.ckpt", lambda folder: _typed("search", "--resume", folder), 5),
    "forged retraining": Reader(
        "retrain", "checkpoints/last.ckpt", lambda folder: _typed("retrain", "--resume", folder), 5
    ),
    "checkpoint": Reader(
        "search", "checkpoints/last.ckpt", lambda folder: load_state(folder / "checkpoints" / "last.ckpt"), 10
    ),
    "checkpoints": Reader("search", "checkpoints/*.ckpt", _checkpoints, 4),
    "architecture of a run": Reader(
        "search", "checkpoints/epoch_*.json",
        lambda folder: _typed("retrain", "--arch", folder, *_SMALL, "--out", folder / "out"), 2,
    ),
    "metrics.csv": Reader("search", "metrics.csv", _metrics, 10),
    "run for the report": Reader("retrain", "*.*", read_run, 14),
    "report": Reader("retrain", "*.*", _report, 2),
    "report of a search": Reader("search", "**/*.*", _report, 2),
    "network of a run": Reader("retrain", "**/*.*", _network, 8),
    "export": Reader("retrain", "*.*", describe_run, 8),
    "predictions": Reader("retrain", "*.safetensors", read_run, 8),
    "lock": Reader("lock", ".lock-owner.json", _lock, 3),
    "state dict of the authors": Reader("official", "*.*", _official, 6),
    "table of NAS-Bench-201": Reader("table", "table.csv", _table, 8),
    "folder of images": Reader("folder", "images/*/*.*", _images, 5),
    "cache of images": Reader("cached", "*.*", _cached, 8),
    "tar": Reader("tar", "images.tar", _images, 10),
    "packed tar": Reader("packed", "images.tar.gz", _images, 5),
    "image": Reader("image", "input.*", _image, 12),
    "ONNX": Reader("onnx", "net.onnx", _predict, 5),
    "description of a model": Reader("onnx", "net.json", _predict, 5),
}  # fmt: skip


def prepare() -> None:
    """From now on in this process, read without training, without the network, and on a machine of `MEMORY`."""

    def stop(*_: Any, **__: Any) -> Any:
        raise Done

    def refuse(name: str, *_: Any) -> Any:
        raise DataError(f"The data set {name!r} is not looked for.")

    for module in (sizes, archgrad_files, data_folder):
        module.machine_memory = lambda: MEMORY
    Engine.run = stop
    sources._torchvision = refuse
    MUTATIONS[".ckpt"] = forged_checkpoint


def forged_checkpoint(content: bytes, draw: random.Random) -> bytes:
    """Change what a checkpoint says, and its checksum with it."""
    magic, version, length, _ = _CHECKPOINT.unpack_from(content)
    start = _CHECKPOINT.size + 32
    text, tensors = content[start : start + length], content[start + length :]
    if draw.random() < 0.8:
        text = MUTATIONS[".json"](text, draw)
    elif draw.random() < 0.5:
        tensors = MUTATIONS[".safetensors"](tensors, draw)
    else:
        tensors = mutate_bytes(tensors, draw)
    head = _CHECKPOINT.pack(magic, version, len(text), len(tensors))
    return head + hashlib.sha256(head + text + tensors).digest() + text + tensors


# --- valid samples ----------------------------------------------------------------------------------------------------


def make_samples(root: Path) -> None:
    """Write a valid sample for each reader; takes a few seconds."""
    for command in (search_command, retrain_command):
        command.keep_freed_memory = lambda: None  # else what a reader takes would not be seen
    for reader in READERS.values():
        (root / reader.sample).mkdir(parents=True, exist_ok=True)
    network = ag.derive(ag.spaces.darts_cifar(2, 3, 5, stage="retrain"), ag.architectures.DARTS_V2)
    names = {re.sub(r"\.graph\.operations\.(\d+)\.", r"._ops.\1.", k): v for k, v in network.state_dict().items()}
    save_tensors(root / "official" / "state.safetensors", names)
    for sample in ("genotype/input.txt", "official/genotype.txt"):
        (root / sample).write_text(f"DARTS = {ag.architectures.DARTS_V2.to_genotype()}\n")
    supernet = ag.Supernet(ag.spaces.darts_cifar(2, 3, 5))
    ag.discretize(supernet, provenance={"seed": 0}).save(root / "architecture" / "input.json")
    (root / "nni" / "input.json").write_text(MUTATIONS_OF_NNI)
    (root / "lock" / ".lock-owner.json").write_text('{"pid": 1, "host": "elsewhere"}')
    _table_sample(root / "table" / "table.csv")
    _image_samples(root)
    with contextlib.redirect_stdout(io.StringIO()):
        main(["search", "--space", "tiny", *_SMALL, "--out", str(root / "search")])
        main(["retrain", "--arch", str(root / "search"), *_SMALL, "--out", str(root / "retrain")])
    for events in root.glob("*/events.out.*"):
        events.unlink()
    described = describe_run(root / "retrain")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        export_onnx(
            load_retrained(root / "retrain"), root / "onnx" / "net.onnx", classes=described.classes,
            input_shape=described.input_shape, mean=described.mean, std=described.std,
        )  # fmt: skip


MUTATIONS_OF_NNI = (
    "{"
    + ", ".join(
        [f'"{c}_n{n}_p{s}": "sepconv3x3"' for c in ("normal", "reduce") for n in range(2, 6) for s in range(n)]
        + [f'"{c}_n{n}_switch": [0, 1]' for c in ("normal", "reduce") for n in range(2, 6)]
    )
    + "}"
)


def _table_sample(file: Path) -> None:
    rows = ["index,arch,cifar10_200,cifar100_200"]
    for index, first in enumerate(nasbench.OPERATIONS):
        for second in nasbench.OPERATIONS:
            arch = f"|{first}~0|+|{second}~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
            rows.append(f"{10 * index + len(rows)},{arch},{50 + index}.5,{len(rows)}")
    file.write_text("\n".join(rows) + "\n")


def _image_samples(root: Path) -> None:
    torch.manual_seed(0)
    noise = torch.randint(0, 256, (12, 12, 3), dtype=torch.uint8).numpy()
    for ending in ("png", "jpg", "bmp", "gif", "webp", "ppm", "tiff"):
        Image.fromarray(noise).save(root / "image" / f"input.{ending}")
    Image.fromarray(noise[:8, :8]).save(root / "onnx" / "input.png")
    for label in ("cat", "dog"):
        for number in range(3):
            file = root / "folder" / "images" / label / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((noise + 17 * number)[:8, :8]).save(file)
    for sample, mode in (("tar/images.tar", "w:"), ("packed/images.tar.gz", "w:gz")):
        for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            with tarfile.open(root / sample, mode, format=form) as tar:  # type: ignore[call-overload]
                tar.add(root / "folder" / "images", "images")
                info = tarfile.TarInfo("images/cat/" + "long" * 40 + ".png")
                content = (root / "onnx" / "input.png").read_bytes()
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    shutil.copytree(root / "folder" / "images", root / "cached" / "images")
    for size, limit in _LIMITS.items():
        load(f"folder:{root / 'cached' / 'images'}", root=root / size, image_size=int(size), memory_limit=limit)
        for file in (root / size / "decoded").glob("*.*"):
            if not file.name.startswith("."):
                file.rename(root / "cached" / f"{size}{file.suffix}")
        shutil.rmtree(root / size)
