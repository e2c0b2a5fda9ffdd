"""A space of one's own is loaded beside everything else: it hides no module, and leaves the import path as it was."""

from __future__ import annotations

import copy
import pickle
import random
import sys
from pathlib import Path

import pytest
from torch import nn

from archgrad.cli.spaces import space_builder
from archgrad.data import Data, load
from archgrad.errors import SpaceError

SOURCE = """
from dataclasses import dataclass

from torch import nn

import archgrad as ag


@dataclass
class Sizes:
    width: "int" = 3


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = ag.LayerChoice([nn.Identity(), nn.Linear(Sizes().width, 3)])
"""


@pytest.fixture
def data() -> Data:
    return load("digits")


def build(text: str, data: Data) -> nn.Module:
    return space_builder(text, data, stage="search")[0]()


@pytest.mark.parametrize("name", ["random", "torch", "archgrad", "my space"])
def test_a_file_takes_the_place_of_no_module(name: str, data: Data, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text(SOURCE, encoding="utf-8")
    before = dict(sys.modules)
    space = build(f"{tmp_path / name}.py:Net", data)
    assert {module: sys.modules[module] for module in before} == before
    assert sys.modules["random"] is random
    assert type(pickle.loads(pickle.dumps(space))) is type(copy.deepcopy(space)) is type(space)


def test_files_of_one_name_stand_beside_each_other(data: Data, tmp_path: Path) -> None:
    spaces = []
    for folder, width in (("a", 5), ("b", 7)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.py").write_text(SOURCE.replace("= 3", f"= {width}"), encoding="utf-8")
        spaces.append(build(f"{tmp_path / folder / 'net.py'}:Net", data))
    widths = [pickle.loads(pickle.dumps(space)).layer["1"].in_features for space in spaces]
    assert widths == [5, 7]
    assert [type(pickle.loads(pickle.dumps(space))) for space in spaces] == [type(space) for space in spaces]


def test_a_file_that_fails_leaves_no_half_of_a_module(data: Data, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("class Net: pass\nraise RuntimeError('broken')\n", encoding="utf-8")
    before = set(sys.modules)
    with pytest.raises(RuntimeError, match="broken"):
        build(f"{tmp_path / 'broken.py'}:Net", data)
    assert set(sys.modules) == before


def test_a_module_of_the_working_folder_hides_no_installed_one(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "this", raising=False)
    (tmp_path / "this.py").write_text("raise AssertionError('the wrong one')\n", encoding="utf-8")
    (tmp_path / "mine_alone.py").write_text(f"import this\n{SOURCE}", encoding="utf-8")
    before = list(sys.path)
    space = build("mine_alone:Net", data)
    assert isinstance(space, nn.Module)
    assert Path(sys.modules["this"].__file__ or "").parent != tmp_path
    assert sys.path == before
    with pytest.raises(SpaceError, match="cannot be imported"):
        build("mine_not_there:Net", data)
    assert sys.path == before
