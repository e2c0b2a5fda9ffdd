"""Scenes as pixels, drawn by the renderer of matplotlib without a display."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.path import Path
from matplotlib.transforms import Affine2D

from archgrad.report.glyphs import outline
from archgrad.report.scene import LIGHT, Box, Curve, Group, Item, Label, Raster, Scene, clean_text
from archgrad.report.svg import png_bytes

__all__ = ["scene_pixels", "scene_png"]

_CODES = {"M": Path.MOVETO, "L": Path.LINETO, "C": Path.CURVE4, "Z": Path.CLOSEPOLY}
_SHIFT = {"start": 0.0, "middle": 0.5, "end": 1.0}
_HALO = 11.0
_ROUND = 0.5523  # of a cubic curve that follows a quarter of a circle


def scene_png(scene: Scene, *, scale: float = 2.0) -> bytes:
    """Return a drawing as a PNG file.

    Args:
        scene: What to draw.
        scale: Pixels of the file per pixel of the scene, above 0.
    """
    return png_bytes(scene_pixels(scene, scale=scale))


def scene_pixels(scene: Scene, *, scale: float = 1.0) -> np.ndarray:
    """Return a drawing as (height, width, 3), uint8."""
    width, height = (max(1, round(side * scale)) for side in (scene.width, scene.height))
    canvas = _Canvas(width, height, scale)
    for item, x, y in _flat(scene.items, 0.0, 0.0):
        canvas.draw(item, x, y)
    return np.ascontiguousarray(canvas.pixels[..., :3])


def _flat(items: Sequence[Item], x: float, y: float) -> Iterator[tuple[Item, float, float]]:
    for item in items:
        if isinstance(item, Group):
            yield from _flat(item.items, x + item.x, y + item.y)
        else:
            yield item, x, y


class _Canvas:
    """A white image to draw items on, in the coordinates of the scene."""

    def __init__(self, width: int, height: int, scale: float) -> None:
        self.scale, self.height = scale, height
        self.renderer = RendererAgg(width, height, 72.0)  # at 72 dots per inch a point is a pixel
        self.pixels = np.asarray(self.renderer.buffer_rgba())  # shares the renderer's memory
        self.pixels[...] = (*_rgb("surface"), 255)

    def draw(self, item: Item, x: float, y: float) -> None:
        if isinstance(item, Raster):
            self._raster(item, x, y)
        elif isinstance(item, Label):
            self._label(item, x, y)
        elif isinstance(item, Box):
            place = self._place(x + item.x, y + item.y)
            self._path(_box(item), place, item.fill, item.stroke, item.stroke_width, item.opacity)
        elif isinstance(item, Curve):
            place = self._place(x, y)
            self._path(_curve(item), place, item.fill, item.stroke, item.width, item.opacity, item.dash)

    def _place(self, x: float, y: float) -> Affine2D:
        """From a scene's pixels, y downwards from (x, y), to the renderer's, y upwards."""
        return Affine2D().translate(x, y).scale(self.scale, -self.scale).translate(0.0, self.height)

    def _path(
        self,
        path: Path,
        place: Affine2D,
        fill: str | None,
        stroke: str | None,
        width: float,
        opacity: float = 1.0,
        dash: Sequence[float] = (),
    ) -> None:
        gc = self.renderer.new_gc()
        gc.set_alpha(opacity)
        gc.set_linewidth(width * self.scale if stroke else 0.0)
        gc.set_foreground(LIGHT[stroke or "ink"])
        gc.set_capstyle("butt")
        gc.set_joinstyle("round")
        if dash:
            gc.set_dashes(0.0, [length * self.scale for length in dash])
        face = tuple(part / 255 for part in _rgb(fill)) if fill else None
        self.renderer.draw_path(gc, path, place, face)
        gc.restore()

    def _label(self, item: Label, x: float, y: float) -> None:
        points, codes, width = outline(clean_text(item.text), size=item.size, bold=item.bold)
        if item.subscript:
            below, more, extra = outline(clean_text(item.subscript), size=0.75 * item.size, bold=item.bold)
            points = np.concatenate([points, below + np.array([width, -0.25 * item.size])])
            codes = np.concatenate([codes, more])
            width += extra
        if not len(points):
            return
        points = points - (width * _SHIFT[item.anchor], 0.35 * item.size)  # y is the middle of the letters
        points = points[:, ::-1] * (-1.0, 1.0) if item.turned else points
        path = Path(points * (1.0, -1.0), codes)
        place = self._place(x + item.x, y + item.y)
        if item.halo:
            self._path(path, place, "surface", "surface", _HALO)
        self._path(path, place, item.fill, None, 0.0)

    def _raster(self, item: Raster, x: float, y: float) -> None:
        left, right = (round((x + side) * self.scale) for side in (item.x, item.x + item.width))
        top, bottom = (round((y + side) * self.scale) for side in (item.y, item.y + item.height))
        area = self.pixels[max(top, 0) : bottom, max(left, 0) : right]
        rows, columns = (
            (np.arange(n) * cells // max(n, 1)) for n, cells in zip(area.shape[:2], item.pixels.shape[:2], strict=True)
        )
        cells = item.pixels[rows[:, None], columns[None, :]].astype(np.uint16)
        opacity = cells[..., 3:]
        area[..., :3] = (area[..., :3] * (255 - opacity) + cells[..., :3] * opacity + 127) // 255


def _rgb(role: str) -> tuple[int, int, int]:
    colour = LIGHT[role]
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _box(item: Box) -> Path:
    w, h = item.width, item.height
    r = min(item.radius, w / 2, h / 2)
    if r <= 0:
        return Path([(0, 0), (w, 0), (w, h), (0, h), (0, 0)], [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY])
    k = r * (1 - _ROUND)
    points = [(r, 0), (w - r, 0), (w - k, 0), (w, k), (w, r), (w, h - r), (w, h - k), (w - k, h), (w - r, h)]
    points += [(r, h), (k, h), (0, h - k), (0, h - r), (0, r), (0, k), (k, 0), (r, 0), (r, 0)]
    corner = [Path.LINETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
    return Path(points, [Path.MOVETO, *corner * 4, Path.CLOSEPOLY])


def _curve(item: Curve) -> Path:
    points: list[tuple[float, float]] = []
    codes: list[int] = []
    for command in item.commands:
        values = command[1:] or (0.0, 0.0)
        pairs = list(zip(values[::2], values[1::2], strict=True))
        points.extend(pairs)
        codes.extend([int(_CODES[command[0]])] * len(pairs))
    return Path(points, codes)
