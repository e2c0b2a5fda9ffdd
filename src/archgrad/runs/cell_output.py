"""A live display in the output of a notebook's cell."""

from __future__ import annotations

from typing import Any

from rich.table import Table

__all__ = ["CellOutput"]


class CellOutput:
    """Shows what it is given in one place of the cell's output, and renews it there.

    By the displays that IPython itself updates, since rich's own live display needs ipywidgets in a notebook.
    """

    def __init__(self) -> None:
        self._handle: Any = None

    def start(self) -> None:
        """Begin with nothing shown."""

    def stop(self) -> None:
        """Leave what is shown as it is."""

    def update(self, renderable: Any, *, refresh: bool = True) -> None:
        """Show something of rich's in the place of what was shown before.

        Args:
            renderable: What to show.
            refresh: At once; there is no other way.
        """
        grid = Table.grid()  # rich turns it into HTML and plain text
        grid.add_row(renderable)
        if self._handle is None:
            from IPython.display import display  # what runs here is in a notebook

            self._handle = display(grid, display_id=True)
        else:
            self._handle.update(grid)
