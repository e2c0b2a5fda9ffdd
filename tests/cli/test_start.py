"""Nothing is imported before it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
    for name in ag.__all__:
        assert getattr(ag, name) is not None
        assert name in dir(ag)
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
