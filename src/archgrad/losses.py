"""A loss whose batch is cut into parts: one after the other to save memory, or one on each process.

A loss that averages is a numerator over a denominator, and L(batch) = sum of N(part) / sum of D(part) whatever the
parts. The mean of the parts' losses is something else as soon as D is no number of samples: where targets are ignored,
where classes have weights, and where nothing is divided at all (reduction "sum").
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archgrad.batches import WeightedTargets, count, uncut
from archgrad.distributed import divide_over_ranks, world_size
from archgrad.errors import OptionError

__all__ = [
    "Loss",
    "LossKind",
    "ObservedLoss",
    "PartLoss",
    "SampleWeightedLoss",
    "check_parts",
    "in_parts",
    "joined_parts",
    "loss_kind",
    "loss_of_parts",
    "unreduced",
]

Loss = Callable[[Any, Any], Tensor]
"""Function of (outputs, targets) that returns what is minimised, 0-dimensional.

Where a batch is in parts, or on several processes, the parts are put together as the loss of the whole. What they are
weighted by is known of torch's own losses: modules of `torch.nn`, functions of `torch.nn.functional` and
`functools.partial` of these, with class weights, `ignore_index`, label smoothing and every reduction. An object may say
it itself by two methods, `numerator(outputs, targets)` and `denominator(targets)`, which gives None for a sum; the loss
is their quotient. Any other function is taken for a mean over samples. Whether it is one is looked at when a batch is
cut, and not over processes.
"""

_CLASSES = {nn.CrossEntropyLoss, nn.NLLLoss, F.cross_entropy, F.nll_loss}
"""Losses whose mean is over the weights of the targets that are not ignored."""
_ELEMENTS = {
    *(nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.KLDivLoss, nn.PoissonNLLLoss, nn.SoftMarginLoss),
    *(nn.BCELoss, nn.BCEWithLogitsLoss, nn.HingeEmbeddingLoss),
    *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.kl_div, F.poisson_nll_loss, F.soft_margin_loss),
    *(F.binary_cross_entropy, F.binary_cross_entropy_with_logits, F.hinge_embedding_loss),
}
"""Losses of one output and the target in its place."""
_SAMPLES = {
    *_ELEMENTS,
    *(nn.MultiLabelMarginLoss, nn.MultiLabelSoftMarginLoss, nn.MultiMarginLoss),
    *(F.multilabel_margin_loss, F.multilabel_soft_margin_loss, F.multi_margin_loss),
}
"""Losses whose mean is over samples, or over elements of which each sample has as many."""
_FLOATING = {
    *(nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss, nn.KLDivLoss),
    *(F.huber_loss, F.binary_cross_entropy, F.binary_cross_entropy_with_logits, F.kl_div),
}
"""Losses that refuse targets of whole numbers."""


def loss_of_parts(loss: Loss, accumulation: int) -> Loss:
    """Return what to differentiate on each part: the loss itself if it sees the whole batch, else a `PartLoss`.

    Args:
        loss: See `Loss`.
        accumulation: Parts of this process's batch.
    """
    return loss if accumulation == 1 and world_size() == 1 else in_parts(loss)


@dataclass(frozen=True)
class PartLoss(ABC):
    """The numerator of a loss; called as the loss is."""

    loss: Loss

    @abstractmethod
    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Return the numerator over one part."""

    @abstractmethod
    def denominator(self, targets: Any) -> Tensor | float | None:
        """Return what the numerator over these targets is divided by; None for a sum."""


class _Samples(PartLoss):
    """A mean over samples, as far as is known."""

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        return self.loss(outputs, targets) * len(targets)

    def denominator(self, targets: Any) -> float:
        return float(len(targets))


class _KnownSamples(_Samples):
    """A mean over samples for certain."""


class _Sum(PartLoss):
    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        return self.loss(outputs, targets)

    def denominator(self, targets: Any) -> None:
        return None


class _Classes(PartLoss):
    """Of torch's losses of classes; targets may be class numbers or, for cross-entropy, probabilities."""

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        if targets.is_floating_point():
            return self.loss(outputs, targets) * len(targets)
        return _reduced(self.loss, "sum")(outputs, targets)

    def denominator(self, targets: Any) -> Tensor | float:
        return float(len(targets)) if targets.is_floating_point() else _class_weights(self.loss, targets).sum()


class _Declared(PartLoss):
    """A loss that says itself what it averages over."""

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        return self.loss.numerator(outputs, targets)  # type: ignore[attr-defined]

    def denominator(self, targets: Any) -> Tensor | float | None:
        return self.loss.denominator(targets)  # type: ignore[attr-defined]


