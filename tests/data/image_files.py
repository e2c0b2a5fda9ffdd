"""Small image sets for the tests, written where they are told to."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def picture(value: int, *, size: tuple[int, int] = (8, 8), mode: str = "RGB", form: str = "PNG") -> bytes:
    """Encode an image whose pixels are noise around a value."""
    generator = np.random.default_rng(value)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    pixels = np.clip(generator.integers(-20, 20, shape) + value, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form)
    return file.getvalue()


def class_folders(root: Path, *, splits: tuple[str, ...] = ("train", "test"), classes: int = 3, each: int = 4) -> Path:
    """Write <split>/<class>/<n>.png; with splits=("",), <class>/<n>.png."""
    for split in splits:
        for label in range(classes):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(each):
                (folder / f"{number}.png").write_bytes(picture(60 * label + number + len(split)))
    return root


def tar_of(folder: Path, target: Path, *, prefix: str = ".") -> Path:
    """Pack a folder; the name of the target tells the compression."""
    compression = target.suffix.lstrip(".").replace("tar", "").replace("tgz", "gz")
    with tarfile.open(target, f"w:{compression}") as tar:
        tar.add(folder, arcname=prefix)
    return target


def tar_with(target: Path, members: list[tarfile.TarInfo], content: bytes = b"") -> Path:
    """Write a tar of the given members, each with the same content."""
    with tarfile.open(target, "w:") as tar:
        for member in members:
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content))
    return target
