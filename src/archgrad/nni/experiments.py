"""NNI's experiments in their one-shot form: one search in this process, without a server or a web page."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from archgrad.derive import derive
from archgrad.errors import OptionError, RunError
from archgrad.nni.evaluators import Lightning
from archgrad.nni.loader_data import data_of_loaders, the_loader
from archgrad.nni.steps_in_search import StepsInSearch
from archgrad.nni.strategies import DARTS
from archgrad.nni.trainer import DartsTrainer
from archgrad.nni_hub_format import format_hub
from archgrad.search import SearchResult, search

__all__ = ["NasExperiment", "RetiariiExeConfig", "RetiariiExperiment"]

_MULTI_TRIAL = (
    "Experiments here are one search by gradients in this process; many trials are archgrad.random_search(...) or a "
    "study (archgrad study STUDY.yaml)."
)


class _WithoutEffect:
    """Settings that concern trials, of which a one-shot search has none; each is taken with a warning."""

    def __setattr__(self, name: str, value: Any) -> None:
        warnings.warn(f"{name} concerns trials, of which a one-shot search has none: no effect.", stacklevel=2)
        super().__setattr__(name, value)


class RetiariiExeConfig(_WithoutEffect):
    """Settings of an experiment.

    Args:
        training_service_platform: "local".
        execution_engine: "oneshot".
        settings: Others of NNI's, which concern trials: they have no effect, and a warning says so.
    """

    def __init__(
        self, training_service_platform: str | None = None, execution_engine: str | None = None, **settings: Any
    ) -> None:
        if training_service_platform not in (None, "local"):
            raise OptionError(f"The platform must be 'local', but got {training_service_platform!r}. {_MULTI_TRIAL}")
        self.execution_engine = execution_engine
        self.__dict__["training_service"] = _WithoutEffect()
        for name, value in settings.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "execution_engine":
            if value not in (None, "oneshot"):
                raise OptionError(f"execution_engine must be 'oneshot', but got {value!r}. {_MULTI_TRIAL}")
            self.__dict__[name] = value
        elif name == "experiment_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)


class NasExperiment:
    """Search a model with an evaluator and a strategy (NNI 3).

    Args:
        model_space: A model with open choices; it stays as it is.
        evaluator: `Classification(...)`, `Regression(...)` or `Lightning(...)` with loaders for training and
            validation. Each learning rate stays as it is over the epochs.
        strategy: `DARTS(...)` or `GumbelDARTS(...)`.
        config: Settings, see `RetiariiExeConfig`.
        id: Taken as in NNI, which has a list of experiments; here there is none.

    Attributes:
        result: What `archgrad.search` returned, after `run`.
    """

    _index_lists = True

    def __init__(
        self,
        model_space: nn.Module,
        evaluator: Lightning,
        strategy: DARTS,
        config: RetiariiExeConfig | None = None,
        id: str | None = None,
    ) -> None:
        del id
        self.model_space, self.evaluator, self.strategy = model_space, evaluator, strategy
        self.config = RetiariiExeConfig() if config is None else config
        self.result: SearchResult | None = None

    def run(self, port: int | None = None, debug: bool = False) -> bool:
        """Search until the evaluator's last epoch.

        Args:
            port: Of the web page that NNI shows for trials; there is none.
            debug: Of NNI's log.

        Returns:
            True.

        Raises:
            OptionError: The evaluator or the strategy is something else.
        """
        del port, debug
        for given, wanted in ((self.evaluator, Lightning), (self.strategy, DARTS)):
            if not isinstance(given, wanted):
                kind = "evaluator" if wanted is Lightning else "strategy"
                names = "Classification, Regression or Lightning" if wanted is Lightning else "DARTS or GumbelDARTS"
                raise OptionError(f"{kind} must be {names}, but got {type(given).__name__}. {_MULTI_TRIAL}")
        module, trainer = self.evaluator.module, self.evaluator.trainer
        steps = StepsInSearch(module, trainer, self.model_space) if module.is_own else None
        learns: dict[str, Any] = (
            {"weights_optimizer": module.optimizer_of, "loss": module.criterion}
            if steps is None
            else {"weights_optimizer": steps.optimizer_of, "loss": steps.loss, "on_epoch": steps.after_epoch}
        )
        train = the_loader(self.evaluator.train_dataloaders, "train_dataloaders")
        clip = self.strategy.gradient_clip_val
        self.result = search(
            self.model_space if steps is None else steps.space,
            data_of_loaders(
                train, the_loader(self.evaluator.val_dataloaders, "val_dataloaders"), batches=trainer.batches
            ),
            method=self.strategy.method(trainer.epochs or 1),
            epochs=trainer.epochs,
            batch_size=train.batch_size or 1,
            schedule="constant",
            grad_clip=trainer.grad_clip if clip is None else clip,
            metrics=module.metrics,
            **learns,
            device=trainer.device,
            workers=train.num_workers,
            log_frequency=trainer.log_frequency,
            quiet=trainer.quiet,
        )
        if steps is not None:
            steps.end()
        return True

    def stop(self) -> None:
        """Return at once: nothing runs between two calls."""

    def export_top_models(
        self, top_k: int = 1, optimize_mode: str | None = None, formatter: str | None = "dict"
    ) -> list[Any]:
        """Return the architecture that the search came to, as a list of one.

        Args:
            top_k: 1; a search by gradients has one.
            optimize_mode: Taken as in NNI; it concerns trials.
            formatter: "dict" for the dict that `fixed_arch` and `model_context` take, "instance" for the plain network
                with fresh weights.

        Raises:
            RunError: `run` has not been called.
            OptionError: `formatter` is something else.
        """
        del optimize_mode
        if top_k != 1:
            warnings.warn(f"A search by gradients has one result, and not top_k={top_k}.", stacklevel=2)
        if formatter == "instance":
            return [derive(self.model_space, self._searched().architecture)]
        if formatter != "dict":
            raise OptionError(f"formatter must be 'dict' or 'instance', but got {formatter!r}.")
        return [self._export()]

    def _export(self) -> dict[str, Any]:
        return format_hub(self._searched().architecture.choices, lists=self._index_lists)

    def _searched(self) -> SearchResult:
        if self.result is None:
            raise RunError("There is nothing to export yet. Call run() first.")
        return self.result


class RetiariiExperiment(NasExperiment):
    """Search a model with an evaluator and a strategy, or with a trainer (NNI 2).

    Args:
        base_model: A model with open choices; it stays as it is.
        evaluator: See `NasExperiment`; or a `DartsTrainer`, which needs no strategy.
        applied_mutators: None or empty: choices are written into the model.
        strategy: See `NasExperiment`.
        trainer: The same as `evaluator`, as older versions call it.
    """

    _index_lists = False

    def __init__(
        self,
        base_model: nn.Module,
        evaluator: Lightning | DartsTrainer | None = None,
        applied_mutators: Any = None,
        strategy: DARTS | None = None,
        trainer: Lightning | DartsTrainer | None = None,
    ) -> None:
        if applied_mutators:
            raise OptionError(f"applied_mutators change models between trials. Leave it out. {_MULTI_TRIAL}")
        given: Any = trainer if evaluator is None else evaluator
        super().__init__(base_model, given, strategy)  # type: ignore[arg-type]

    def run(  # type: ignore[override]
        self, config: RetiariiExeConfig | None = None, port: int | None = None, debug: bool = False
    ) -> bool:
        """Search; `config` replaces the experiment's."""
        self.config = self.config if config is None else config
        if isinstance(self.evaluator, DartsTrainer):
            self.result = self.evaluator.fit()
            return True
        return super().run(port, debug)

    def export_top_models(
        self, top_k: int = 1, optimize_mode: str | None = None, formatter: str | None = "dict"
    ) -> Any:
        """Return what `NasExperiment` does; of a trainer, as in NNI, the dict alone that its `export` gives."""
        if isinstance(self.evaluator, DartsTrainer):
            return self.evaluator.export()
        return super().export_top_models(top_k, optimize_mode, formatter)
