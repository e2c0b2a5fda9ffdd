"""Differentiable architecture search over any PyTorch module.

space -> Supernet -> search -> Architecture -> derive -> retrain -> report
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archgrad import (
        architectures,
        bilevel,
        data,
        export,
        methods,
        official,
        optimizers,
        perturbations,
        regularizers,
        relaxation,
        selection,
        spaces,
        stopping,
        testing,
    )
    from archgrad.architecture import Architecture
    from archgrad.bilevel import StepReport, search_step
    from archgrad.cell import Cell
    from archgrad.choices import InputChoice, LayerChoice
    from archgrad.derive import derive
    from archgrad.discretize import discretize, random_architecture
    from archgrad.methods import Method, Stage
    from archgrad.nni import DartsTrainer
    from archgrad.retrain import RetrainResult, retrain
    from archgrad.schedules import Progress
    from archgrad.search import SearchResult, search
    from archgrad.supernet import Supernet

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "Cell",
    "DartsTrainer",
    "InputChoice",
    "LayerChoice",
    "Method",
    "Progress",
    "RetrainResult",
    "SearchResult",
    "Stage",
    "StepReport",
    "Supernet",
    "architectures",
    "bilevel",
    "data",
    "derive",
    "discretize",
    "export",
    "methods",
    "official",
    "optimizers",
    "perturbations",
    "random_architecture",
    "regularizers",
    "relaxation",
    "retrain",
    "search",
    "search_step",
    "selection",
    "spaces",
    "stopping",
    "testing",
]

_HOMES = {
    "Architecture": "architecture",
    "Cell": "cell",
    "DartsTrainer": "nni",
    "InputChoice": "choices",
    "LayerChoice": "choices",
    "Method": "methods",
    "Progress": "schedules",
    "RetrainResult": "retrain",
    "SearchResult": "search",
    "Stage": "methods",
    "StepReport": "bilevel",
    "Supernet": "supernet",
    "derive": "derive",
    "discretize": "discretize",
    "random_architecture": "discretize",
    "retrain": "retrain",
    "search": "search",
    "search_step": "bilevel",
}
"""Where each public name that is no module is defined."""

if not TYPE_CHECKING:  # type checkers read the imports above, and so know a misspelt name from a public one

    class _Package(ModuleType):
        """Imports a public name when it is asked for, so that looking at an architecture does not wait for torch."""

        def __getattr__(self, name):
            if name.startswith("_"):
                raise AttributeError(f"module 'archgrad' has no attribute {name!r}")
            home = f"archgrad.{_HOMES.get(name, name)}"
            try:
                module = importlib.import_module(home)
            except ModuleNotFoundError as error:
                if error.name != home:  # something that the module needs is missing, which is another matter
                    raise
                raise AttributeError(f"module 'archgrad' has no attribute {name!r}") from None
            value = getattr(module, name) if name in _HOMES else module
            self.__dict__[name] = value
            return value

        def __setattr__(self, name, value):
            # Importing archgrad.search binds the name "search" to the module; here it is the function's.
            if not (isinstance(value, ModuleType) and name in _HOMES):
                super().__setattr__(name, value)

        def __dir__(self):
            return sorted({*super().__dir__(), *__all__})

    sys.modules[__name__].__class__ = _Package
