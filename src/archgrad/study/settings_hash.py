"""All settings that a score of a study comes from, as a hash: scores of other settings do not go together."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from archgrad.study.jobs import Candidate, jobs_for
from archgrad.study.study_file import Study

__all__ = ["settings_hash"]

_FOLDERS = re.compile(r"[^\s:\"]*/(?=\D)")
"""Of a path: where files lie differs between machines; not of a fold, such as 2/5."""


def settings_hash(study: Study, candidate: Candidate) -> str:
    """Return 12 digits of a hash of all settings that a score comes from, but for its seed and where files lie."""
    settings: list[Any] = [dict(job.options) | {"seed": None} for job in jobs_for(study, candidate, Path())]
    settings += [vars(judge) for judge in study.judges]
    if candidate.run is None:
        settings.append(candidate.architecture)
    if budget := study.drawn.get(candidate.method):
        settings.append([budget, study.cost_table])
    if candidate.method == "random-search":
        settings.append([study.search, study.methods[0].options])  # its cost is that of the first method
    text = _FOLDERS.sub("", json.dumps(settings, sort_keys=True, default=str))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
