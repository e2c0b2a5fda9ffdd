"""No tar makes anything be written or read outside its place, or memory be taken for what a header claims."""

import gzip
import io
import tarfile
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import class_folders, picture, tar_of, tar_with

from archgrad.data import archive as archive_module
from archgrad.data import load
from archgrad.data.archive import decompress, read_tar
from archgrad.errors import DataError


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "name", ["../outside.png", "/etc/outside.png", "a/../../outside.png", "..", "a\\..\\outside.png", "C:outside.png"]
)
def test_members_that_would_leave_the_folder_are_refused_and_nothing_is_written(tmp_path, name):
    packed = tar_with(tmp_path / "set.tar", [member("train/a/0.png"), member(name)], picture(1))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="would leave the folder"):
        load(f"folder:{packed}", root=tmp_path / "cache")
    outside = [
        path for path in tmp_path.rglob("*") if path not in before and tmp_path / "cache" not in (path, *path.parents)
    ]
    assert outside == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    packed = tar_with(tmp_path / "set.tar", [member("train/a/0.png", kind, "/etc/passwd")])
    with pytest.raises(DataError, match=r"'train/a/0\.png' is a link or a device"):
        load(f"folder:{packed}", root=tmp_path / "cache")


def test_only_listed_files_appear_in_the_cache(tmp_path):
    packed = tar_of(class_folders(tmp_path / "images"), tmp_path / "set.tar.gz")
    load(f"folder:{packed}", root=tmp_path / "cache")
    kinds = {path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size}
    assert kinds == {".tar", ".safetensors"}


