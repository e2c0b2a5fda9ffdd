"""From run folders to the report's files, and from an architecture to a picture."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np

from archgrad.architecture import Architecture
from archgrad.errors import OptionError, RunError
from archgrad.files import refuse_links
from archgrad.report.compare import comparison_pictures, group_runs
from archgrad.report.page import comparison_section, page, run_names
from archgrad.report.pictures import unique_slugs
from archgrad.report.read import read_run
from archgrad.report.results import Figure, architecture_figure, architecture_scene, write_at_once
from archgrad.report.scene import Picture
from archgrad.report.sections import run_pictures, run_section
from archgrad.report.svg import svg_file

__all__ = ["architecture_image", "draw_architecture", "write_report"]

MAX_PAGE_BYTES = 6_000_000
"""Largest page that is written, unless even the numbers of its runs alone take more."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LEVELS = ((200, False), (60, False), (20, False), (2, True))
"""Most epochs that the sliders share among them, and whether single runs are shown without pictures; tried in turn."""


def write_report(run_dirs: Sequence[Path], *, out: Path | None = None) -> Path:
    """Draw runs as one HTML file that opens offline, and each picture as PNG and SVG in `<run>/report/`.

    Only files are read, so a run may be going on or have broken off.

    Args:
        run_dirs: Folders of searches and retrainings, at least one; several are also compared.
        out: The HTML file, or a folder for it; None for `report.html` in the folder of a single run, or
            `comparison.html` in that of the first of several. With a place outside the runs these may be read-only:
            their pictures are then on the page only, with a warning.

    Returns:
        The HTML file.

    Raises:
        RunError: A folder holds no run, or the report cannot be written.
        OptionError: No folder is given, or one twice.
    """
    folders = [Path(folder) for folder in run_dirs]
    if not folders:
        raise OptionError("A report needs at least one run folder, but got none.")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise OptionError(f"A report takes each run folder once, but got {', '.join(map(str, folders))}.")
    single = len(folders) == 1
    name = "report.html" if single else "comparison.html"
    target = folders[0] / name if out is None else out / name if _is_folder(Path(out)) else Path(out)
    for frames, brief in _LEVELS:
        text, pictures = _compose(folders, max(frames // len(folders), 2), brief=brief)
        if len(text) <= MAX_PAGE_BYTES:
            break
    elsewhere = all(folder.resolve() not in target.resolve().parents for folder in folders)
    try:
        for folder, shown in pictures:
            try:
                _write_pictures(folder, shown)
            except (OSError, RunError) as error:
                if not elsewhere or getattr(error, "errno", None) in _FULL:
                    raise
                reason = getattr(error, "strerror", None) or error
                warnings.warn(
                    f"The pictures of '{folder}' are on the page only, as its folder report/ cannot be written: "
                    f"{reason}",
                    UserWarning,
                    stacklevel=2,
                )
        target.parent.mkdir(parents=True, exist_ok=True)
        write_at_once(target, text.encode("utf-8"))
    except OSError as error:
        raise RunError(
            f"The report cannot be written to '{error.filename or target}': {error.strerror}. "
            f"Give write access and free space, or name another place for the page with --out."
        ) from error
    return target


def _is_folder(out: Path) -> bool:
    return out.is_dir() or out.suffix.lower() not in (".html", ".htm")


def _compose(folders: Sequence[Path], max_frames: int, *, brief: bool) -> tuple[str, list[tuple[Path, list[Picture]]]]:
    """The page, and the pictures for each folder."""
    runs = [read_run(folder, max_frames=max_frames) for folder in folders]
    names = run_names(runs)
    sections, links = [], []
    pictures: list[tuple[Path, list[Picture]]] = []
    if len(runs) > 1:
        shown = comparison_pictures(runs, names, group_runs(runs))
        sections.append(comparison_section(runs, names, shown))
        links.append(("comparison", "Comparison"))
        pictures.append((folders[0], shown))
    drawn: dict[Architecture, tuple[int, str]] = {}
    for number, (run, name) in enumerate(zip(runs, names, strict=True), start=1):
        parts = run_pictures(run)
        earlier = drawn.get(run.architecture) if run.architecture and run.command == "retrain" else None
        sections.append(run_section(run, name, number, {} if brief else parts, drawn=earlier))
        if run.architecture:
            drawn.setdefault(run.architecture, (number, name))
        links.append((f"run-{number}", name))
        pictures.append((run.path, [picture for part in parts.values() for picture in part]))
    title = f"Report of {names[0]}" if len(runs) == 1 else f"Report of {len(runs)} runs"
    return page(title, sections, links), pictures


def _write_pictures(run: Path, pictures: Sequence[Picture]) -> None:
    from archgrad.report.raster import scene_png  # here, as it takes a second

    folder = run / "report"
    refuse_links(folder / "any", below=run)
    folder.mkdir(exist_ok=True)
    for name, picture in zip(unique_slugs(pictures), pictures, strict=True):
        write_at_once(folder / f"{name}.svg", svg_file(picture.wide).encode("utf-8"))
        write_at_once(folder / f"{name}.png", scene_png(picture.wide))


@overload
def draw_architecture(architecture: Architecture, path: None = None) -> Figure: ...
@overload
def draw_architecture(architecture: Architecture, path: str | os.PathLike[str]) -> Path: ...
def draw_architecture(architecture: Architecture, path: str | os.PathLike[str] | None = None) -> Figure | Path:
    """Draw all choices of an architecture, cells as graphs and others as a tree.

    Where the architecture's provenance has probabilities, they show as the edges' widths.

    Args:
        architecture: Any architecture.
        path: A file ending in .png or .svg; its folder must exist. None writes nothing.

    Returns:
        `path`; without one a figure, which a notebook shows.

    Raises:
        OptionError: The ending is another one, or the architecture has no choices.
        RunError: The file cannot be written.
    """
    if path is None:
        return architecture_figure(architecture)
    return architecture_figure(architecture).save(path)


def architecture_image(architecture: Architecture, *, scale: float = 1.5) -> np.ndarray:
    """Return the drawing of an architecture for an image logger.

    Args:
        architecture: Any architecture.
        scale: Pixels of the image per pixel of the drawing, above 0.

    Returns:
        (height, width, 3), uint8.
    """
    if scale <= 0:
        raise OptionError(f"scale must be above 0, but got {scale}.")
    from archgrad.report.raster import scene_pixels  # here, as it takes a second

    return scene_pixels(architecture_scene(architecture), scale=scale)
