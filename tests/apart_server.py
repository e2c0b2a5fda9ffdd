"""Forks the processes of `apart`, which find torch and archgrad imported."""

from __future__ import annotations

import os
import runpy
import sys
import types
import warnings
from typing import Any

import torch
import torch.utils.tensorboard

import archgrad as ag
from archgrad.study.forks import serve

PATH = list(sys.path[1:])  # without the folder of this script


def run(request: dict[str, Any]) -> None:
    """Do what `python ARGUMENTS` does, the environment and folder being as told."""
    errors = os.open(request["errors"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 2)
    os.close(errors)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if request["ignore_warnings"]:
        warnings.simplefilter("ignore")
    script, *rest = request["arguments"]
    own = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    if script == "-m":
        sys.argv, sys.path = rest, [os.getcwd(), *own, *PATH]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif script == "-c":
        code, *rest = rest
        sys.argv, sys.path = [script, *rest], ["", *own, *PATH]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        sys.argv, sys.path = [script, *rest], [os.path.dirname(script), *own, *PATH]
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    for name in ag.__all__:
        getattr(ag, name)
    torch.set_num_threads(1)
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)  # torch loads its compiler with the first optimizer
    serve(run)
