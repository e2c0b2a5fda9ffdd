"""A report says what data a run read, and calls its samples what they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import run_factory

from archgrad.report import write_report


@pytest.mark.parametrize(("shape", "unit", "other"), [([3, 32, 32], "image", "sample"), (None, "sample", "image")])
def test_samples_are_called_images_where_they_are_some(
    shape: list[int] | None, unit: str, other: str, tmp_path: Path
) -> None:
    run = run_factory.write_retrain(tmp_path / "run", epochs=2, worst=False)
    file = run / "summary.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_shape": shape}))
    page = write_report([run]).read_text(encoding="utf-8")
    for text in (f"multiply-adds a{'n' if unit == 'image' else ''} {unit}", f"test {unit}s right", f">{unit}s</th>"):
        assert text in page
        assert text.replace(unit, other) not in page


def test_the_head_of_a_run_says_what_data_it_read(tmp_path: Path) -> None:
    run = run_factory.write_search(tmp_path / "run", epochs=2)
    without = write_report([run], out=tmp_path / "without.html").read_text(encoding="utf-8")
    assert '<p class="hint">Data: ' not in without
    file = run / "environment.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "data": "300 images, 3 classes, <40x40> RGB"}))
    page = write_report([run], out=tmp_path / "with.html").read_text(encoding="utf-8")
    assert '<p class="hint">Data: 300 images, 3 classes, &lt;40x40&gt; RGB</p>' in page
