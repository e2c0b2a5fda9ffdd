"""`model_wrapper` and `ModelSpace`: choices without a label are numbered in the order in which a model builds them.

So the model that is built again inside `fixed_arch` finds the decisions of the one that was searched.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

__all__ = ["ModelSpace", "label_or_number", "model_wrapper"]

M = TypeVar("M", bound=type[nn.Module])


@dataclass
class _Model:
    """A model that is being built."""

    instance: nn.Module
    prefix: str
    separator: str
    numbered: int = 0

    def next_label(self) -> str:
        self.numbered += 1
        return f"{self.prefix}{self.separator}{self.numbered}"


_MODELS: ContextVar[tuple[_Model, ...]] = ContextVar("archgrad_nni_models", default=())


def label_or_number(label: str | None) -> str | None:
    """Return the label, or the next number in the model that is being built; None outside one."""
    models = _MODELS.get()
    return models[-1].next_label() if label is None and models else label


def model_wrapper(cls: M) -> M:
    """Number the unlabelled choices of a class of models, `model_1`, `model_2`, ... (NNI 2: `nni.retiarii`).

    Returns:
        The class itself. A model of it inside another numbers its choices below its own number, `model_1_1`.
    """
    return _numbered(cls, "_")


def _numbered(cls: M, separator: str) -> M:
    build = cls.__init__

    @functools.wraps(build)
    def numbered_init(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        with _building(self, separator):
            build(self, *args, **kwargs)

    cls.__init__ = numbered_init  # type: ignore[method-assign]
    return cls


@contextmanager
def _building(instance: nn.Module, separator: str) -> Iterator[None]:
    models = _MODELS.get()
    if models and models[-1].instance is instance:  # the class that this one inherits from
        yield
        return
    prefix = models[-1].next_label() if models else "model"
    token = _MODELS.set((*models, _Model(instance, prefix, separator)))
    try:
        yield
    finally:
        _MODELS.reset(token)


class ModelSpace(nn.Module):
    """Base of a model with open choices (NNI 3); those without a label are called `model/1`, `model/2`, ..."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            _numbered(cls, "/")
