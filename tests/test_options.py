"""An option is said once: its field is the keyword of the function, its documentation, and the option that is typed."""

from __future__ import annotations

import inspect
import pickle
import typing
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any

import pytest

import archgrad as ag
from archgrad.engine import RunOptions, TrainingOptions
from archgrad.options import Options, docs_of, names_of, signature_of, takes, values_of
from archgrad.retrain.recipe import RetrainOptions
from archgrad.search.search_options import SearchOptions
from archgrad.tasks import TaskOptions

FUNCTIONS = [(ag.search, SearchOptions), (ag.retrain, RetrainOptions)]


@dataclass(frozen=True, kw_only=True)
class Shared(Options):
    speed: int
    """How fast it goes, in
    metres a second."""
    colour: str = "red"
    """Its colour."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.speed < 0:
            raise ValueError(f"speed={self.speed}")


@dataclass(frozen=True)
class Own(Shared):
    """A vehicle."""

    wheels: int
    """How many it has."""
    _: KW_ONLY
    speed: int = 3
    name: str = "car"
    """What it is called."""


@takes(Own)
def drive(options: Own) -> tuple[Any, ...]:
    """Drive.

    Returns:
        All that was given.
    """
    return options.wheels, options.speed, options.colour, options.name


def test_a_function_takes_the_fields_as_they_are_declared() -> None:
    assert drive(4) == (4, 3, "red", "car")
    assert drive(wheels=2, colour="blue", speed=1, name="bike") == (2, 1, "blue", "bike")
    with pytest.raises(ValueError, match="speed=-1"):
        drive(4, speed=-1)


def test_own_options_come_before_those_that_are_inherited() -> None:
    assert str(inspect.signature(drive)) == (
        "(wheels: 'int', *, name: 'str' = 'car', speed: 'int' = 3, colour: 'str' = 'red') -> 'tuple[Any, ...]'"
    )
    assert names_of(Own) == ("wheels", "name", "speed", "colour")
    assert values_of(Own(4, colour="blue"), Shared) == {"speed": 3, "colour": "blue"}
    assert typing.get_type_hints(drive) == {"wheels": int, "speed": int, "name": str, "colour": str} | {
        "return": tuple[Any, ...]
    }


def test_a_field_that_is_declared_again_without_a_text_keeps_the_one_before() -> None:
    assert docs_of(Own) == {
        "speed": "How fast it goes, in metres a second.",
        "colour": "Its colour.",
        "wheels": "How many it has.",
        "name": "What it is called.",
    }
    assert drive.__doc__ == (
        "Drive.\n\nArgs:\n    wheels: How many it has.\n    name: What it is called.\n"
        "    speed: How fast it goes, in metres a second.\n    colour: Its colour.\n\nReturns:\n    All that was given."
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ag.search("tiny", "digits", epoch=3), "search() got an unexpected keyword argument 'epoch'. Did you "),
        (lambda: ag.retrain(None, "digits", learnin_rate=1), "'learnin_rate'. Did you mean 'learning_rate'?"),
        (lambda: ag.search("tiny"), "search() missing a required argument: 'data'"),
        (lambda: ag.search("tiny", "digits", 3), "search() too many positional arguments"),
        (lambda: drive(4, qqq=1), "drive() got an unexpected keyword argument 'qqq'"),
    ],
)
def test_a_slip_in_the_call_names_the_function_and_the_nearest_option(call: Any, message: str) -> None:
    with pytest.raises(TypeError) as raised:
        call()
    assert message in str(raised.value)
    assert ("Did you mean" in str(raised.value)) == ("Did you" in message)


@pytest.mark.parametrize(("function", "options"), FUNCTIONS)
def test_search_and_retrain_are_called_as_their_options_are_made(function: Any, options: Any) -> None:
    signature = inspect.signature(function)
    assert list(signature.parameters.values()) == list(signature_of(options).parameters.values())
    assert set(signature.parameters) == {field.name for field in fields(options)}
    positional = [name for name, each in signature.parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    assert positional[1:] == ["data"]
    assert typing.get_type_hints(function)["seed"] is int
    assert pickle.loads(pickle.dumps(function)) is function


@pytest.mark.parametrize(("function", "options"), FUNCTIONS)
def test_every_option_is_documented_where_help_shows_it(function: Any, options: Any) -> None:
    docs = docs_of(options)
    assert all(docs[name].endswith(".") for name in names_of(options))
    said = " ".join(function.__doc__.split())
    assert all(f" {name}: {docs[name]}" in said for name in names_of(options))
    assert function.__doc__.index("Args:") < function.__doc__.index("Returns:") < function.__doc__.index("Raises:")
    assert max(map(len, function.__doc__.splitlines())) <= 120


def test_what_search_and_retrain_share_they_have_from_the_same_classes() -> None:
    own = {*names_of(RunOptions), *names_of(TrainingOptions), *names_of(TaskOptions)}
    shared = set(names_of(SearchOptions)) & set(names_of(RetrainOptions))
    # These mean something else in each: passes over half of the data or all, a speed with or without rounding.
    assert shared - own == {"data", "epochs", "cutout", "fast"}
