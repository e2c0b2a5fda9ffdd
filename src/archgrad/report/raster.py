"""Scenes as pixels, drawn by matplotlib without a display."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import BboxImage
from matplotlib.patches import BoxStyle, FancyBboxPatch, PathPatch
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Affine2D, Bbox, IdentityTransform, Transform, TransformedBbox

from archgrad.report.scene import LIGHT, Box, Curve, Group, Item, Label, Raster, Scene, clean_text

__all__ = ["scene_pixels", "scene_png"]

_POINTS = 0.72  # a pixel of a scene is a hundredth of an inch
_CODES = {"M": Path.MOVETO, "L": Path.LINETO, "C": Path.CURVE4, "Z": Path.CLOSEPOLY}
_ALIGN: dict[str, Literal["left", "center", "right"]] = {"start": "left", "middle": "center", "end": "right"}


def scene_png(scene: Scene, *, scale: float = 2.0) -> bytes:
    """Return a drawing as a PNG file.

    Args:
        scene: What to draw.
        scale: Pixels of the file per pixel of the scene, above 0.
    """
    canvas = _canvas(scene, scale)
    buffer = io.BytesIO()
    with _quiet_about_glyphs():
        canvas.print_png(buffer, metadata={"Software": None}, pil_kwargs={"compress_level": 3})
    return buffer.getvalue()


def scene_pixels(scene: Scene, *, scale: float = 1.0) -> np.ndarray:
    """Return a drawing as (height, width, 3), uint8."""
    canvas = _canvas(scene, scale)
    with _quiet_about_glyphs():
        canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


@contextlib.contextmanager
def _quiet_about_glyphs() -> Iterator[None]:
    # A label in a script that the font lacks shows as boxes here and as itself in the page: no reason to warn.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def _canvas(scene: Scene, scale: float) -> FigureCanvasAgg:
    figure = Figure(figsize=(scene.width / 100, scene.height / 100), dpi=100 * scale, facecolor=LIGHT["surface"])
    canvas = FigureCanvasAgg(figure)
    place = Affine2D().scale(scale, -scale).translate(0.0, scene.height * scale)
    for order, (item, x, y) in enumerate(_flat(scene.items, 0.0, 0.0)):
        artist = _artist(item, figure, Affine2D().translate(x, y) + place)
        artist.set_zorder(order)
        figure.add_artist(artist)
    return canvas


def _flat(items: tuple[Item, ...], x: float, y: float) -> Iterator[tuple[Item, float, float]]:
    for item in items:
        if isinstance(item, Group):
            yield from _flat(item.items, x + item.x, y + item.y)
        else:
            yield item, x, y


def _artist(item: Item, figure: Figure, place: Transform) -> Artist:
    if isinstance(item, Label):
        return _text(item, place)
    if isinstance(item, Raster):
        corners = Bbox([[item.x, item.y + item.height], [item.x + item.width, item.y]])
        image = BboxImage(TransformedBbox(corners, place), interpolation="nearest", origin="upper")
        image.set_figure(figure)
        image.set_data(item.pixels)
        return image
    if isinstance(item, Box):
        shape = BoxStyle.Round(pad=0.0, rounding_size=item.radius) if item.radius else BoxStyle.Square(pad=0.0)
        return FancyBboxPatch(
            (item.x, item.y),
            item.width,
            item.height,
            boxstyle=shape,
            facecolor=LIGHT[item.fill] if item.fill else "none",
            edgecolor=LIGHT[item.stroke] if item.stroke else "none",
            linewidth=item.stroke_width * _POINTS if item.stroke else 0.0,
            alpha=item.opacity,
            transform=place,
        )
    assert isinstance(item, Curve)
    return PathPatch(
        _path(item),
        facecolor=LIGHT[item.fill] if item.fill else "none",
        edgecolor=LIGHT[item.stroke] if item.stroke else "none",
        linewidth=item.width * _POINTS if item.stroke else 0.0,
        linestyle=(0, [d / max(item.width, 0.1) for d in item.dash]) if item.dash else "solid",
        alpha=item.opacity,
        capstyle="butt",
        transform=place,
    )


def _path(item: Curve) -> Path:
    points: list[tuple[float, float]] = []
    codes: list[int] = []
    for command in item.commands:
        values = command[1:] or (0.0, 0.0)
        points.extend(zip(values[::2], values[1::2], strict=True))
        codes.extend([int(_CODES[command[0]])] * (len(values) // 2))
    return Path(points, codes)


def _text(item: Label, place: Transform) -> Text:
    # The baseline of SVG: 0.35 em below the middle of the letters.
    dx, dy = (0.35 * item.size, 0.0) if item.turned else (0.0, 0.35 * item.size)
    x, y = place.transform((item.x + dx, item.y + dy))
    text = clean_text(item.text)
    if item.subscript:
        text = f"${text}_{{{item.subscript}}}$"  # only the states' own names have a subscript, never a user's text
    label = Text(
        x,
        y,
        text,
        color=LIGHT[item.fill],
        fontsize=item.size * _POINTS,
        fontweight="bold" if item.bold else "normal",
        horizontalalignment=_ALIGN[item.anchor],
        verticalalignment="baseline",
        parse_math=bool(item.subscript),
        transform=IdentityTransform(),
    )
    if item.turned:
        label.set_rotation(90)
        label.set_rotation_mode("anchor")
    if item.halo:
        label.set_path_effects([withStroke(linewidth=11 * _POINTS, foreground=LIGHT["surface"])])
    return label
