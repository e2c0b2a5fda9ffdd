"""Every Python block of the README runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_block_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace: dict[str, object] = {}
    exec(compile(BLOCKS[number], f"README.md, Python block {number}", "exec"), namespace)
    if number == 0:
        check_own_space(namespace)


def check_own_space(namespace: dict[str, object]) -> None:
    """The own space is no image network and has nested choices; the derived network has only what was chosen."""
    network = namespace["network"]
    assert isinstance(network, torch.nn.Module)
    logits = network(torch.randn(5, 8))
    assert logits.shape == (5, 3)
    assert not any("Choice" in type(module).__name__ for module in network.modules())
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(lines) <= 20


def test_readme_has_its_three_examples() -> None:
    assert len(BLOCKS) == 3
