"""The selection of DARTS-PT."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from archgrad.buffers import frozen_buffers
from archgrad.distributed import average_over_ranks
from archgrad.epoch_end import EpochEnd
from archgrad.errors import NonFiniteError, OptionError
from archgrad.relaxation import Relaxation
from archgrad.schedules import check_number
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
    `schedule` from `tune_rate` times the learning rate. An architecture's provenance has under "judged" what was
    measured. Rows that are open still are ranked by their probability.

    Source: Wang et al. 2021 (DARTS-PT), algorithms 1 and 2, and their code. There the last choice is settled before the
    last epoch of tuning instead of after it, and each measurement is on batches of its own.
    """

    tune_epochs: int = 5
    """Epochs of tuning between two decisions, at least 0; 0 settles all at the end of the search."""
    tune_rate: float = 0.1
    """Learning rate of the weights where the tuning begins, as a share of the search's; above 0."""
    criterion: Literal["accuracy", "loss"] = "accuracy"
    """What gets worse: the "accuracy", of logits of classes, or the "loss"."""

    def __post_init__(self) -> None:
        check_whole("tune_epochs", self.tune_epochs, least=0)
        check_number("tune_rate", self.tune_rate, above=0.0)
        if self.criterion not in ("accuracy", "loss"):
            raise OptionError(f"criterion must be 'accuracy' or 'loss', but got criterion={self.criterion!r}.")

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

    def settle(self, end: EpochEnd, tuned: int) -> None:
        """Settle one open choice of each cell; all of them where there is no tuning in between."""
        if self.tune_epochs == 0:
            while self._settle_some(end, tuned):
                pass
        elif tuned % self.tune_epochs == 0:
            self._settle_some(end, tuned)

    def _settle_some(self, end: EpochEnd, tuned: int) -> bool:
        supernet = end.supernet
        present = undecided(supernet)
        for open_choices in (present.operations or present.topology).values():
            choice = self.pick(open_choices, supernet.generator)
            self._judge(end, choice, tuned)
            while not choice.keeps_one and choice.surplus > 0:
                self._judge(end, choice, tuned)
        return bool(present.operations or present.topology)

    def pick(self, choices: Sequence[Undecided], generator: torch.Generator) -> Undecided:
        """Return which of the open choices of a cell is settled next: one drawn at random."""
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    def _judge(self, end: EpochEnd, choice: Undecided, tuned: int) -> None:
        """Measure a choice without each of its candidates; keep one operation, or drop one edge or input."""
        without = {name: self._measure(end, places) for name, places in choice.candidates.items()}
        worse = {name: -value if self.criterion == "accuracy" else value for name, value in without.items()}
        name = (max if choice.keeps_one else min)(worse, key=lambda name: worse[name])
        choice.settle(end.supernet, name)
        end.supernet.judged.append(
            {
                "tuned_epochs": tuned,
                "choice": choice.label,
                f"{self.criterion}_without": without,
                "kept" if choice.keeps_one else "dropped": name,
            }
        )

    @torch.no_grad()
    def _measure(self, end: EpochEnd, places: Mapping[str, Collection[int]]) -> float:
        """Return the accuracy, or the mean loss, of the supernet without candidates."""
        supernet = end.supernet
        device, drawn = next(iter(supernet.alphas.values())).device, supernet.generator.get_state()
        total = torch.zeros(2, dtype=torch.float64, device=device)
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            frozen_buffers(supernet),
            supernet.switched_off({label: tuple(numbers) for label, numbers in places.items()}),
        ):
            for inputs, targets in end.valid_batches():
                value = self._value(end, supernet(inputs), targets)
                total += torch.stack([value * len(targets), torch.full_like(value, len(targets))])
        supernet.generator.set_state(drawn)
        value, samples = average_over_ranks([total], 1)[0].tolist()
        if not math.isfinite(value):
            raise NonFiniteError(
                f"The validation {self.criterion} is {value} when choices are settled. Search with a smaller learning "
                f"rate, or take criterion='accuracy'."
            )
        return float(value / samples)

    def _value(self, end: EpochEnd, outputs: Any, targets: Any) -> torch.Tensor:
        if self.criterion == "loss":
            return end.loss(outputs, targets).double()
        if not isinstance(outputs, torch.Tensor) or outputs.dim() != 2 or targets.is_floating_point():
            raise OptionError(
                "criterion='accuracy' needs (B, classes) logits and class numbers. Take criterion='loss'."
            )
        return (outputs.argmax(1) == targets).double().mean()

    def scores(self, supernet: Supernet) -> Scores:
        """Return the probabilities; of settled operations, how badly the supernet did without each.

        That is the share of wrong answers, or the loss. Other candidates of such a row, and edges that were dropped,
        have less than 0.
        """
        scores = {label: list(row) for label, row in supernet.probabilities().items()}
        for judgement in supernet.judged:
            if "kept" in judgement:
                ((criterion, without),) = [item for item in judgement.items() if item[0].endswith("_without")]
                worse = {k: 1.0 - v if criterion == "accuracy_without" else v for k, v in without.items()}
                label, least = judgement["choice"], min(0.0, *worse.values())
                scores[label] = [worse.get(name, least - 1.0) - least for name in supernet.rows[label].names]
        for label, off in supernet.off.items():
            highest = max(scores[label])
            scores[label] = [s - highest - 1.0 if k in off else s for k, s in enumerate(scores[label])]
        return scores
