"""The trainer class that DARTS on NNI documented, on top of archgrad's search."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from archgrad import methods
from archgrad.architecture import Architecture
from archgrad.bilevel import BilevelStep, FirstOrder, Unrolled
from archgrad.checks import check_real
from archgrad.data import Data, as_data
from archgrad.discretize import discretize
from archgrad.distributed import own_device
from archgrad.errors import DataError, OptionError, RunError
from archgrad.losses import Loss, ObservedLoss
from archgrad.nni.export import export
from archgrad.nni.optimizer import DEFAULT_LEARNING_RATE, OptimizerMaker, describe_optimizer, take_optimizer
from archgrad.runs import CheckpointSchedule, check_seed, pick_device
from archgrad.search import SearchResult, search
from archgrad.search.meter import Metrics
from archgrad.search.search_options import SearchSchedule
from archgrad.sizes import check_whole
from archgrad.supernet import Supernet
from archgrad.tasks import Task, chosen_task

__all__ = ["DartsTrainer"]


class DartsTrainer:
    """Search the architecture of a model, called as the class of this name in NNI was (`nni.retiarii.oneshot.pytorch`).

    The model is copied and stays as it is; what is trained is `supernet`. Arguments before the star have NNI's names,
    order and defaults.

    Args:
        model: A module with archgrad's `LayerChoice`, `InputChoice` or `Cell` in it.
        loss: Function of (outputs, targets) that returns the mean over the batch, a 0-dimensional tensor.
        metrics: Function of (outputs, targets) that returns name -> mean over the batch, numbers or tensors of one
            element. It sees training and validation batches; `history` has the means over all samples of an epoch as
            "train_NAME" and "valid_NAME". The name "loss" is taken.
        optimizer: Over `model.parameters()`, or some of them: it then works on the supernet's copies of them, its
            groups, state and learning rate kept. Or an optimizer class, a `functools.partial` of one, or any function,
            which is called as `optimizer(parameters, lr=learning_rate)`.
        num_epochs: Passes over the weights' half of the data, at least 1.
        dataset: A map-style data set of (input, target) pairs, or whatever else `archgrad.search` takes. A shuffled,
            stratified half trains the weights, the other half the alphas.
        grad_clip: Largest L2 norm of the weights' gradient; 0 is off.
        learning_rate: What an optimizer class or function is given, above 0. An optimizer instance has its own, and
            a `learning_rate` that is neither the default nor its own is an error.
        batch_size: Samples of each of a step's two batches, at least 1.
        workers: Processes that read each half, at least 0; 0 reads in this process, as do tensors in memory.
        device: Where to train; None takes CUDA where there is one.
        log_frequency: Steps from one line of progress to the next, at least 1; None writes a line an epoch.
        arc_learning_rate: Learning rate of the alphas' Adam, above 0.
        unrolled: Take the second-order gradient of the alphas (`archgrad.bilevel.Unrolled()`), not the first-order one.
        task: What is learnt, as for `archgrad.search`; with it `loss` and `metrics` may be None, its own.
        schedule: Course of the weights' learning rate: "constant" as in NNI, or "cosine" down to 0.001 as the authors'.
        seed: Of the split, the order, the alphas and the model's own random numbers; from 0 to 2**32 - 1.
        run_dir: Where architectures, metrics and checkpoints are written; nowhere if not given.
        overwrite: Start anew where `run_dir` holds an earlier run, which is removed.
        checkpoint_minutes: Time between checkpoints within an epoch, above 0; each epoch ends with one.
        checkpoint_steps: Steps between checkpoints within an epoch, at least 1; None goes by time alone.
        quiet: Show no progress.

    Raises:
        OptionError: An argument is outside its range, or does not go with the others.
        DataError: The data set is too small or broken.
        SpaceError: The model has no choices, or they conflict.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss | str | None,
        metrics: Metrics | Any,
        optimizer: Optimizer | OptimizerMaker,
        num_epochs: int,
        dataset: Dataset | Data | Any,
        grad_clip: float = 5.0,
        learning_rate: float = DEFAULT_LEARNING_RATE,
        batch_size: int = 64,
        workers: int = 4,
        device: torch.device | str | None = None,
        log_frequency: int | None = None,
        arc_learning_rate: float = 0.0003,
        unrolled: bool = False,
        *,
        task: Task | str | None = None,
        schedule: SearchSchedule = "constant",
        seed: int = 0,
        run_dir: str | Path | None = None,
        overwrite: bool = False,
        checkpoint_minutes: float = 10.0,
        checkpoint_steps: int | None = None,
        quiet: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module) or isinstance(model, Supernet):
            raise OptionError(
                f"model must be a module with open choices, but got {type(model).__name__}. "
                f"Give the space itself; the trainer makes the supernet."
            )
        for name, function, result in (("loss", loss, "a loss tensor"), ("metrics", metrics, "a dict of metrics")):
            if not callable(function) and task is None:
                raise OptionError(
                    f"{name} must be a function of (outputs, targets) that returns {result}, "
                    f"but got {name}={function!r}. Give such a function, or task=... that has its own."
                )
        check_whole("num_epochs", num_epochs, least=1, remedy="Give for example 50")
        check_whole("batch_size", batch_size, least=1, remedy="Give for example 64")
        check_whole("workers", workers, least=0, remedy="0 reads in this process")
        if log_frequency is not None:
            check_whole("log_frequency", log_frequency, least=1, remedy="None writes a line an epoch")
        check_real("grad_clip", grad_clip, remedy="0 is off")
        check_real("learning_rate", learning_rate, above=0, remedy="Give for example 0.025")
        check_real("arc_learning_rate", arc_learning_rate, above=0, remedy="Give for example 0.0003")
        if not isinstance(unrolled, bool | int | float) or unrolled not in (0, 1):
            raise OptionError(f"unrolled must be True or False, but got unrolled={unrolled!r}. True is second order.")
        if schedule not in ("constant", "cosine"):
            raise OptionError(f"schedule must be 'constant' or 'cosine', but got schedule={schedule!r}.")
        check_seed(seed)
        CheckpointSchedule(checkpoint_minutes=checkpoint_minutes, checkpoint_steps=checkpoint_steps)
        samples = as_data(dataset)
        _check_size(samples, batch_size)

        learnt: dict[str, Any]
        if task is None:
            assert callable(loss)  # as was checked above
            learnt = {"loss": ObservedLoss(loss, self._begin), "metrics": metrics}
        else:
            fitted = chosen_task(task, samples, loss=loss, metrics=None if callable(metrics) else metrics).task
            observed = replace(fitted, loss=ObservedLoss(fitted.loss, self._begin))
            learnt = {"task": observed, "metrics": metrics if callable(metrics) else None}
        own = pick_device(own_device("auto" if device is None else device))
        step: BilevelStep = Unrolled() if unrolled else FirstOrder()
        self._supernet = Supernet(model, seed=seed).to(own)
        self.export()  # labels in conflict are an error now, not after the search
        # Last, since it takes an optimizer instance away from the model.
        taken = take_optimizer(
            self._supernet,
            model,
            optimizer,
            learning_rate=learning_rate,
            step=step,
            scheduled=schedule != "constant",
        )
        self._metrics, self._seed = metrics, seed
        self._run_dir, self._overwrite = None if run_dir is None else Path(run_dir), overwrite
        self._history: list[dict[str, Any]] = []
        self._begun = False
        self._search = partial(
            search,
            self._supernet,
            samples,
            method=replace(methods.darts, step=step),  # whatever a search takes by default
            epochs=num_epochs,
            batch_size=batch_size,
            seed=seed,
            learning_rate=learning_rate,
            schedule=schedule,
            grad_clip=grad_clip,
            alphas_learning_rate=arc_learning_rate,
            **learnt,
            weights_optimizer=taken,
            device=own,
            workers=workers,
            checkpoint_minutes=checkpoint_minutes,
            checkpoint_steps=checkpoint_steps,
            log_frequency=log_frequency,
            quiet=quiet,
            config={"trainer": "DartsTrainer", **describe_optimizer(taken)},
        )

    @property
    def supernet(self) -> Supernet:
        """The relaxed copy of the model, with its weights and alphas as they are now, on its device."""
        return self._supernet

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row of losses, metrics and gradient norms an epoch, as in metrics.csv; empty until `fit` returns."""
        return [dict(row) for row in self._history]

    def fit(self, resume: bool | str | Path | None = None) -> SearchResult:
        """Search for `num_epochs` epochs, on all processes that torchrun or SLURM has started.

        Args:
            resume: True goes on with the run in `run_dir`, a path with the run in that folder, from its last
                checkpoint; the trainer must have been made with that run's arguments. "auto" goes on where `run_dir`
                holds a run and begins one where not (a folder of that name is Path("auto")). A learning-rate scheduler
                of your own is not in the checkpoint.

        Returns:
            What `archgrad.search` returns.

        Raises:
            OptionError: There is no folder to resume, or loss or metrics return something else than they must.
            DataError: A sample cannot be read or does not fit the others.
            RunError: The run folder is in use, taken, or does not fit; or `fit` has trained already.
            NonFiniteError: A loss or gradient is NaN or infinite.
            Interrupted: SIGTERM, SIGINT or SIGHUP came, and there is a run folder; the step was finished and the state
                saved.
            Halted: Ctrl-C came, without a run folder or in IPython; the step was finished, and `result` has what there
                is.
        """
        going_on = resume is not None and resume is not False
        run_dir = self._folder_of(resume) if going_on else self._run_dir
        saved = going_on and run_dir is not None and any((run_dir / "checkpoints").glob("*.ckpt"))
        if self._begun and not saved:
            raise RunError(
                "fit() has trained this trainer already. Go on from a checkpoint with fit(resume=True), or make a new "
                "trainer with a new optimizer."
            )
        result = self._search(
            run_dir=run_dir,
            resume="auto" if resume == "auto" else going_on,
            overwrite=self._overwrite and not going_on,
        )
        self._history = result.history
        return result

    def architecture(self) -> Architecture:
        """Return the architecture that the alphas lead to at present; before `fit`, those that the seed gives."""
        provenance = {"seed": self._seed} | ({"epoch": len(self._history) - 1} if self._history else {})
        space = getattr(self._supernet.network, "space_name", None)
        return discretize(self._supernet, space=space, provenance=provenance)

    def export(self) -> dict[str, Any]:
        """Return the same as a dict in the shape of NNI 2.4, ready for `json.dump`.

        Every choice is in it, also those inside candidates that were not taken.

        Returns:
            Label of a layer choice -> name of its candidate; label of an input choice -> indices, best first; for a
            cell "LABEL_n2_p0" -> operation of the edge from state 0 to node 2, dropped edges too and never `none`, and
            "LABEL_n2_switch" -> sources of the kept edges, best first. In cells the paper's operations have NNI's
            names (maxpool, sepconv3x3, ...), so that `Architecture.from_nni` reads an export of the paper's space.
        """
        return export(self._supernet)

    def _folder_of(self, resume: Any) -> Path:
        if resume is True or resume == "auto":
            if self._run_dir is None:
                raise OptionError(
                    f"fit(resume={resume!r}) needs the trainer's run_dir. Give run_dir=..., or the path as resume."
                )
            return self._run_dir
        if not isinstance(resume, str | Path):
            raise OptionError(f"resume must be True, 'auto' or the path of a run folder, but got resume={resume!r}.")
        if self._run_dir is not None and self._run_dir.resolve() != Path(resume).resolve():
            raise OptionError(
                f"resume='{resume}' is not the trainer's run_dir='{self._run_dir}'. Leave one of them out."
            )
        return Path(resume)

    def _begin(self) -> None:
        self._begun = True


def _check_size(data: Data, batch_size: int) -> None:
    samples = len(data.train_targets)
    if samples < 2 * batch_size:
        smaller = f"batch_size={samples // 2} or less, or " if samples >= 2 else ""
        raise DataError(
            f"dataset is split in two halves of at least a batch each, but has {samples} samples, and "
            f"batch_size={batch_size} needs {2 * batch_size}. Give {smaller}more data."
        )
