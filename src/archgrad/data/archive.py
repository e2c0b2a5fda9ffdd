"""Images inside a tar that nobody vouches for: unpacked to one plain tar, of which nothing is written by name."""

import bz2
import gzip
import io
import lzma
import shutil
import tarfile
import zlib
from pathlib import Path, PureWindowsPath
from typing import Any

from archgrad.data.listing import ImageFolder, StoredImage, is_image
from archgrad.errors import DataError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
"""How the name of a tar ends."""

_LARGEST_HEADER = 2**24  # bytes that a header may make us read at once; a real one takes a few thousand
_DEEPEST = 64  # folders inside each other
_LARGEST_IMAGE = 2**28  # bytes of an image before decoding
_SPACE_LEFT_FREE = 2**28  # bytes of disk
_LARGEST_GROWTH = 200  # images hardly shrink when packed; a bomb grows thousandfold
_ALWAYS_ALLOWED = 2**26  # bytes


def is_tar(path: Path) -> bool:
    """Whether the name is that of a tar."""
    return path.name.lower().endswith(TAR_SUFFIXES)


def decompress(archive: Path, target: Path) -> None:
    """Write a tar without its compression (gzip, xz, bzip2 or none, told by content).

    Args:
        archive: The tar.
        target: The file to write.

    Raises:
        DataError: The tar is damaged, or unpacks to far more than images do or than the disk has space for.
        OSError: The file cannot be written.
    """
    growth = _ALWAYS_ALLOWED + _LARGEST_GROWTH * archive.stat().st_size
    space = shutil.disk_usage(target.parent).free - _SPACE_LEFT_FREE
    written = 0
    with _opened(archive) as source, open(target, "wb") as file:
        while block := _read(source, archive):
            written += len(block)
            if written > growth:
                raise DataError(
                    f"{archive} is refused: it unpacks to more than {_LARGEST_GROWTH} times its size, which images do "
                    f"not. Unpack it by hand if you trust it, and give the folder."
                )
            if written > space:
                raise DataError(
                    f"{archive} unpacks to more than the free space of {target.parent}. Free some space, or give "
                    f"another folder (root=..., or the variable ARCHGRAD_DATA)."
                )
            file.write(block)


def read_tar(plain: Path, archive: Path) -> ImageFolder:
    """List the images in an uncompressed tar.

    Args:
        plain: The uncompressed tar.
        archive: The tar that it came from, for messages.

    Returns:
        Where each image is in it.

    Raises:
        DataError: The tar is damaged, or has members that could reach outside a folder (absolute paths, "..", links),
            devices, or images too large.
    """
    root = ImageFolder()
    try:
        with open(plain, "rb") as file:
            reads = _BoundedReads(file, archive)
            size = plain.stat().st_size
            tar = tarfile.open(fileobj=reads, mode="r:")  # noqa: SIM115 - the file below it is what is to be closed
            for member in tar:
                *parents, name = _checked_parts(member, archive) or [""]
                if any(parent.startswith(".") for parent in parents):
                    continue
                folder = root
                for parent in parents:
                    folder = folder.folder(parent)
                if member.isdir() and name and not name.startswith("."):
                    folder.folder(name)
                elif member.isreg() and is_image(name):
                    if member.size > _LARGEST_IMAGE or member.offset_data + member.size > size:
                        raise DataError(
                            f"{archive} is refused: its member {member.name!r} claims {member.size} bytes. Fetch it "
                            f"again."
                        )
                    folder.images[name] = StoredImage(
                        plain, f"{archive}: {member.name}", member.offset_data, member.size, 0
                    )
            if reads.last != bytes(tarfile.BLOCKSIZE):  # tarfile takes a damaged header for the end
                raise tarfile.ReadError("it ends early")
    except (tarfile.TarError, ValueError) as error:
        raise DataError(f"{archive} cannot be read as a tar: {error}. Is it whole? Fetch it again.") from error
    return root


def _checked_parts(member: tarfile.TarInfo, archive: Path) -> list[str]:
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if member.name.startswith("/") or ".." in parts or "\\" in member.name or PureWindowsPath(member.name).drive:
        raise DataError(
            f"{archive} is refused: its member {member.name!r} would leave the folder. Unpack it by hand if you trust "
            f"it, and give the folder."
        )
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise DataError(
            f"{archive} is refused: its member {member.name!r} is a link or a device, and only files and folders are "
            f"read. Unpack it by hand if you trust it, and give the folder."
        )
    if len(parts) > _DEEPEST:
        raise DataError(f"{archive} is refused: it holds a member more than {_DEEPEST} folders deep.")
    return parts


def _opened(archive: Path) -> Any:
    with open(archive, "rb") as file:
        magic = file.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.open(archive, "rb")
    if magic == b"\xfd7zXZ\0":
        return lzma.open(archive, "rb")
    if magic.startswith(b"BZh"):
        return bz2.open(archive, "rb")
    return open(archive, "rb")


def _read(source: Any, archive: Path) -> bytes:
    try:
        return source.read(2**20)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{archive} cannot be unpacked: {error}. Is it whole? Fetch it again.") from error


class _BoundedReads(io.RawIOBase):
    """A file that refuses to read much at once: a forged header may claim any length, and memory is taken for it."""

    def __init__(self, file: io.BufferedReader, archive: Path) -> None:
        self._file, self._archive = file, archive
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise DataError(f"{self._archive} is refused: a header in it claims {size} bytes. Fetch it again.")
        self.last = self._file.read(size)
        return self.last

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
