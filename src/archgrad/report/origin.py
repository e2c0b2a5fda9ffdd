"""Where the network of a retraining comes from: what it may be pooled with, and what it is compared with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from archgrad.architecture import Architecture
from archgrad.report.read import NOT_A_SETTING, Run, flatten, read_config_file

__all__ = ["digest", "origin"]


def origin(run: Run) -> dict[str, Any]:
    """Return where a retraining's architecture comes from, as settings beside its own; nothing for a search.

    Architectures of searches with the same settings, and random ones, have the same origin whatever their seed. Of
    others nothing is known but what they are, and each is an origin of its own.
    """
    architecture = run.architecture
    if run.command != "retrain" or architecture is None:
        return {}
    provenance = architecture.to_dict()["provenance"]
    if provenance.get("drawn_at_random") is True:
        return {"architecture": "random"}
    search = provenance.get("search")
    if not isinstance(search, Mapping):
        search = _search_of(run)
    if search is not None:
        known = {name: value for name, value in flatten(search).items() if _counts(name)}
        return {
            "architecture": "searched",
            "architecture.epoch": provenance.get("epoch"),
            **{f"search.{name}": value for name, value in known.items()},
        }
    return {"architecture": digest(architecture)}


def digest(architecture: Architecture) -> str:
    """Return a short name of what an architecture decides."""
    text = json.dumps(architecture.to_dict()["choices"], sort_keys=True)
    return "#" + hashlib.sha256(text.encode("utf-8")).hexdigest()[:6]


def _counts(name: str) -> bool:
    return name.split(".")[-1] not in NOT_A_SETTING


def _search_of(run: Run) -> Mapping[str, Any] | None:
    """The configuration of the search that a retraining's --arch names, if it still lies there."""
    path = run.config.get("arch")
    if not isinstance(path, str) or "/" not in path:
        return None
    file = Path(path)
    config = (file.parent.parent if file.parent.name == "checkpoints" else file) / "config.yaml"
    try:
        found = read_config_file(config)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    return found if found.get("command") == "search" else None
