"""Letters as outlines, and how wide they are, from the font that comes with matplotlib."""

from __future__ import annotations

import functools
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["advance", "outline"]

_EM = 1000.0
_FILES = {False: "DejaVuSans.ttf", True: "DejaVuSans-Bold.ttf"}
_MOVE, _LINE, _CLOSE = 1, 2, 79  # matplotlib's codes of a path
_FRAME = [[0.06, 0.0], [0.54, 0.0], [0.54, 0.72], [0.06, 0.72], [0.06, 0.0]]
_HOLE = [[0.11, 0.05], [0.11, 0.67], [0.49, 0.67], [0.49, 0.05], [0.11, 0.05]]  # runs the other way round
_BOX = np.array([*_FRAME, *_HOLE])  # for letters that the font lacks


@functools.cache
def _font(bold: bool) -> Any:
    import matplotlib  # here, as it takes a second, which a run that draws nothing should not wait for
    from matplotlib.ft2font import FT2Font

    font = FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / _FILES[bold]))
    font.set_size(_EM, 72.0)
    return font


@functools.cache
def advance(sign: str, bold: bool = False) -> float:
    """Return the width of a letter at size 1."""
    font = _font(bold)
    if unicodedata.east_asian_width(sign) in "WF" or font.get_char_index(ord(sign)) == 0:
        return 1.0
    return float(font.load_char(ord(sign)).linearHoriAdvance) / 65536.0 / _EM


@functools.cache
def _glyph(sign: str, bold: bool) -> tuple[np.ndarray, np.ndarray]:
    """The outline at size 1, y upwards from the baseline: (points, 2) and matplotlib's codes."""
    font = _font(bold)
    if font.get_char_index(ord(sign)) == 0:
        return _BOX, np.array([_MOVE, _LINE, _LINE, _LINE, _CLOSE] * 2, dtype=np.uint8)
    font.load_char(ord(sign))
    vertices, codes = font.get_path()
    return np.asarray(vertices, dtype=np.float64) / _EM, np.asarray(codes, dtype=np.uint8)


def outline(text: str, *, size: float, bold: bool = False) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the outline of a line of text, y upwards from the baseline.

    Args:
        text: Any characters; those that the font lacks become boxes.
        size: Of the letters, in pixels.
        bold: Take the bold letters.

    Returns:
        Points (N, 2), matplotlib's path codes (N,), and the width.
    """
    x = 0.0
    points, codes = [np.zeros((0, 2))], [np.zeros(0, dtype=np.uint8)]
    for sign in text:
        vertices, kinds = _glyph(sign, bold)
        points.append((vertices + np.array([x, 0.0])) * size)
        codes.append(kinds)
        x += advance(sign, bold)
    return np.concatenate(points), np.concatenate(codes), x * size
