"""The path of each network of a search: what was decided, or what a step of it by each path shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from torch.utils._pytree import tree_leaves

from archgrad.bilevel.passes import Batch, Loss, differentiate, local_pass, passes_by
from archgrad.bilevel.step import StepPasses
from archgrad.engine.path_choice import PathChoice, Results, Trial
from archgrad.engine.precision import autocast
from archgrad.engine.training_options import Precision
from archgrad.runs import RunFolder
from archgrad.schedules import Progress
from archgrad.search.search_options import SearchOptions
from archgrad.search.stage_builder import StageBuilder
from archgrad.search.widening import StageState

__all__ = ["SearchPaths"]


class SearchPaths:
    """Lets every supernet of a search run by its path, and its passes be recorded where that is asked for.

    Args:
        options: Of the search.
        loss: On the search's device.
        builder: Of the supernets.
        first: The supernet of the first stage, on the search's device.
    """

    def __init__(self, options: SearchOptions, loss: Loss, builder: StageBuilder, first: StageState) -> None:
        self._options, self._loss, self._builder = options, loss, builder
        self._choice = PathChoice(next(iter(first.supernet.alphas.values())).device)
        self._open, self._name = False, ""

    def begin(self, state: StageState, number: int, folder: RunFolder | None) -> None:
        """Let the supernet of a stage take its path, if that is known.

        Args:
            state: The supernet, and what moves it.
            number: Of the stage that its network is of, from 0.
            folder: Of the run, on process 0.
        """
        self._name = f"stage {number + 1}"
        self._open = self._choice.is_open(self._name, state.supernet.path, folder)

    def settle(
        self,
        state: StageState,
        batches: Sequence[Batch],
        progress: Progress,
        folder: RunFolder | None,
        say: Callable[[str], None],
    ) -> None:
        """Decide for a path, if that is open, by the step that comes next, which is left to be done.

        Args:
            state: The supernet, and what moves it.
            batches: For the weights, and for the alphas.
            progress: How far the search is.
            folder: Of the run, on process 0.
            say: Is told what was decided, and what is recorded.
        """
        if self._open:
            method, supernet = self._options.chosen_method, state.supernet
            supernet.progress = progress
            passes = StepPasses(
                supernet=supernet,
                train_batch=batches[0],
                valid_batch=batches[1],
                step=method.step,
                weights_optimizer=state.weights_optimizer,
                loss=self._loss,
                accumulation=self._options.accumulation,
                progress=progress,
                perturbation=method.perturbation,
                weights_rules=method.weights_rules,
            )
            trial = trial_of(passes, self._options.precision, lambda: self._builder.recorded(supernet, _unheard))
            self._choice.decide(self._name, trial, folder, say)
            self._open = False
        self._builder.record(state.supernet, say)


def trial_of(passes: StepPasses, precision: Precision, around: Callable[[], AbstractContextManager[object]]) -> Trial:
    """Return a step that any path can do.

    Args:
        passes: Of the step.
        precision: Of the search.
        around: Returns a context in which the search does its steps.
    """
    supernet = passes.supernet
    weights, alphas = list(supernet.weights.values()), list(supernet.alphas.values())
    device = alphas[0].device

    def results(own: Precision) -> Results:
        # Both gradients of one pass, which rounding moves less than a difference of two passes.
        with autocast(device, own), passes_by(differentiate):
            found = local_pass(
                supernet, passes.train_batch, passes.loss, [*weights, *alphas], accumulation=passes.accumulation
            )
        return {
            "losses": [found.loss],
            "outputs": tree_leaves(found.outputs),
            "gradients of weights": found.gradients[: len(weights)],
            "gradients of alphas": found.gradients[len(weights) :],
            "buffers": list(supernet.network.buffers()),
        }

    def step() -> None:
        with autocast(device, precision):
            passes.weights(passes.alphas().weights_gradients)

    return Trial(
        network=supernet.network,
        path=supernet.path,
        device=device,
        precision=precision,
        results=results,
        step=step,
        generator=supernet.generator,
        around=around,
    )


def _unheard(_: str) -> None:
    """Hear what recordings that are thrown away have to say."""
