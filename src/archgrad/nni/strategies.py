"""NNI's one-shot strategies that are gradient descent, as methods of archgrad."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from archgrad.errors import OptionError
from archgrad.methods import Method, Stage
from archgrad.optimizers import Adam
from archgrad.relaxation import SoftGumbel, Softmax
from archgrad.sizes import check_whole

__all__ = ["DARTS", "GumbelDARTS"]

_LEARNING_RATE = 0.0003


class DARTS:
    """First-order DARTS.

    Args:
        arc_learning_rate: Learning rate of the alphas' Adam, above 0.
        gradient_clip_val: Largest L2 norm of the weights' gradient; None takes the evaluator's.
        warmup_epochs: Epochs at the start in which the weights learn alone.
        others: `mutation_hooks` and `penalty`, which must be left at None.
    """

    def __init__(
        self,
        *,
        arc_learning_rate: float = _LEARNING_RATE,
        gradient_clip_val: float | None = None,
        warmup_epochs: int = 0,
        **others: Any,
    ) -> None:
        check_whole("warmup_epochs", warmup_epochs, least=0, remedy="0 lets the alphas learn from the first epoch")
        for name, value in others.items():
            if name not in ("mutation_hooks", "penalty"):
                raise OptionError(
                    f"{type(self).__name__} has no option {name!r}. It has arc_learning_rate, gradient_clip_val and "
                    f"warmup_epochs."
                )
            if value not in (None, []):
                raise OptionError(
                    f"{name} reaches into NNI's own supernet. Leave it out; regularizers of a search are given to "
                    f"archgrad.search(method=archgrad.Method(regularizers=...))."
                )
        self.arc_learning_rate, self.warmup_epochs = arc_learning_rate, warmup_epochs
        self.gradient_clip_val = gradient_clip_val

    def method(self, epochs: int) -> Method:
        """Return the method of a search of so many epochs."""
        method = Method(relaxation=self.relaxation(), alphas_optimizer=Adam(learning_rate=self.arc_learning_rate))
        if not self.warmup_epochs:
            return method
        return replace(method, stages=(Stage(epochs=epochs, alphas_start_epoch=self.warmup_epochs),))

    def relaxation(self) -> Any:
        """Return how alphas become mixing weights."""
        return Softmax()


class GumbelDARTS(DARTS):
    """DARTS with a random softmax in the place of the softmax (SNAS).

    Args:
        temperature: Of the random softmax, above 0 (NNI 3).
        gumbel_temperature: The same, as NNI 2 calls it.
        use_temp_anneal: Let it fall linearly with the epoch to `min_temp`.
        min_temp: Above 0.
        others: As `DARTS`.
    """

    def __init__(
        self,
        *,
        temperature: float | None = None,
        gumbel_temperature: float = 1.0,
        use_temp_anneal: bool = False,
        min_temp: float = 0.33,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        first = gumbel_temperature if temperature is None else temperature
        if isinstance(first, bool) or not isinstance(first, int | float):
            raise OptionError(
                f"temperature must be a number, but got {first!r}. One that falls is temperature=1.0, "
                f"use_temp_anneal=True, min_temp=0.33."
            )
        self._temperatures = float(first), float(min_temp if use_temp_anneal else first)

    def relaxation(self) -> Any:
        """Return how alphas become mixing weights."""
        return SoftGumbel(*self._temperatures)
