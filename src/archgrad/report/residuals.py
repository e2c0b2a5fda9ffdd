"""Predicted values against true ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from archgrad.report.charts import format_value, nice_ticks
from archgrad.report.scene import Box, Curve, Item, Label, Scene, clean_text, shorten, text_width

__all__ = ["residual_scene"]

_SMALL = 12.0
_MOST_POINTS = 800
"""Of a picture; of more, evenly spread ones are drawn."""


def residual_scene(name: str, targets: np.ndarray, outputs: np.ndarray, *, narrow: bool = False) -> Scene:
    """Draw the residual of each sample (predicted minus true) over the true value.

    Args:
        name: Of the value.
        targets: (N,), N at least 1.
        outputs: (N,).
        narrow: For a screen of 400 pixels.
    """
    width, height = (356.0, 260.0) if narrow else (560.0, 320.0)
    residuals = outputs - targets
    spread = np.unique(np.linspace(0, len(targets) - 1, min(len(targets), _MOST_POINTS)).round().astype(int))
    xs, ys = nice_ticks(float(targets.min()), float(targets.max())), _around_zero(residuals)
    written = [format_value(tick, ticks=ys) for tick in ys]
    left = max(58.0, 26.0 + max(text_width(text, size=_SMALL) for text in written))
    right, top, bottom = width - 14.0, 30.0, height - 38.0

    def x(value: float) -> float:
        return left + (right - left) * (value - xs[0]) / (xs[-1] - xs[0])

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - ys[0]) / (ys[-1] - ys[0])

    title = f"Residuals of {shorten(clean_text(name), size=13.0, width=width - 150.0)}"
    items: list[Item] = [Label(x=4.0, y=12.0, text=title, size=13.0, anchor="start", bold=True)]
    for tick, text in zip(ys, written, strict=True):
        items.append(
            Curve(commands=(("M", left, y(tick)), ("L", right, y(tick))), stroke="faint" if tick == 0 else "grid")
        )
        items.append(Label(x=left - 6.0, y=y(tick), text=text, size=_SMALL, anchor="end", fill="muted"))
    for tick in xs[:: 2 if narrow and len(xs) > 5 else 1]:
        items.append(Label(x=x(tick), y=bottom + 13.0, text=format_value(tick, ticks=xs), size=_SMALL, fill="muted"))
    items.append(Label(x=(left + right) / 2, y=bottom + 29.0, text="true value", size=_SMALL, fill="muted"))
    items.append(
        Label(x=10.0, y=(top + bottom) / 2, text="predicted minus true", size=_SMALL, fill="muted", turned=True)
    )
    for k in spread.tolist():
        box = Box(
            x=x(targets[k]) - 2.5,
            y=y(residuals[k]) - 2.5,
            width=5.0,
            height=5.0,
            radius=2.5,
            fill="c1",
            opacity=0.55,
            title=f"sample {k}: true {format_value(targets[k])}, predicted {format_value(outputs[k])}",
        )
        items.append(box)
    mean, deviation = float(residuals.mean()), float(residuals.std())
    said = f"{title}: {len(targets)} samples, mean {format_value(mean)}, standard deviation {format_value(deviation)}"
    return Scene(width=width, height=height, items=tuple(items), name=said)


def _around_zero(residuals: np.ndarray) -> Sequence[float]:
    """Return ticks that hold zero, so that what lies above is told from what lies below."""
    return nice_ticks(min(float(residuals.min()), 0.0), max(float(residuals.max()), 0.0))
