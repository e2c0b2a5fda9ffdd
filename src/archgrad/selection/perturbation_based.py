"""The selection of DARTS-PT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from archgrad.checks import check_word
from archgrad.epoch_end import EpochEnd
from archgrad.errors import OptionError
from archgrad.relaxation import Relaxation
from archgrad.schedules import check_number
from archgrad.selection.measured import CRITERIA, Criterion, measured
from archgrad.selection.selection import Scores, Selection
from archgrad.selection.undecided import Undecided, undecided
from archgrad.sizes import check_whole
from archgrad.supernet import Supernet

__all__ = ["PerturbationBased"]


@dataclass(frozen=True)
class PerturbationBased(Selection):
    """What the trained supernet can least do without is kept, one choice after the other, with tuning in between.

    When the search ends, and then every `tune_epochs`, one choice that is open, drawn at random, is settled in each
    cell, and one among all choices outside cells: first operations, then topology. Of a row of operations the one is
    kept without which the supernet does worst on the validation half; its mixing weight is then one. Of the edges of a
    node, and of an `InputChoice`, the one is dropped without which it does least badly, until as many are left as are
    derived. To do without is to have the mixing weight 0, the others staying as they are. BatchNorm is in training
    mode, and every measurement sees the same batches and random draws. Of equals the first is kept.

    The supernet, alphas too, is tuned by the search's own steps, with a fresh state of the weights' optimizer and
    `schedule` from `tune_rate` times the learning rate. Alphas that wait to the end of the search, as in the authors'
    variant whose alphas never move, wait on. An architecture's provenance has under "settled" what was
    measured. Rows that are open still are ranked by their probability.

    Source: Wang et al. 2021 (DARTS-PT), algorithms 1 and 2, and their code. There the last choice is settled before the
    last epoch of tuning instead of after it, and each measurement is on batches of its own.
    """

    tune_epochs: int = 5
    """Epochs of tuning between two decisions, at least 0; 0 settles all at the end of the search."""
    tune_rate: float = 0.1
    """Learning rate of the weights where the tuning begins, as a share of the search's; above 0."""
    criterion: Criterion = "accuracy"
    """What gets worse: the "accuracy", of logits of classes, or the "loss"."""

    def __post_init__(self) -> None:
        check_whole("tune_epochs", self.tune_epochs, least=0)
        check_number("tune_rate", self.tune_rate, above=0.0)
        check_word("criterion", self.criterion, CRITERIA)

    def check(self, relaxation: Relaxation) -> None:
        """Refuse a relaxation in whose mixture the weight of one candidate cannot be taken away, or be one."""
        name = type(relaxation).__name__
        if not relaxation.runs_all:
            raise OptionError(
                f"PerturbationBased measures what a mixture does without one of its candidates, but {name} runs those "
                f"alone that it draws. Take a relaxation that runs all, or another selection."
            )
        if relaxation.domain == "simplex" or not relaxation.normalised:
            raise OptionError(
                f"PerturbationBased gives the candidate that is kept the mixing weight one, but a single candidate "
                f"has its alpha as weight with {name}. Take a relaxation such as Softmax(), or another selection."
            )

    def further_epochs(self, supernet: Supernet) -> int:
        """Return the epochs of tuning between the first decision and the last."""
        return self.tune_epochs * max(undecided(supernet).rounds - 1, 0)

    def settle(self, end: EpochEnd, tuned: int, say: Callable[[str], None] = lambda said: None) -> None:
        """Settle one open choice of each cell; all of them where there is no tuning in between."""
        if self.tune_epochs > 0 and tuned % self.tune_epochs > 0:
            return
        for _ in range(1 if self.tune_epochs > 0 else undecided(end.supernet).rounds):
            operations, topology = undecided(end.supernet)
            for open_choices in (operations or topology).values():
                choice = self.pick(open_choices, end.supernet.generator)
                say(self._settle(end, choice, tuned))
                while not choice.keeps_one and choice.surplus > 0:
                    say(self._settle(end, choice, tuned))

    def pick(self, choices: Sequence[Undecided], generator: torch.Generator) -> Undecided:
        """Return which of the open choices of a cell is settled next: one drawn at random."""
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    def _settle(self, end: EpochEnd, choice: Undecided, tuned: int) -> str:
        """Measure a choice without each of its candidates; keep one operation, or drop one edge or input; say which."""
        without = {name: measured(end, self.criterion, without=places) for name, places in choice.candidates.items()}
        worse = {name: -value if self.criterion == "accuracy" else value for name, value in without.items()}
        name = (max if choice.keeps_one else min)(worse, key=lambda name: worse[name])
        choice.settle(end.supernet, name)
        done = "kept" if choice.keeps_one else "dropped"
        end.supernet.settled.append(
            {"tuned_epochs": tuned, "choice": choice.label, f"{self.criterion}_without": without, done: name}
        )
        others = [value for other, value in without.items() if other != name]
        beside = f", of others {min(others):.4f} to {max(others):.4f}" if others else ""
        return f"{choice.label}: {done} {name} ({self.criterion} without it {without[name]:.4f}{beside})."

    def scores(self, supernet: Supernet) -> Scores:
        """Return the probabilities; of settled operations, how badly the supernet did without each.

        That is the share of wrong answers, or the loss. Other candidates of such a row, and edges that were dropped,
        have less than 0.
        """
        scores = {label: list(row) for label, row in supernet.probabilities().items()}
        for decision in supernet.settled:
            if "kept" in decision:
                ((criterion, without),) = [item for item in decision.items() if item[0].endswith("_without")]
                worse = {k: 1.0 - v if criterion == "accuracy_without" else v for k, v in without.items()}
                label, least = decision["choice"], min(0.0, *worse.values())
                scores[label] = [worse.get(name, least - 1.0) - least for name in supernet.rows[label].names]
        for label, off in supernet.switched_off.items():
            highest = max(scores[label])
            scores[label] = [s - highest - 1.0 if k in off else s for k, s in enumerate(scores[label])]
        return scores
