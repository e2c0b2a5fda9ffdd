"""Two processes whose path is measured take the same one, and nothing else comes of it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from ranks import Ranks


def test_process_0_measures_and_all_take_its_path(tmp_path: Path) -> None:
    both = Ranks("worker_chosen_paths.py", tmp_path, str(tmp_path)).results()
    for each in both:
        for run in ("search", "retrain"):
            for name, value in each[f"{run}, told"]["state"].items():
                assert torch.equal(each[run]["state"][name], value), name
    kept = json.loads((tmp_path / "measured" / "paths.json").read_text())
    assert kept["networks"]["stage 1"]["path"] == "torch"
    assert not (tmp_path / "told" / "paths.json").exists()
