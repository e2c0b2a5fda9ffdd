"""What is said several times of how archgrad is built and tried agrees."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PROJECT, SETUP = ((ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "setup.py"))
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))


def said(pattern: str, text: str = PROJECT) -> str:
    found = re.findall(pattern, text, re.MULTILINE)
    assert len(found) == 1, (pattern, found)
    return found[0]


def test_the_oldest_python_is_the_same_wherever_it_is_named() -> None:
    versions = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
    oldest = said(r'^requires-python = ">=(.+)"')
    assert versions[0] == oldest
    assert said(r'^python_version = "(.+)"') == oldest  # mypy
    tag = oldest.replace(".", "")
    assert said(r'^target-version = "py(\d+)"') == tag  # ruff
    assert said(r'^build = "cp(\d+)-manylinux_x86_64"') == tag  # cibuildwheel
    assert said(r'"py_limited_api": "cp(\d+)"', SETUP) == tag
    assert WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"] == [versions[0], versions[-1]]


def test_the_workflow_runs_what_a_person_runs_and_wheels_follow_a_tag() -> None:
    steps = [step["run"] for step in WORKFLOW["jobs"]["test"]["steps"] if "run" in step]
    assert steps == ["make test", "make dist"]
    for target in steps:
        assert re.search(rf"^{target.removeprefix('make ')}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    wheels = WORKFLOW["jobs"]["wheels"]
    assert wheels["needs"] == "test"
    assert "refs/tags/v" in wheels["if"]
    assert said(r'^test-command = "python \{project\}/(.+)"') == ".ci/try_kernels.py"
    assert (ROOT / ".ci/try_kernels.py").is_file()


def test_a_change_of_any_header_builds_the_kernels_again() -> None:
    native = ROOT / "src/archgrad/fast/native"
    named = set(re.findall(r'"(\w+)"', SETUP[SETUP.index("HEADERS = (") : SETUP.index("kernels = Extension")]))
    assert named == {file.stem for file in native.glob("*.hpp")}
