"""Files: told apart by content, written in one stroke, and never more than a clear message when they are bad."""

import errno
import json
import os

import pytest

from archgrad.architecture import Architecture
from archgrad.architectures import DARTS_V2
from archgrad.errors import ArchitectureError

NNI = {
    f"{cell}_n{node}_p{source}": "sepconv3x3"
    for cell in ("normal", "reduce")
    for node in range(2, 6)
    for source in range(node)
} | {f"{cell}_n{node}_switch": [1, 0] for cell in ("normal", "reduce") for node in range(2, 6)}


def test_save_and_load_keep_everything(tmp_path):
    architecture = Architecture({"größe": "α"}, space="mine", provenance={"β": [1, {"c": None}]})
    architecture.save(tmp_path / "a.json")
    again = Architecture.load(str(tmp_path / "a.json"))
    assert again == architecture
    assert again.to_dict() == architecture.to_dict()
    assert os.listdir(tmp_path) == ["a.json"]


def test_save_replaces_the_old_file_and_respects_the_umask(tmp_path):
    path = tmp_path / ("n" * 250 + ".json")
    path.write_text("old")
    DARTS_V2.save(path)
    assert Architecture.load(path) == DARTS_V2
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_save_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    DARTS_V2.save("a.json")
    assert Architecture.load("a.json") == DARTS_V2


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    DARTS_V2.save(path)

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArchitectureError, match=r"a\.json.*No space left on device"):
        Architecture({"conv": "a"}).save(path)
    assert Architecture.load(path) == DARTS_V2
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("name", ["missing/a.json", ".", "a\0b"])
def test_a_path_that_cannot_be_written_is_an_error_with_the_path(tmp_path, name):
    with pytest.raises(ArchitectureError, match="cannot be written to"):
        DARTS_V2.save(f"{tmp_path}/{name}")


@pytest.mark.parametrize(
    "text",
    [
        DARTS_V2.to_json(),
        "\ufeff\n " + DARTS_V2.to_json(),
        DARTS_V2.to_genotype(),
        f"# found by DARTS\nDARTS_V2 = {DARTS_V2.to_genotype()}\n",
        "\ufeff" + DARTS_V2.to_genotype(),
    ],
    ids=["json", "json with byte-order mark", "genotype", "genotype assigned", "genotype with byte-order mark"],
)
def test_load_tells_formats_apart_by_content_not_by_name(tmp_path, text):
    (tmp_path / "file.txt").write_text(text, encoding="utf-8")
    assert Architecture.load(tmp_path / "file.txt") == DARTS_V2


def test_load_reads_nni(tmp_path):
    (tmp_path / "epoch_1.json").write_text(json.dumps(NNI))
    architecture = Architecture.load(tmp_path / "epoch_1.json")
    assert architecture == Architecture.from_nni(NNI)
    assert architecture.provenance == {"source": "NNI 2.4"}


BAD_FILES = {
    "empty": (b"", "but this is empty"),
    "white space": (b" \n", "but this is empty"),
    "prose": (b"hello", "archgrad's JSON, NNI's JSON or Genotype.* but this is 'hello'"),
    "other json": (b'{"a": 1}', "'format' must be .* but it is missing"),
    "json list": (b"[1]", "is a JSON object"),
    "damaged nni": (json.dumps(NNI | {"normal_n2_p0": "conv"}).encode(), "'normal_n2_p0' must be one of maxpool"),
    "cut genotype": (b"Genotype(normal=[", "the end of the text"),
    "not utf-8": (b'{"format": "\xff"}', "UTF-8 text, but byte 12 is not"),
    "utf-16": ("{}".encode("utf-16"), "UTF-8"),
    "pickle": (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94.", "UTF-8"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_refused_with_its_name(tmp_path, content, message):
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(ArchitectureError, match=rf"bad\.json.*{message}"):
        Architecture.load(tmp_path / "bad.json")


def test_every_cut_of_a_file_is_refused(tmp_path):
    content = DARTS_V2.to_json().rstrip().encode()
    for length in range(0, len(content), 7):
        (tmp_path / "cut.json").write_bytes(content[:length])
        with pytest.raises(ArchitectureError, match=r"cut\.json"):
            Architecture.load(tmp_path / "cut.json")


def test_a_missing_file_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(ArchitectureError, match=r"gone\.json.*No such file.*epoch_49\.json"):
        Architecture.load(tmp_path / "gone.json")
    with pytest.raises(ArchitectureError, match="cannot be read"):
        Architecture.load("a\0b")


def test_folders_and_pipes_are_refused_without_waiting(tmp_path):
    with pytest.raises(ArchitectureError, match="holds no architecture"):
        Architecture.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArchitectureError, match="not a regular file"):
        Architecture.load(tmp_path / "pipe")


def test_a_huge_file_is_refused_unread(tmp_path):
    with open(tmp_path / "huge.json", "wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that takes no disk
    with pytest.raises(ArchitectureError, match="larger than 16777216 bytes"):
        Architecture.load(tmp_path / "huge.json")
