"""The tables and pictures of docs/results.md, made again from studies/results/*.csv.

    python studies/make_page.py

A study that is to be published is kept by `archgrad study studies/NAME.yaml --keep studies/results/NAME.csv`, and has a
place in the page: a line `<!-- study: NAME -->` and a line `<!-- end of study -->`.
"""

from __future__ import annotations

from pathlib import Path

from archgrad.study.kept import from_csv
from archgrad.study.results_page import filled

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "results.md"
IMAGES = "images/results"


def made() -> tuple[str, dict[str, str]]:
    """Return the page, and its pictures by the names of their files."""
    kept = {file.stem: from_csv(file.read_text(encoding="utf-8")) for file in sorted((HERE / "results").glob("*.csv"))}
    return filled(PAGE.read_text(encoding="utf-8"), kept, images=IMAGES)


def main() -> None:
    """Write the page and its pictures."""
    page, pictures = made()
    PAGE.write_text(page, encoding="utf-8")
    folder = PAGE.parent / IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        if old.name not in pictures:
            old.unlink()
    for name, svg in pictures.items():
        (folder / name).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