def in_parts(loss: Loss) -> PartLoss:
    """Return a loss as its numerator and its denominator."""
    if isinstance(loss, PartLoss):
        return loss
    if hasattr(loss, "numerator") and hasattr(loss, "denominator"):
        return _Declared(loss)
    kind = _kind(loss)
    if kind is None:
        return _Samples(loss)
    if _setting(loss, "reduction", "mean") == "sum":
        return _Sum(loss)
    if kind in _CLASSES:
        return _Classes(loss)
    # Of these losses a `weight` may be one for each sample of the batch, which cannot be told from one for each column.
    rescaled = any(_setting(loss, name, None) is not None for name in ("weight", "pos_weight"))
    return _Samples(loss) if rescaled else _KnownSamples(loss)


def _kind(loss: Any) -> Any:
    """Return which of torch's losses it is, as a class or function; None for another."""
    kind: Any = type(loss) if isinstance(loss, nn.Module) else loss
    if isinstance(loss, partial):
        kind = None if loss.args or {"size_average", "reduce"} & set(loss.keywords) else loss.func
    try:
        return kind if kind in _CLASSES or kind in _SAMPLES else None
    except TypeError:  # what cannot be hashed is no loss of torch's
        return None


@dataclass(frozen=True)
class LossKind:
    """What is known of a loss beforehand; of one that is not torch's nothing but its name."""

    name: str
    of_classes: bool = False
    """Of logits (B, C, ...) and class numbers (B, ...)."""
    of_elements: bool = False
    """Of outputs and targets of one shape."""
    takes_probabilities: bool = False
    """Whether the targets may be probabilities of classes, too."""
    takes_whole_numbers: bool = True
    """Whether the targets may be whole numbers."""
    ignore_index: int = -100
    """The class number that is left out."""


def loss_kind(loss: Loss) -> LossKind:
    """Return what is known of a loss beforehand."""
    while isinstance(loss, PartLoss | ObservedLoss | SampleWeightedLoss):
        loss = loss.loss
    kind = _kind(loss)
    name = getattr(loss if kind is None else kind, "__name__", type(loss).__name__)
    if kind is None:
        return LossKind(name)
    return LossKind(
        name,
        of_classes=kind in _CLASSES,
        of_elements=kind in _ELEMENTS,
        takes_probabilities=kind in (nn.CrossEntropyLoss, F.cross_entropy),
        takes_whole_numbers=kind not in _FLOATING,
        ignore_index=_setting(loss, "ignore_index", -100),
    )


