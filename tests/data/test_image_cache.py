"""The cache of decoded images: where it is, and how large it grows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from archgrad.data import image_cache
from archgrad.data.image_cache import decoded_root, hold, make_room
from archgrad.errors import OptionError


def files(root: Path, **ages: int) -> dict[str, Path]:
    """Files of 1,000 bytes by name, the letter's folder and its age in seconds."""
    made = {}
    for name, age in ages.items():
        made[name] = root / ("unpacked" if name.startswith("u") else "decoded") / name
        made[name].parent.mkdir(parents=True, exist_ok=True)
        made[name].write_bytes(bytes(1000))
        os.utime(made[name], (1e9 - age, 1e9 - age))
    return made


def left(root: Path) -> set[str]:
    return {file.name for folder in root.iterdir() for file in folder.iterdir()}


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = files(tmp_path, oldest=90, u_old=60, newer=30, u_new=10)
    (tmp_path / "decoded" / ".oldest.lock").touch()
    monkeypatch.setenv("ARCHGRAD_CACHE_GB", "2.5e-6")
    make_room(tmp_path)
    assert left(tmp_path) == {"newer", "u_new", ".oldest.lock"}
    hold(made["newer"])  # which is a use
    monkeypatch.setenv("ARCHGRAD_CACHE_GB", "1e-6")
    make_room(tmp_path)
    assert left(tmp_path) == {"newer", ".oldest.lock"}


def test_what_a_process_holds_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl", reason="there are no locks of files on this system")
    made = files(tmp_path, held=90, free=30)
    monkeypatch.setattr(image_cache, "_held", {})
    assert hold(made["held"])
    monkeypatch.setenv("ARCHGRAD_CACHE_GB", "0")
    make_room(tmp_path)
    assert left(tmp_path) == {"held"}
    for handle in image_cache._held.values():  # as when the process ends
        handle.close()
    make_room(tmp_path)
    assert left(tmp_path) == set()
    assert not hold(made["held"])


def test_a_size_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHGRAD_CACHE_GB", "much")
    with pytest.raises(OptionError, match="at least 0, but is 'much'"):
        make_room(tmp_path)


def test_it_is_where_one_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHGRAD_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("ARCHGRAD_CACHE", raising=False)
    assert decoded_root(None) == tmp_path / "data"
    monkeypatch.setenv("ARCHGRAD_CACHE", str(tmp_path / "cache"))
    assert decoded_root(None) == tmp_path / "cache"
    assert decoded_root(tmp_path / "argument") == tmp_path / "argument"
    monkeypatch.setenv("ARCHGRAD_CACHE", "off")
    own = decoded_root(None)
    assert own == decoded_root(None)
    assert own.is_dir()
    assert tmp_path not in own.parents
