"""The bilevel steps and relaxations by name, with the options of each."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from archgrad import bilevel, relaxation
from archgrad.bilevel import BilevelStep, Unrolled
from archgrad.cli.names import UNROLLED, name_of
from archgrad.cli.parser import Parser, dashed
from archgrad.options import is_class
from archgrad.relaxation import Relaxation

__all__ = ["RELAXATIONS", "STEPS", "Part", "add_parts"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A step or relaxation that can be asked for by name."""

    make: type
    """Its class; the plain parameters are its options."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Parameters that the name itself decides."""
    without: tuple[str, ...] = ()
    """Parameters that mean nothing under this name."""

    @property
    def options(self) -> tuple[str, ...]:
        """The parameters that a person may set."""
        own = inspect.signature(self.make).parameters
        return tuple(name for name in own if name not in self.fixed and name not in self.without)


def _parts(module: Any, base: type) -> dict[str, Part]:
    members = [getattr(module, name) for name in module.__all__]
    classes = [member for member in members if is_class(member) and issubclass(member, base)]
    return {name_of(part.__name__): Part(make=part) for part in classes if not inspect.isabstract(part)}


STEPS = {
    **_parts(bilevel, BilevelStep),
    **{
        name: Part(make=Unrolled, fixed={"hvp": hvp}, without=("finite_difference_radius",) if hvp == "exact" else ())
        for name, hvp in UNROLLED.items()
    },
}
RELAXATIONS = _parts(relaxation, Relaxation)


def add_parts(parser: Parser, kind: str, parts: Mapping[str, Part], *, default: str) -> None:
    """Add the option `--<kind>`, and the options of each part under their own headings.

    An option that is not given is None, which stands for the part's own default.
    """
    group = parser.add_argument_group(kind)
    group.add_argument(
        f"--{kind}",
        type=str | None,
        metavar="NAME",
        help=f"Which {'bilevel step' if kind == 'step' else kind}: {', '.join(parts)}, or FILE.py:NAME; "
        f"'archgrad {kind}s' describes them. By default as the method says, else {default}.",
    )
    taken: set[str] = set()
    for name, part in parts.items():
        new = [option for option in part.options if option not in taken]
        if not new:
            continue
        for option in parser.add_options_of(part.make, f"of --{kind} {name}", only=new):
            action = parser._option_string_actions[dashed(f"--{option}")]
            action.help = f"{action.help} By default {action.default}."
            action.default = None
            taken.add(option)
