"""Scenes as SVG text: inside the page, coloured by its theme, or as a file of their own."""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Mapping

import numpy as np

from archgrad.report.scene import LIGHT, Box, Curve, Group, Item, Label, Raster, Scene, clean_text

__all__ = ["escape", "png_bytes", "png_data_uri", "svg_file", "svg_inline"]

_SMALL_IMAGE = 100_000
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def escape(text: object) -> str:
    """Return `text` safe inside an element or a quoted attribute of HTML and SVG."""
    return html.escape(clean_text(text), quote=True)


def svg_inline(scene: Scene) -> str:
    """Return a drawing for the page, with its colours as CSS variables."""
    return _svg(scene, themed=True)


def svg_file(scene: Scene) -> str:
    """Return a drawing as a whole SVG file, on a white background."""
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + _svg(scene, themed=False) + "\n"


def _svg(scene: Scene, *, themed: bool) -> str:
    width, height = _number(scene.width), _number(scene.height)
    body = "".join(_item(item, themed) for item in scene.items)
    if themed:
        attributes = f'style="--w:{width}px"'
        namespace = background = ""
    else:
        attributes = f'width="{width}" height="{height}" font-family="{_FONT}"'
        namespace = ' xmlns="http://www.w3.org/2000/svg"'
        background = f'<rect width="{width}" height="{height}" fill="{LIGHT["surface"]}"/>'
    return (
        f'<svg{namespace} viewBox="0 0 {width} {height}" role="img" {attributes}>'
        f"<title>{escape(scene.name)}</title>{background}{body}</svg>"
    )


def _item(item: Item, themed: bool) -> str:
    marks = _marks(item.marks)
    title = f"<title>{escape(item.title)}</title>" if item.title else ""
    if isinstance(item, Group):
        move = f' transform="translate({_number(item.x)} {_number(item.y)})"' if item.x or item.y else ""
        return f"<g{move}{marks}>{title}{''.join(_item(child, themed) for child in item.items)}</g>"
    if isinstance(item, Label):
        return _text(item, themed, marks, title)
    if isinstance(item, Raster):
        return (
            f'<image x="{_number(item.x)}" y="{_number(item.y)}" width="{_number(item.width)}" '
            f'height="{_number(item.height)}" preserveAspectRatio="none" image-rendering="pixelated" '
            f'href="{png_data_uri(item.pixels)}"{marks}>{title}</image>'
        )
    paint = {"fill": item.fill, "stroke": item.stroke}
    style = _paint(paint, themed) + (f' opacity="{_number(item.opacity)}"' if item.opacity != 1.0 else "")
    if isinstance(item, Box):
        radius = f' rx="{_number(item.radius)}"' if item.radius else ""
        line = f' stroke-width="{_number(item.stroke_width)}"' if item.stroke else ""
        return (
            f'<rect x="{_number(item.x)}" y="{_number(item.y)}" width="{_number(item.width)}" '
            f'height="{_number(item.height)}"{radius}{line}{style}{marks}' + _close("rect", title)
        )
    line = f' stroke-width="{_number(item.width)}"' if item.stroke else ""
    dash = f' stroke-dasharray="{" ".join(_number(d) for d in item.dash)}"' if item.dash else ""
    return f'<path d="{_path(item)}"{line}{dash}{style}{marks}' + _close("path", title)


def _text(item: Label, themed: bool, marks: str, title: str) -> str:
    x, y = _number(item.x), _number(item.y + 0.35 * item.size)
    turn = f' transform="rotate(-90 {_number(item.x)} {_number(item.y)})"' if item.turned else ""
    anchor = f' text-anchor="{item.anchor}"' if item.anchor != "start" else ""
    weight = ' font-weight="600"' if item.bold else ""
    roles: dict[str, str | None] = {"fill": item.fill}
    halo = ""
    if item.halo:
        roles["stroke"] = "surface"
        halo = ' paint-order="stroke" stroke-width="11" stroke-linejoin="round"'
    sub = ""
    if item.subscript:
        sub = (
            f'<tspan dy="{_number(0.25 * item.size)}" font-size="{_number(0.75 * item.size)}">'
            f"{escape(item.subscript)}</tspan>"
        )
    paint = _paint(roles, themed)
    return (
        f'<text x="{x}" y="{y}" font-size="{_number(item.size)}"{anchor}{weight}{turn}{halo}{paint}{marks}>'
        f"{title}{escape(item.text)}{sub}</text>"
    )


def _paint(roles: Mapping[str, str | None], themed: bool) -> str:
    """The attributes for fill and stroke; an outline without fill says so, since SVG fills with black."""
    if themed:
        style = ";".join(f"{name}:{f'var(--{role})' if role else 'none'}" for name, role in roles.items())
        return f' style="{style}"'
    return "".join(f' {name}="{LIGHT[role] if role else "none"}"' for name, role in roles.items())


def _path(item: Curve) -> str:
    return "".join(command[0] + " ".join(_number(value) for value in command[1:]) for command in item.commands)


def _marks(marks: Mapping[str, str]) -> str:
    return "".join(f' {name}="{escape(value)}"' for name, value in marks.items())


def _close(tag: str, title: str) -> str:
    return f">{title}</{tag}>" if title else "/>"


def _number(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def png_data_uri(pixels: np.ndarray) -> str:
    """Return an image as a `data:` address.

    Args:
        pixels: (rows, columns, 3 or 4), uint8.
    """
    return "data:image/png;base64," + base64.b64encode(png_bytes(pixels)).decode("ascii")


def png_bytes(pixels: np.ndarray) -> bytes:
    """Return an image as a PNG file.

    Args:
        pixels: (rows, columns, 3 or 4), uint8.
    """
    rows, columns, channels = pixels.shape
    colour_type = {3: 2, 4: 6}[channels]
    lines = np.zeros((rows, 1 + columns * channels), dtype=np.uint8)  # byte 0 of a line: filter "none"
    lines[:, 1:] = pixels.reshape(rows, columns * channels)
    header = struct.pack(">IIBBBBB", columns, rows, 8, colour_type, 0, 0, 0)
    content = lines.tobytes()
    level = 9 if len(content) <= _SMALL_IMAGE else 3  # flat drawings hardly shrink further, and take five times as long
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(content, level)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