def test_a_header_that_claims_much_takes_no_memory(tmp_path):
    info = member("x", tarfile.XHDTYPE)
    info.size = 2**40
    (tmp_path / "set.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(DataError, match=r"claims 1099511627776 bytes|cannot be read as a tar"):
        read_tar(tmp_path / "set.tar", tmp_path / "set.tar")
    info = member("train/a/0.png")
    info.size = 2**40
    (tmp_path / "set.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(DataError, match="claims 1099511627776 bytes"):
        read_tar(tmp_path / "set.tar", tmp_path / "set.tar")


def test_what_unpacks_to_far_more_than_images_do_is_refused_early(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_module, "_ALWAYS_ALLOWED", 2**20)
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(bytes(2**26)))
    with pytest.raises(DataError, match="more than 200 times its size"):
        load(f"folder:{tmp_path / 'bomb.tar.gz'}", root=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size]


def test_what_does_not_fit_on_the_disk_is_refused(tmp_path, monkeypatch):
    packed = tar_of(class_folders(tmp_path / "images"), tmp_path / "set.tar.gz")
    monkeypatch.setattr(archive_module, "_SPACE_LEFT_FREE", 2**80)
    with pytest.raises(DataError, match="more than the free space"):
        load(f"folder:{packed}", root=tmp_path / "cache")


def test_folders_inside_each_other_have_a_limit(tmp_path):
    packed = tar_with(tmp_path / "set.tar", [member("a/" * 5000 + "0.png")], picture(1))
    with pytest.raises(DataError, match="64 folders deep"):
        load(f"folder:{packed}", root=tmp_path / "cache")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.xz", ".tar.bz2"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_a_truncated_tar_is_refused_never_taken_for_a_smaller_one(tmp_path, suffix, share):
    packed = tar_of(class_folders(tmp_path / "images"), tmp_path / f"set{suffix}")
    with tarfile.open(packed) as tar:
        end = max(info.offset_data + info.size for info in tar)
    content = packed.read_bytes()
    # A plain tar ends with padding, which may be missing without harm.
    packed.write_bytes(content[: int(share * (end if suffix == ".tar" else len(content)))])
    with pytest.raises(DataError, match=r"Fetch it again|claims"):
        load(f"folder:{packed}", root=tmp_path / "cache")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_tar_with_changed_bytes_is_read_or_refused_with_our_own_error(tmp_path, changes):
    packed = tmp_path / "set.tar"
    if not (tmp_path / "images").exists():
        tar_of(class_folders(tmp_path / "images"), packed)
        (tmp_path / "whole").write_bytes(packed.read_bytes())
    content = bytearray((tmp_path / "whole").read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    packed.write_bytes(content)
    try:
        root = read_tar(packed, packed)
    except DataError:
        return
    for stored in root.all_images():
        assert 0 < stored.offset <= stored.offset + stored.length <= len(content)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=2000), magic=st.sampled_from([b"", b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh9"]))
def test_garbage_is_refused_with_our_own_error(tmp_path, content, magic):
    (tmp_path / "set.tar").write_bytes(magic + content)

    def read() -> None:
        decompress(tmp_path / "set.tar", tmp_path / "plain")
        read_tar(tmp_path / "plain", tmp_path / "set.tar")

    if magic or content.strip(b"\0"):
        with pytest.raises(DataError):
            read()


def test_long_names_are_read(tmp_path):
    name = "train/" + "c" * 150 + "/" + "n" * 200 + ".png"
    packed = io.BytesIO()
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(fileobj=packed, mode="w:", format=kind) as tar:
            info = member(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
        (tmp_path / "set.tar").write_bytes(packed.getvalue())
        (stored,) = read_tar(tmp_path / "set.tar", tmp_path / "set.tar").all_images()
        assert stored.name.endswith(name)
        assert (tmp_path / "set.tar").read_bytes()[stored.offset : stored.offset + stored.length] == b"abc"
        packed = io.BytesIO()


def long_name(name: str = "n" * 120) -> bytes:
    info = member("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    info.size = len(name) + 1
    return info.tobuf(tarfile.GNU_FORMAT) + (name.encode() + b"\0").ljust(512, b"\0")


def attributes(**values: object) -> bytes:
    return tarfile.TarInfo.create_pax_global_header({name: str(value) for name, value in values.items()})


def claiming(size: int) -> bytes:
    """A header of a file whose size is written in base 256, as GNU's tar writes those of 8 GB and more."""
    content = bytearray(member("train/a/0.png").tobuf(tarfile.USTAR_FORMAT))
    content[124:136] = b"\x80" + size.to_bytes(11, "big") if size >= 0 else (2**96 + size).to_bytes(12, "big")
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content)
    return bytes(content)


FORGED = {
    "a thousand long names": long_name() * 1000 + member("train/a/0.png").tobuf(),
    "a thousand attributes": attributes(comment="x") * 1000 + member("train/a/0.png").tobuf(),
    "long names that fill memory": long_name("n" * 300_000) * 1000,
    "a size over 64 bits": claiming(2**80),
    "a size below zero": claiming(-2048),
    "a size in attributes over 64 bits": attributes(size=10**40) + member("train/a/0.png").tobuf(),
    "a size in attributes that leads back": attributes(size=-512) + member("train/a/0.png").tobuf(),
    "a time that is infinite": attributes(mtime="1e999") + member("train/a/0.png").tobuf() + bytes(512),
}


@pytest.mark.parametrize("case", FORGED)
def test_forged_headers_are_refused_with_our_own_error(tmp_path, case):
    packed = tmp_path / "set.tar"
    packed.write_bytes(FORGED[case] + bytes(10240))
    with pytest.raises(DataError):
        load(f"folder:{packed}", root=tmp_path / "cache")


def test_many_members_take_little_memory(tmp_path):
    header = member("x").tobuf(tarfile.USTAR_FORMAT)
    (tmp_path / "set.tar").write_bytes(header * 20_000 + bytes(1024))
    tracemalloc.start()
    read_tar(tmp_path / "set.tar", tmp_path / "set.tar")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_names_that_are_no_text_are_refused_before_anything_is_trained_on_them(tmp_path):
    images = [member(f"train/{name}/{k}.png") for name in ("a", "caf\udce9") for k in range(2)]
    packed = tar_with(tmp_path / "set.tar", images, picture(1))
    with pytest.raises(DataError, match=r"Unicode text.*caf\\udce9.*Rename"):
        load(f"folder:{packed}", root=tmp_path / "cache")
