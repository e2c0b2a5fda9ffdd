"""The modules of NNI that scripts import, as a table of names: below `archgrad.nni`, and as `nni` for `nni-run`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import Any, NoReturn

from torch import nn
from torch.utils.data import DataLoader

from archgrad.errors import OptionError
from archgrad.nni import evaluators, experiments, frozen, hub, layers, lightning_modules, numbering, strategies
from archgrad.nni.average_meter import AverageMeter, AverageMeterGroup
from archgrad.nni.open_layers import OPEN_LAYERS
from archgrad.nni.trainer import DartsTrainer

__all__ = ["MODULES", "install"]

_TRIALS = "archgrad.random_search(...), or a study over seeds and methods (archgrad study STUDY.yaml)"
_METHODS = "another method of archgrad.search(method=...); `archgrad methods` lists them"
_OWN_STEPS = "archgrad.search(loss=..., metrics=..., weights_optimizer=...)"
_SPACES = "a space of archgrad.spaces, or one that is written with LayerChoice, InputChoice and Cell"
_NUMBERS = "ValueChoice over numbers, or LayerChoice over modules"


def _same(wrapped: Any) -> Any:
    """Return what is given: NNI's decorators record arguments for other processes, of which there are none."""
    return wrapped


_TRAINING = {name: getattr(evaluators, name) for name in ("Classification", "Lightning", "Regression", "Trainer")} | {
    "ClassificationModule": lightning_modules.ClassificationModule,
    "DataLoader": DataLoader,
    "LightningModule": lightning_modules.LightningModule,
    "RegressionModule": lightning_modules.RegressionModule,
    "SupervisedLearningModule": lightning_modules.SupervisedLearningModule,
}
_LAYERS = {name: getattr(layers, name) for name in layers.__all__ if name != "choice"} | {
    **OPEN_LAYERS,
    **{f"Mutable{name}": layer for name, layer in OPEN_LAYERS.items()},
    "ModelSpace": numbering.ModelSpace,
    "MutableModule": nn.Module,
    "ParametrizedModule": nn.Module,
}
_STRATEGIES = {"DARTS": strategies.DARTS, "GumbelDARTS": strategies.GumbelDARTS}
_NNI2 = {
    "RetiariiExperiment": experiments.RetiariiExperiment,
    "RetiariiExeConfig": experiments.RetiariiExeConfig,
}
_NNI3 = {"NasExperiment": experiments.NasExperiment, "NasExperimentConfig": experiments.RetiariiExeConfig}
_FIXED = {"fixed_arch": frozen.fixed_arch}
_CONTEXT = {"model_context": frozen.fixed_arch, "current_model": frozen.current_model}
_METERS = {"AverageMeter": AverageMeter, "AverageMeterGroup": AverageMeterGroup}
_WRAPPERS = {"model_wrapper": numbering.model_wrapper, "basic_unit": _same, "serialize": _same}

MODULES: Mapping[str, Mapping[str, Any]] = {
    "": {"trace": _same, "choice": layers.choice, "DartsTrainer": DartsTrainer},
    "retiarii": {**_WRAPPERS, **_FIXED},
    "retiarii.nn": {},
    "retiarii.nn.pytorch": _LAYERS,
    "retiarii.oneshot": {},
    "retiarii.oneshot.pytorch": {"DartsTrainer": DartsTrainer},
    "retiarii.oneshot.pytorch.utils": _METERS,
    "retiarii.strategy": _STRATEGIES,
    "retiarii.evaluator": {},
    "retiarii.evaluator.pytorch": _TRAINING,
    "retiarii.evaluator.pytorch.lightning": _TRAINING,
    "retiarii.experiment": {},
    "retiarii.experiment.pytorch": _NNI2,
    "retiarii.hub": {},
    "retiarii.hub.pytorch": {"DARTS": hub.DARTS},
    "retiarii.fixed": _FIXED,
    "nas": {},
    "nas.pytorch": {},
    "nas.pytorch.utils": _METERS,
    "nas.nn": {},
    "nas.nn.pytorch": _LAYERS,
    "nas.strategy": _STRATEGIES,
    "nas.evaluator": {},
    "nas.evaluator.pytorch": _TRAINING,
    "nas.experiment": _NNI3,
    "nas.experiment.pytorch": _NNI2,
    "nas.hub": {},
    "nas.hub.pytorch": {"DARTS": hub.DARTS},
    "nas.space": _CONTEXT,
    "nas.fixed": _FIXED,
    "mutable": {"Categorical": layers.ValueChoice},
}
"""Module below `nni` -> its names."""

