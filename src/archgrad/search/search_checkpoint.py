"""What a search's checkpoint says of itself."""

from __future__ import annotations

from typing import Any

from archgrad.errors import RunError
from archgrad.json_text import shown

__all__ = ["FORMAT", "VERSION", "check_checkpoint"]

FORMAT = "archgrad.search"
VERSION = 2


def check_checkpoint(state: Any, samples: int) -> None:
    """Refuse what is not the checkpoint of a search of so many training samples.

    Raises:
        RunError: It is of something else, of a newer version, or of other data.
    """
    if not isinstance(state, dict) or state.get("format") != FORMAT or state.get("version") not in (1, VERSION):
        raise RunError("The checkpoint is not that of a search. Resume the run with the command that started it.")
    if state.get("samples") != samples:
        raise RunError(
            f"The run had {shown(state.get('samples'))} training samples, but the data now has {samples}. "
            f"Resume with the data that the run was started with."
        )
