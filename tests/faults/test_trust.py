"""No file that archgrad reads can run code."""

from __future__ import annotations

import ast
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import archgrad as ag
from archgrad.errors import ArchgradError, RunError
from archgrad.export import load_retrained
from archgrad.report.read import read_run
from archgrad.runs import read_config

from .problems import run_retrain, run_search

SOURCES = Path(ag.__file__).parent

# --- the source -------------------------------------------------------------------------------------------------------

RUNS_CODE = {
    "eval", "exec", "compile", "__import__", "breakpoint", "os.system", "os.popen", "pickle", "cPickle", "dill",
    "cloudpickle", "joblib", "shelve", "marshal", "subprocess", "runpy", "code", "torch.load", "torch.jit.load",
    "torch.hub", "torch.package", "torch.export.load", "numpy.load", "np.load", "yaml.unsafe_load", "yaml.full_load",
    "yaml.load", "yaml.load_all", "importlib", "pandas.read_pickle", "ctypes",
}  # fmt: skip
"""Names through which a file, or text from one, may become code."""

ALLOWED = {
    "fast/malloc.py": {"ctypes"},  # one setting of the C library that the process has loaded; no file is named
    "fast/dataflow.py": {"compile"},  # the text of a function that is loaded, to compare it; it is not run
    "fast/native/library.py": {"ctypes"},  # kernels that were built with the package, from its own folder
    "data/arrays.py": {"np.load"},  # with allow_pickle=False; tests/data/test_arrays.py tries it
    "data/sources.py": {"importlib"},  # importlib.util.find_spec: where scikit-learn lies
    "runs/config.py": {"yaml.load"},  # with a loader that extends SafeLoader; a test below tries it
    "runs/environment.py": {"importlib"},  # importlib.metadata: versions
    "runs/loggers.py": {"importlib"},  # wandb and mlflow, by fixed names
    "report/page.py": {"importlib"},  # importlib.resources: archgrad's own style sheet
    "export/write_model.py": {"torch.export.load"},  # reads back, to compare, the bytes that it has just made
    "export/session.py": {"importlib"},  # onnxruntime and onnx, by fixed names
    "cli/main.py": {"importlib"},  # archgrad.cli.COMMAND, from a fixed table
    "cli/convert_command.py": {"pickle", "torch.load"},  # pickle for its error; with weights_only=True
    "cli/doctor_command.py": {"importlib"},  # importlib.metadata: versions
    "cli/nni_run_command.py": {"runpy"},  # a script of one's own is a Python program
    "cli/own_code.py": {"importlib"},  # a space or data of one's own is a Python program
    "study/runner.py": {"subprocess"},  # archgrad itself, with the options of the study as a file
    "study/forks.py": {"subprocess"},  # Python itself, with a command of the study's
    "study/slurm.py": {"subprocess"},  # the same, on a cluster
    "__init__.py": {"importlib"},  # archgrad's own modules
}


def found_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Name | ast.Attribute):
            yield ast.unparse(node)


def suspects(source: str) -> set[str]:
    names = set(found_names(ast.parse(source)))
    return {bad for bad in RUNS_CODE for name in names if name == bad or name.startswith(f"{bad}.")}


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)", "exec(text)", "import pickle", "from pickle import loads", "import torch\ntorch.load(path)",
        "from torch import load", "from os import system", "import yaml\nyaml.load(text)", "import subprocess as s",
        "__import__(name)", "np.load(path, allow_pickle=True)",
    ],
)  # fmt: skip
def test_the_watch_sees_what_it_should(source: str) -> None:
    assert suspects(source)


def test_the_source_uses_nothing_that_turns_files_into_code() -> None:
    found = {}
    for file in sorted(SOURCES.rglob("*.py")):
        name = file.relative_to(SOURCES).as_posix()
        if left := suspects(file.read_text(encoding="utf-8")) - ALLOWED.get(name, set()):
            found[name] = left
    assert found == {}


def test_nothing_is_allowed_that_is_not_used() -> None:
    for name, allowed in ALLOWED.items():
        assert allowed <= suspects((SOURCES / name).read_text(encoding="utf-8")), name


# --- run folders ------------------------------------------------------------------------------------------------------


class Hostile:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


def by_pickle(file: Path, proof: Path) -> None:
    file.write_bytes(pickle.dumps(Hostile(proof)))


def by_torch(file: Path, proof: Path) -> None:
    torch.save({"state_dict": Hostile(proof)}, file)


def by_yaml(file: Path, proof: Path) -> None:
    file.write_text(f"command: !!python/object/apply:os.mkdir ['{proof}']\n")


