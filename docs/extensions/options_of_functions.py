"""Lets the API pages show a function of options with each of its options, as `help` does."""

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import griffe


class OptionsOfFunctions(griffe.Extension):
    """Gives functions that are decorated with `archgrad.options.takes` their parameters and documentation."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Change the functions of a package that is read."""
        for function in _functions(pkg):
            if any(str(decorator.value).startswith("takes(") for decorator in function.decorators):
                _show_options(function)


def _functions(module: griffe.Module) -> Iterator[griffe.Function]:
    yield from (found for found in module.functions.values() if not found.is_alias)
    for inner in module.modules.values():
        if not inner.is_alias:
            yield from _functions(inner)


def _show_options(function: griffe.Function) -> None:
    real = getattr(importlib.import_module(function.module.path), function.name)
    options = function.modules_collection[function.parameters["options"].annotation.canonical_path]
    owners = [options, *options.mro()]
    parameters = []
    for name, parameter in inspect.signature(real).parameters.items():
        field = next(owner.members[name] for owner in owners if name in owner.members)
        kind = griffe.ParameterKind[parameter.kind.name.lower()]
        parameters.append(griffe.Parameter(name, annotation=field.annotation, kind=kind, default=field.value))
    function.parameters = griffe.Parameters(*parameters)
    function.docstring.value = real.__doc__
