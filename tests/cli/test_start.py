"""Nothing is imported before it is needed."""

from __future__ import annotations

import dataclasses
import importlib
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import archgrad as ag
from archgrad.cli.lists import entries
from archgrad.cli.parts import RELAXATIONS, STEPS
from archgrad.cli.spaces import SPACES

QUICK_COMMANDS = """
import sys
from archgrad.cli import main
for command in ("--help", "spaces", "steps", "relaxations", "show DARTS_V2", "show DARTS_V2 --dot"):
    assert main(command.split()) == 0, command
heavy = {"torch", "torchvision", "sklearn", "lightning", "lightning_fabric", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_looking_things_up_does_not_wait_for_torch() -> None:
    done = python(QUICK_COMMANDS)
    assert done.returncode == 0, done.stderr


def test_functions_keep_their_names_when_modules_of_the_same_name_are_imported() -> None:
    code = "import archgrad.search, archgrad.retrain, archgrad.derive, archgrad.discretize, archgrad as ag\n" + "".join(
        f"assert callable(ag.{name}), '{name}'\n" for name in ("search", "retrain", "derive", "discretize")
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there_and_no_other() -> None:
    assert dir(ag) == sorted(ag.__all__)
    for name in ag.__all__:
        assert getattr(ag, name) is not None
    with pytest.raises(AttributeError, match="'serch'"):
        _ = ag.serch  # type: ignore[attr-defined]


def test_a_missing_requirement_is_not_taken_for_a_missing_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needy.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.setattr(ag, "__path__", [*ag.__path__, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        _ = ag.needy  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "members"), [("spaces", SPACES), ("steps", STEPS), ("relaxations", RELAXATIONS)])
def test_lists_hold_what_there_is(name: str, members: dict[str, object]) -> None:
    found = entries(name)
    assert {entry.name for entry in found} == set(members)
    assert all(entry.description.endswith(".") for entry in found)


def test_module_runs_as_the_command_does_and_a_closed_pipe_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "archgrad", "show", "NASNet"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # before anything is written: as `| head` that has gone
    assert process.wait() == 128 + 13
    assert process.stderr.read() == ""
    process.stderr.close()


def test_what_people_use_is_at_the_top() -> None:
    homes = {
        "bilevel": ("FirstOrder", "Unrolled"),
        "relaxation": ("Gumbel", "Simplex", "Softmax"),
        "data": ("Data",),
        "report": ("draw_architecture", "write_report"),
        "runs": ("Interrupted",),
        "stopping": ("Stop",),
    }
    for home, names in homes.items():
        for name in names:
            assert getattr(ag, name) is getattr(importlib.import_module(f"archgrad.{home}"), name)
    assert ag.cost.count_parameters
    assert issubclass(ag.errors.OptionError, Exception)
    assert importlib.import_module("archgrad.nasbench") is ag.nasbench  # type: ignore[attr-defined]  # not listed, and there


@pytest.mark.parametrize(
    "result",
    [
        ag.SearchResult,
        ag.RetrainResult,
        ag.StepReport,
        ag.Stop,
        ag.bilevel.AlphasGradient,
        ag.export.Exported,
        ag.export.ModelDescription,
        ag.export.Prediction,
    ],
)
def test_help_explains_every_field_of_a_result(result: Any) -> None:
    described = pydoc.plain(pydoc.render_doc(result))
    for field in dataclasses.fields(result):
        if not field.name.startswith("_"):
            assert re.search(rf"^ \|\s+{field.name}: \S.*", described, re.MULTILINE), field.name
