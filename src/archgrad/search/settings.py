"""What a search's result depends on beside its seed, as each architecture's provenance has it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from archgrad.runs.config import plain_config
from archgrad.search.search_options import SearchOptions
from archgrad.typed_names import PREFIXES

__all__ = ["settings_of"]

_PARTS = ("data_options", "space", "channels", "cells", "space_options", "method")
_NO_SETTINGS = ("seed", "on_nonfinite")


def settings_of(options: SearchOptions, config: Mapping[str, Any], data: str) -> dict[str, Any]:
    """Return the settings; architectures of searches that share them differ by nothing but the seed.

    Args:
        options: Of the search.
        config: All that goes into config.yaml; its space, sizes and method count.
        data: Name of the data; of a path only the last part is kept, since architectures are handed on.
    """
    chosen = {name: config[name] for name in _PARTS if config.get(name) is not None}
    if isinstance(chosen.get("space"), str):
        chosen["space"] = _without_folders(chosen["space"])
    if isinstance(chosen.get("data_options"), Mapping):  # paths, often
        chosen["data_options"] = {
            name: _without_folders(value) if isinstance(value, str) else value
            for name, value in chosen["data_options"].items()
        }
    own = {name: value for name, value in options.recipe().items() if name not in _NO_SETTINGS}
    for table in {"latency_table", "cost_table"} & own.keys():
        own[table] = _without_folders(os.fspath(own[table]))
    return plain_config({"data": _without_folders(data), **chosen, **own})


def _without_folders(name: str) -> str:
    kind, colon, path = name.partition(":") if name.startswith(PREFIXES) else ("", "", name)
    return kind + colon + path.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
