"""Habits of the house that a reader relies on."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import archgrad

PACKAGE = Path(archgrad.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_the_median_module_is_about_150_lines_at_most() -> None:
    lengths = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES)
    assert lengths[len(lengths) // 2] <= 150


def test_no_module_is_called_by_what_it_is_not() -> None:
    assert not {path.stem for path in FILES} & {"utils", "util", "helpers", "common", "misc"}


def test_the_map_of_the_fast_path_names_what_there_is() -> None:
    room = PACKAGE / "fast"
    docs = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    named = set(re.findall(r"`(\w+)`", docs.partition("\n- ")[2]))
    there = {path.stem for path in room.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert named == there - {"__init__", "accelerate"}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: str(path.parent.relative_to(PACKAGE.parent))
)
def test_packages_say_what_they_offer(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    if any(isinstance(node, ast.ImportFrom) for node in tree.body):
        assert any(
            isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
            for node in tree.body
        )


def test_every_public_name_is_there() -> None:
    for name in archgrad.__all__:
        assert getattr(archgrad, name) is not None


def test_the_map_of_the_house_names_every_room_and_nothing_else() -> None:
    page = Path(__file__).parents[1] / "docs" / "where-everything-is.md"
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", page.read_text(encoding="utf-8")))
    rooms = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    modules = {path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__")}
    assert rooms | modules <= named
    assert all((PACKAGE / name).exists() for name in named - {"src/archgrad"})


def test_no_file_name_occurs_twice() -> None:
    names = [path.name for path in FILES if path.name != "__init__.py"]
    assert sorted({name for name in names if names.count(name) > 1}) == []
