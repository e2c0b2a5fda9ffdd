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

from archgrad.data.listing import DEEPEST, ImageFolder, StoredImage, is_hidden, is_image, is_unread
from archgrad.errors import DataError
from archgrad.json_text import shown

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
"""How the name of a tar ends."""

_LARGEST_HEADER = 2**20  # bytes before a member, long names and attributes included; a real one takes a few thousand
_MOST_READS = 64  # before a member: a block each, and the long names and attributes that precede it
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
            size = plain.stat().st_size
            reads = _BoundedReads(file, archive, size)
            tar = tarfile.open(fileobj=reads, mode="r:")  # noqa: SIM115 - the file below it is what is to be closed
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else a million empty members would be kept
                reads.start_member()
                *parents, name = _checked_parts(member, archive) or [""]
                if any(map(is_hidden, parents)):
                    continue
                folder = root
                for parent in parents:
                    folder = folder.folder(parent)
                if member.isdir() and name and not is_hidden(name):
                    folder.folder(name)
                elif member.isreg() and is_unread(name):
                    folder.unread.append(member.name)
                elif member.isreg() and is_image(name):
                    if member.size > _LARGEST_IMAGE or member.offset_data + member.size > size:
                        raise DataError(
                            f"{archive} is refused: its member {shown(member.name)} claims {shown(member.size)} bytes. "
                            f"Fetch it again."
                        )
                    folder.images[name] = StoredImage(
                        plain, f"{archive}: {member.name}", member.offset_data, member.size, 0
                    )
            if reads.last != bytes(tarfile.BLOCKSIZE):  # tarfile takes a damaged header for the end
                raise tarfile.ReadError("it ends early")
    except (DataError, OSError):
        raise
    except Exception as error:  # fed with garbage, tarfile raises nearly anything: OverflowError, IndexError, ...
        reason = shown(str(error) or type(error).__name__)
        raise DataError(f"{archive} cannot be read as a tar: {reason}. Is it whole? Fetch it again.") from error
    return root


def _checked_parts(member: tarfile.TarInfo, archive: Path) -> list[str]:
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if member.name.startswith("/") or ".." in parts or "\\" in member.name or PureWindowsPath(member.name).drive:
        raise DataError(
            f"{archive} is refused: its member {shown(member.name)} would leave the folder. Unpack it by hand if you "
            f"trust it, and give the folder."
        )
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise DataError(
            f"{archive} is refused: its member {shown(member.name)} is a link or a device, and only files and folders "
            f"are read. Unpack it by hand if you trust it, and give the folder."
        )
    if len(parts) > DEEPEST:
        raise DataError(f"{archive} is refused: it holds a member more than {DEEPEST} folders deep.")
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
    """A file that is read forwards only, and little at once.

    A forged header may claim any length, for which memory would be taken; any number of long names, each of which
    tarfile keeps while it looks for the next; or a negative length, which leads back to where we have been.
    """

    def __init__(self, file: io.BufferedReader, archive: Path, size: int) -> None:
        self._file, self._archive, self._size = file, archive, size
        self.last = b""
        self.start_member()

    def start_member(self) -> None:
        """Say that what follows belongs to another member."""
        self._read_bytes = self._reads = 0

    def read(self, size: int = -1) -> bytes:
        self._reads += 1
        if not 0 <= size <= _LARGEST_HEADER - self._read_bytes or self._reads > _MOST_READS:
            raise DataError(
                f"{self._archive} is refused: what stands before a member of it claims {shown(size)} bytes more, after "
                f"{self._read_bytes} in {self._reads - 1} parts. Fetch it again."
            )
        self.last = self._file.read(size)
        self._read_bytes += len(self.last)
        return self.last

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or not self._file.tell() <= offset <= self._size:
            raise DataError(
                f"{self._archive} is refused: a header in it leads to byte {shown(offset)}, but it has {self._size} "
                f"and is read from its beginning to its end. Fetch it again."
            )
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()