def by_python(file: Path, proof: Path) -> None:
    file.write_text(f"__import__('os').mkdir({str(proof)!r})\n")


def read_everything(runs: Path) -> list[BaseException]:
    """Use the folders of a search and a retraining in every way; return the errors."""
    attempts: list[Callable[[], object]] = [
        lambda: run_search(runs / "search", resume=True, epochs=1),
        lambda: run_retrain(runs / "retrain", resume=True, epochs=1),
        lambda: ag.Architecture.load(runs / "search" / "checkpoints" / "epoch_0.json"),
        lambda: ag.Architecture.load(runs / "retrain" / "architecture.json"),
        lambda: read_run(runs / "search"),
        lambda: read_run(runs / "retrain"),
        lambda: load_retrained(runs / "retrain", space=ag.spaces.tiny(channels=4)),
        lambda: load_retrained(runs / "retrain", space=ag.spaces.tiny(channels=4), weights="best"),
    ]
    errors: list[BaseException] = []
    for attempt in attempts:
        try:
            attempt()
        except ArchgradError as error:
            errors.append(error)
    return errors


def test_the_folders_can_be_used_when_nobody_has_touched_them(runs: Path, tmp_path: Path) -> None:
    assert read_everything(Path(shutil.copytree(runs, tmp_path / "runs"))) == []


@pytest.mark.parametrize(
    ("write", "pattern"),
    [(by_pickle, "*"), (by_torch, "*.ckpt"), (by_torch, "*.safetensors"), (by_yaml, "*.yaml"), (by_python, "*.json")],
)
def test_no_hostile_file_in_a_run_folder_is_run(
    write: Callable[[Path, Path], None], pattern: str, runs: Path, tmp_path: Path
) -> None:
    files = [file for file in sorted(runs.rglob(pattern)) if file.is_file() and not file.name.startswith(".")]
    assert files
    for file in files:
        copy, proof = Path(shutil.copytree(runs, tmp_path / "runs")), tmp_path / "proof"
        write(copy / file.relative_to(runs), proof)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as: going on from the older checkpoint
            read_everything(copy)
        assert not proof.exists(), file
        shutil.rmtree(copy)


@pytest.mark.parametrize("write", [by_pickle, by_torch])
def test_hostile_checkpoints_are_refused_by_name(
    write: Callable[[Path, Path], None], runs: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(runs, tmp_path / "runs"))
    for file in copy.rglob("*.ckpt"):
        write(file, tmp_path / "proof")
    for run in (run_search, run_retrain):
        with pytest.raises(RunError, match="does not start as a checkpoint of archgrad does"):
            run(copy / run.__name__.removeprefix("run_"), resume=True, epochs=1)
    for name, remedy in (("last", "pickled files"), ("best", "pickled files")):
        write(copy / "retrain" / "weights" / f"{name}.safetensors", tmp_path / "proof")
        with pytest.raises(RunError, match=remedy):
            load_retrained(copy / "retrain", space=ag.spaces.tiny(channels=4), weights=name)
    assert not (tmp_path / "proof").exists()


def test_a_configuration_that_unfolds_without_end_is_refused_by_the_report_too(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    (note,) = read_run(tmp_path).notes
    assert note.startswith("config.yaml cannot be read: ")
    assert "aliases are not allowed" in note


# --- configurations ---------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["a", "space", "!!python/name:os.system", "!!python/object/apply:os.mkdir", "!!python/tuple", "!!set", "!!omap",
     "!!binary", "!!int", "!!float", "!!timestamp", "!local", "&x", "*x", "<<", "?", "|", ">", "%YAML 1.2", "---",
     "...", "~", "0x_", "1e999", ".nan", "0b2", "1:60", "2001-01-01", "'", '"', "\\", "\ud7ff", "\x85", "#", "@", "`"]
)  # fmt: skip
GLUE = st.sampled_from([" ", ": ", "\n", "\n  ", "\n- ", ", ", "[", "]", "{", "}", ""])


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.tuples(WORDS, GLUE), max_size=12))
def test_any_text_of_yaml_is_a_configuration_or_a_run_error(parts: list[tuple[str, str]], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("".join(word + glue for word, glue in parts), encoding="utf-8")
    try:
        config = read_config(file)
    except RunError as error:
        assert "config" in str(error)  # noqa: PT017 (most texts are refused, some are read)
    else:
        assert yaml.safe_load(yaml.safe_dump(config)) == config or re.search(r"nan", str(config))
