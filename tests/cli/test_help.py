"""Every option is typed and documented, and what is mistyped is met with a hint."""

from __future__ import annotations

import importlib
import inspect

import pytest

import archgrad as ag
from archgrad.cli.commands import COMMANDS
from archgrad.cli.parser import Parser, plain_type

from .typed import Type

PARSERS = [name for name in COMMANDS if name not in ("spaces", "steps", "relaxations")]


def parser_of(command: str) -> Parser:
    return importlib.import_module(f"archgrad.cli.{command.replace('-', '_')}_command").make_parser()


@pytest.mark.parametrize("command", PARSERS)
def test_every_option_is_documented(command: str, archgrad: Type) -> None:
    for action in parser_of(command)._actions:
        assert action.help, action.dest
        assert "None By default" not in action.help, action.dest
    shown = archgrad(command, "--help")
    assert shown.status == 0
    assert shown.out.startswith(f"usage: archgrad {command}")
    assert COMMANDS[command] in shown.out


@pytest.mark.parametrize(("command", "function"), [("search", ag.search), ("retrain", ag.retrain)])
def test_every_plain_parameter_of_the_function_is_an_option_with_its_default(command: str, function: object) -> None:
    objects = {
        *("space", "network", "data", "architecture", "step", "relaxation", "weights_optimizer"),
        "on_epoch",
        "budget",  # which may be typed several times
        *("config", "run_dir", "resume"),  # --config and --resume name a file and a folder, --out is run_dir
    }
    parser = parser_of(command)
    options = {action.dest: action for action in parser._actions}
    parameters = inspect.signature(function).parameters  # type: ignore[arg-type]
    expected = [name for name in parameters if name not in objects]
    assert list(parser.passed_on) == expected
    for name in expected:
        assert options[name].default == parameters[name].default, name
        assert options[name].option_strings[0] == f"--{name.replace('_', '-')}"


def test_only_what_can_be_typed_is_an_option() -> None:
    assert plain_type(int | None) == int | None
    assert plain_type(tuple[float, float]) == tuple[float, float]
    assert plain_type(str | ag.Supernet) is str
    assert plain_type(ag.Supernet | None) is None
    assert plain_type(list[ag.Supernet]) is None
    assert plain_type(object) is None


def test_help_lists_every_command(archgrad: Type) -> None:
    for arguments in ((), ("--help",), ("-h",)):
        shown = archgrad(*arguments)
        assert shown.status == 0
        assert all(f"  {name} " in shown.out and what in shown.out for name, what in COMMANDS.items())
    assert archgrad("--version").out == f"archgrad {ag.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["serch"], "there is no command 'serch'. Did you mean 'search'?"),
        (["search", "--epoch", "3"], "Did you mean --epochs?"),
        (["search", "--batch_size", "3"], "Did you mean --batch-size?"),
        (["search", "--lr", "3"], "Did you mean --learning-rate?"),
        (["search", "--space", "sens.py"], "which class or function of the file is the space. Give sens.py:NAME"),
        (["search", "--method", "drts"], "There is no method 'drts'. Did you mean 'darts'?"),
        (["search", "--step", "second"], "first-order"),
        (["search", "--precision", "16"], "--precision takes one of 32, 64, bf16, fp16, but got 16\n"),
        (["search", "--epochs", "many"], "--epochs takes a whole number, but got many\n"),
        (["search", "--log-frequency", "x"], "--log-frequency takes a whole number, but got x\n"),
        (["search", "--alphas-betas", "0.5"], "takes tuple[float, float], but got 0.5\n"),
        (["search", "--space", "darts-cifer"], "Did you mean 'darts-cifar'?"),
        (["retrain", "--arch", "DARTSV2"], "Did you mean DARTS_V2?"),
        (["retrain"], "--arch"),
        (["query", "DARTS_V2"], "--table"),
        (["show"], "ARCH"),
        (["steps", "first-order"], "unrecognized"),
    ],
)
def test_what_is_mistyped_ends_with_status_2_and_a_hint(arguments: list[str], hint: str, archgrad: Type) -> None:
    outcome = archgrad(*arguments)
    assert outcome.status == 2
    assert hint in outcome.err
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) <= 3