_NOT_PROVIDED: Mapping[str, str] = {
    **dict.fromkeys(
        ("Random", "GridSearch", "Grid", "TPE", "TPEStrategy", "RegularizedEvolution", "PolicyBasedRL", "Hyperopt"),
        _TRIALS,
    ),
    **dict.fromkeys(("ENAS", "Proxyless", "RandomOneShot", "ProxylessTrainer", "EnasTrainer"), _METHODS),
    **dict.fromkeys(("FunctionalEvaluator", "Evaluator"), f"{_OWN_STEPS}, or {_TRIALS}"),
    **dict.fromkeys(
        ("NasBench101Cell", "NasBench101Mutator", "NasBench201Cell", "AutoActivation", "NASNet", "ENASNet",
         "AmoebaNet", "PNAS", "NasBench101", "NasBench201", "MobileNetV3Space", "ProxylessNAS", "ShuffleNetSpace",
         "AutoFormer"),
        _SPACES,
    ),
    **dict.fromkeys(
        ("ValueChoiceX", "MaybeChoice", "CategoricalMultiple", "Numerical", "uniform",
         "quniform", "loguniform", "randint", "normal", "frozen_context", "ModelParameterChoice"),
        _NUMBERS,
    ),
    **dict.fromkeys(
        ("report_intermediate_result", "report_final_result", "get_next_parameter", "get_current_parameter",
         "get_experiment_id", "get_trial_id", "get_sequence_id"),
        f"the result of the search itself; trials are {_TRIALS}",
    ),
    **dict.fromkeys(("Experiment", "tuner", "assessor", "compression", "profiler"), "a program of its own"),
    "Mutator": "LayerChoice, InputChoice and Cell, written into the model",
}  # fmt: skip
"""Name of NNI's -> what to use in its place."""

_TORCH_BELOW = ("retiarii.nn.pytorch", "nas.nn.pytorch")
"""Modules that also have every name of `torch.nn`."""


def install(root: str) -> ModuleType:
    """Put the modules into this process under a name.

    Args:
        root: "archgrad.nni", or "nni" in the process of a script.

    Returns:
        The outermost module.
    """
    made: dict[str, ModuleType] = {}
    for path, names in MODULES.items():
        full = f"{root}.{path}" if path else root
        module = sys.modules.get(full) if not path and full == "archgrad.nni" else None
        if module is None:
            module = ModuleType(full, "Names of NNI that stand for archgrad's.")
            module.__path__ = []
            sys.modules[full] = module
        module.__dict__.update(names)
        module.__dict__["__getattr__"] = partial(_missing, path)
        made[path] = module
        parent, _, own = path.rpartition(".")
        if path:
            setattr(made[parent], own, module)
    return made[""]


def _missing(path: str, name: str) -> Any:
    """Return a name of torch's where the module has those too, or say why there is none."""
    where = f"nni.{path}" if path else "nni"
    if name in _NOT_PROVIDED:
        _refuse(where, name)
    if path in _TORCH_BELOW and not name.startswith("_"):
        plain = name.removeprefix("Mutable")
        if hasattr(nn, plain):
            return getattr(nn, plain)
    raise AttributeError(f"archgrad stands in for some of NNI's names, but {where} has no {name!r}.")


def _refuse(where: str, name: str) -> NoReturn:
    raise OptionError(f"archgrad does not provide {where}.{name}. Use {_NOT_PROVIDED[name]}.")
