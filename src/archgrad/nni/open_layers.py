"""The layers of `torch.nn` as NNI wraps them: torch's with plain numbers, those of `archgrad.nn` with open ones."""

from __future__ import annotations

from typing import Any

from torch import nn

from archgrad import nn as own
from archgrad.values import choices_in

__all__ = ["OPEN_LAYERS"]


class _EitherLayer(type):
    """Makes a class whose calls return a layer of torch or, where a number is open, of archgrad."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Return the layer; subclasses are built as they are."""
        if "kinds" not in vars(cls):
            return super().__call__(*args, **kwargs)
        plain, open_kind = cls.kinds  # type: ignore[attr-defined]
        is_open = any(choices_in(given) for given in (*args, *kwargs.values()))
        return (open_kind if is_open else plain)(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        """Whether it is such a layer, also one of torch's or of archgrad's."""
        return isinstance(instance, vars(cls).get("kinds", ())) or super().__instancecheck__(instance)


def _either(name: str) -> Any:
    plain = getattr(nn, name)
    kinds = {"kinds": (plain, getattr(own, name)), "__doc__": f"`torch.nn.{name}`, of which numbers may be open."}
    return _EitherLayer(name, (plain,), kinds)


OPEN_LAYERS = {name: _either(name) for name in own.__all__ if hasattr(nn, name)}
"""Name -> class."""