class ObservedLoss:
    """A loss that tells when it is called; over several processes it is put together as the loss itself would be.

    Args:
        loss: The loss.
        called: Called before each call of it, with gradients on.
    """

    def __init__(self, loss: Loss, called: Callable[[], None]) -> None:
        self.loss, self._parts, self._called = loss, in_parts(loss), called

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Return what the loss gives."""
        self._tell()
        return self.loss(outputs, targets)

    def numerator(self, outputs: Any, targets: Any) -> Tensor:
        """See `Loss`."""
        self._tell()
        return self._parts(outputs, targets)

    def denominator(self, targets: Any) -> Tensor | float | None:
        """See `Loss`."""
        return self._parts.denominator(targets)

    def _tell(self) -> None:
        if torch.is_grad_enabled():
            self._called()


class SampleWeightedLoss:
    """A loss as the weighted mean over samples: sum of s_i l_i / sum of s_i of samples with losses l_i, weights s_i.

    With weights c_i of classes, in one of torch's losses, it is the sum of s_i c_i l_i / sum of s_i c_i, and ignored
    positions count nowhere: with equal s_i it is the loss itself. Where all weights are 0 it is 0.

    Args:
        loss: What `unreduced` gives the losses of samples of.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self._each = unreduced(loss)
        self._sums = _setting(loss, "reduction", "mean") in ("sum", "batchmean")

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Return the weighted mean over a batch; of plain targets all weights are 1."""
        whole = self.denominator(targets)
        numerator = self.numerator(outputs, targets)
        return numerator if whole is None else numerator / whole.to(numerator)

    def numerator(self, outputs: Any, targets: Any) -> Tensor:
        """See `Loss`."""
        targets, weights = _weighted(targets)
        values: Any = self._each(outputs, targets)
        if not isinstance(values, Tensor) or values.dim() == 0 or len(values) != len(weights):
            got = f"a tensor of shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise OptionError(
                f"Where samples have weights the loss must return one number a sample, of shape ({len(weights)}, ...), "
                f"but {_name(self.loss)} returned {got}. Leave the mean over the batch out, or give the function a "
                f"parameter reduction that 'none' may be given for."
            )
        each = values.flatten(1) if values.dim() > 1 else values[:, None]
        by_sample = each.sum(1) if self._counts(targets) is not None or self._sums else each.mean(1)
        return (by_sample * weights.to(by_sample)).sum()

    def denominator(self, targets: Any) -> Tensor | None:
        """See `Loss`."""
        if _setting(self.loss, "reduction", "mean") == "sum":
            return None
        targets, weights = _weighted(targets)
        counts = self._counts(targets)
        total = (weights if counts is None else weights * counts).sum()
        return total.clamp(min=torch.finfo(total.dtype).tiny)

    def _counts(self, targets: Any) -> Tensor | None:
        """(B,), what a sample counts in a loss of classes: the weights of the classes at its positions."""
        if _kind(self.loss) not in _CLASSES or targets.is_floating_point():
            return None
        counts = _class_weights(self.loss, targets)
        return counts.reshape(len(targets), -1).sum(1)


def _weighted(targets: Any) -> WeightedTargets:
    if isinstance(targets, WeightedTargets):
        return targets
    return WeightedTargets(targets, torch.ones(count(targets), device=targets.device))


def unreduced(loss: Any) -> Loss:
    """Return a loss that gives one number, or several, for each sample of a batch.

    Of an object with a method `unreduced` that is what it returns; of a module, function or `functools.partial` that
    takes a `reduction`, as torch's do, it is the same with "none"; another loss must be such a one already.
    """
    if hasattr(loss, "unreduced"):
        return loss.unreduced()
    if isinstance(loss, nn.Module):
        return _reduced(loss, "none") if hasattr(loss, "reduction") else loss
    try:
        takes = "reduction" in inspect.signature(loss).parameters
    except (TypeError, ValueError):  # a function that does not tell
        takes = False
    return _reduced(loss, "none") if takes else loss


def _setting(loss: Any, name: str, default: Any) -> Any:
    if isinstance(loss, partial):
        return loss.keywords.get(name, default)
    return getattr(loss, name, default)


def _reduced(loss: Any, reduction: str) -> Loss:
    """The same loss with another reduction."""
    if isinstance(loss, nn.Module):
        other: Any = copy.copy(loss)  # shares the tables of parameters and buffers
        other.reduction = reduction
        return other
    return partial(loss, reduction=reduction)


def _class_weights(loss: Any, targets: Tensor) -> Tensor:
    """Return the weight of each class number in one of torch's losses, or whether it counts; of the targets' shape."""
    counts = targets != _setting(loss, "ignore_index", -100)
    weight = _setting(loss, "weight", None)
    return counts if weight is None else torch.where(counts, weight[targets.where(counts, 0).long()], 0.0)


def check_parts(loss: Loss, outputs: Sequence[Any], targets: Any, values: Sequence[Tensor]) -> None:
    """Check that a batch's parts gave what its whole gives, if the loss is not known to be one for which they do.

    Args:
        loss: What the parts were differentiated by.
        outputs: Of each part.
        targets: Of the whole batch.
        values: What `loss` gave on each part.

    Raises:
        OptionError: They did not.
    """
    if len(outputs) == 1 or not isinstance(loss, _Samples) or isinstance(loss, _KnownSamples):
        return
    with torch.no_grad():
        joined = uncut(outputs)
        whole = loss.loss(joined, targets)
        shares = torch.stack(list(values)) / len(targets)
        scale = whole.abs() + shares.abs().sum()
        gap = (shares.sum() - whole).abs()
        tolerance = torch.finfo(whole.dtype).eps ** 0.5
        if not bool(whole.isfinite()) or bool(gap <= tolerance * scale):
            return
        if bool(loss.loss(joined, targets) != whole):
            return  # it draws random numbers, and so is no function of the batch
    raise OptionError(
        f"The loss {_name(loss.loss)} is no mean over the samples of a batch: with the batch in {len(outputs)} parts "
        f"their mean is {float(shares.sum()):g}, but the whole gives {float(whole):g}. Give a loss "
        f"of torch's (a module of torch.nn, or functools.partial of a function of torch.nn.functional), give yours the "
        f"methods numerator(outputs, targets) and denominator(targets), or set accumulation=1."
    )


def _name(loss: Any) -> str:
    return f"'{getattr(loss, '__name__', type(loss).__name__)}'"


def joined_parts(values: Sequence[Tensor], loss: Loss, targets: Any) -> list[Tensor]:
    """Return what the whole batch, over all processes, gives; one message.

    Args:
        values: Of the loss and its gradients, summed over the parts of this process.
        loss: What the parts were differentiated by (`loss_of_parts`).
        targets: All of this process.
    """
    return divide_over_ranks(values, loss.denominator(targets)) if isinstance(loss, PartLoss) else list(values)
