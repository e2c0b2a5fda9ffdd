"""Differentiable architecture search over any PyTorch module.

space -> Supernet -> search -> Architecture -> derive -> retrain -> report
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archgrad import (
        always_on,
        architectures,
        bilevel,
        cost,
        data,
        errors,
        export,
        losses,
        methods,
        nn,
        official,
        optimizers,
        perturbations,
        regularizers,
        relaxation,
        report,
        schedules,
        selection,
        spaces,
        stopping,
        tasks,
        testing,
        weights_rules,
        zero_cost,
    )
    from archgrad.architecture import Architecture
    from archgrad.bilevel import FirstOrder, StepReport, Unrolled, search_step
    from archgrad.cell import Cell
    from archgrad.choices import InputChoice, LayerChoice
    from archgrad.data import Data
    from archgrad.derive import derive
    from archgrad.discretize import discretize, random_architecture
    from archgrad.expected_cost import ExpectedCost
    from archgrad.methods import Ensemble, Method, Stage
    from archgrad.nni import DartsTrainer
    from archgrad.random_search import random_search
    from archgrad.relaxation import Gumbel, Simplex, Softmax
    from archgrad.repeat import Repeat
    from archgrad.report import draw_architecture, write_report
    from archgrad.retrain import RetrainResult, retrain
    from archgrad.runs import Halted, Interrupted
    from archgrad.schedules import Progress
    from archgrad.search import SearchResult, search
    from archgrad.stopping import Stop
    from archgrad.study import Study, StudyResult, study
    from archgrad.supernet import Supernet
    from archgrad.values import ValueChoice

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "Cell",
    "DartsTrainer",
    "Data",
    "Ensemble",
    "ExpectedCost",
    "FirstOrder",
    "Gumbel",
    "Halted",
    "InputChoice",
    "Interrupted",
    "LayerChoice",
    "Method",
    "Progress",
    "Repeat",
    "RetrainResult",
    "SearchResult",
    "Simplex",
    "Softmax",
    "Stage",
    "StepReport",
    "Stop",
    "Study",
    "StudyResult",
    "Supernet",
    "Unrolled",
    "ValueChoice",
    "always_on",
    "architectures",
    "bilevel",
    "cost",
    "data",
    "derive",
    "discretize",
    "draw_architecture",
    "errors",
    "export",
    "losses",
    "methods",
    "nn",
    "official",
    "optimizers",
    "perturbations",
    "random_architecture",
    "random_search",
    "regularizers",
    "relaxation",
    "report",
    "retrain",
    "schedules",
    "search",
    "search_step",
    "selection",
    "spaces",
    "stopping",
    "study",
    "tasks",
    "testing",
    "weights_rules",
    "write_report",
    "zero_cost",
]

_HOMES = {
    "Architecture": "architecture",
    "Cell": "cell",
    "DartsTrainer": "nni",
    "Data": "data",
    "Ensemble": "methods",
    "ExpectedCost": "expected_cost",
    "FirstOrder": "bilevel",
    "Gumbel": "relaxation",
    "Halted": "runs",
    "InputChoice": "choices",
    "Interrupted": "runs",
    "LayerChoice": "choices",
    "Method": "methods",
    "Progress": "schedules",
    "Repeat": "repeat",
    "RetrainResult": "retrain",
    "SearchResult": "search",
    "Simplex": "relaxation",
    "Softmax": "relaxation",
    "Stage": "methods",
    "StepReport": "bilevel",
    "Stop": "stopping",
    "Study": "study",
    "StudyResult": "study",
    "Supernet": "supernet",
    "Unrolled": "bilevel",
    "ValueChoice": "values",
    "derive": "derive",
    "discretize": "discretize",
    "draw_architecture": "report",
    "random_architecture": "discretize",
    "random_search": "random_search",
    "retrain": "retrain",
    "search": "search",
    "search_step": "bilevel",
    "study": "study",
    "write_report": "report",
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
            return sorted(__all__)  # what people use; any other submodule is still there for who names it

    sys.modules[__name__].__class__ = _Package
