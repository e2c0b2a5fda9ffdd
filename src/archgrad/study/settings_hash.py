"""All settings that a score of a study comes from, as a hash: scores of other settings do not go together."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from archgrad.study.jobs import Candidate
from archgrad.study.study_file import Study

__all__ = ["settings_hash"]

_FOLDERS = re.compile(r"[^\s:\"]*/")
"""Of a path: where files lie differs between machines."""


def settings_hash(study: Study, candidate: Candidate) -> str:
    """Return 12 digits of a hash of all settings that a score comes from, but for its seed and where files lie."""
    axes: tuple[tuple[Iterable[Any], str], ...] = (
        (study.methods, candidate.method),
        (study.spaces, candidate.space),
        (study.data, candidate.data),
    )
    settings: list[Any] = [dict(entry.options) for axis, name in axes for entry in axis if entry.name == name]
    settings += [study.search, *(vars(judge) for judge in study.judges)]
    if candidate.method == "random-search":
        settings += [study.random_search, study.methods[0].options]  # its cost is that of the first method
    if candidate.method in study.architectures:
        settings.append(study.architectures[candidate.method])
    text = _FOLDERS.sub("", json.dumps(settings, sort_keys=True, default=str))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
