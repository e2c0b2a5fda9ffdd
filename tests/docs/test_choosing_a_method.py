"""The table of the presets leaves none out, and names the publication that the preset names."""

from __future__ import annotations

from pages import PAGES

from archgrad.methods import presets


def test_every_preset_is_in_the_table_once_with_its_source() -> None:
    text = PAGES["choosing-a-method.md"].read_text(encoding="utf-8")
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert sorted(line[0].strip("`") for line in lines) == sorted(name.replace("_", "-") for name in presets.__all__)
    for name, *_, source in lines:
        assert getattr(presets, name.strip("`").replace("-", "_")).source.startswith(source)
