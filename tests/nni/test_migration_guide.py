"""The guide for NNI's users is true: its code runs, and what it says of the class is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from nni_problems import Line, trainer, weight
from torch import Tensor, nn

import archgrad as ag

GUIDE = Path(__file__).parents[2] / "docs" / "migrating-from-nni.md"


def test_the_code_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    ours = [block for block in blocks if "from nni" not in block]
    assert len(ours) == len(blocks) - 2 == 3
    names: dict[str, Any] = {"__name__": "guide"}
    for block in ours:
        exec(block, names)
    assert names["network"](torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    exported = names["trainer"].export()
    assert exported["conv"] in ("conv3", "conv5", "skip")
    assert exported["join"] in ([0], [1])


def test_the_script_for_nni_3_runs_with_its_imports_changed() -> None:
    text = (GUIDE.parent / "migrating-from-nni-3.md").read_text()
    before, changed, *_ = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, Any] = {"__name__": "guide"}
    exec(before.replace("from nni.", "from archgrad.nni."), names)
    assert set(changed.splitlines()) < set(before.replace("from nni.", "from archgrad.nni.").splitlines())
    assert type(names["network"].layer).__name__ == {"linear": "Linear", "skip": "Identity"}[names["exported"]["layer"]]
    assert set(names["evaluator"].history[-1]) == {"train_loss", "train_acc", "val_loss", "val_acc"}


def test_the_guide_has_a_row_for_every_documented_argument() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", GUIDE.read_text(), flags=re.MULTILINE)
    documented = ag.DartsTrainer.__init__.__annotations__
    assert rows == list(documented)[: len(rows)]
    assert rows[-1] == "unrolled"


def test_the_validation_loss_is_taken_at_the_look_ahead_weights() -> None:
    # y = w, t = 0: w' = w - lr w = 1, and the validation loss of the look-ahead is w'^2 / 2. A virtual step that only
    # rebinds the loop's variable leaves w' = w = 2, and a loss of 2.
    made = trainer(Line(w=2.0), learning_rate=0.5, unrolled=True)
    made.fit()
    assert made.history[0]["valid_loss"] == pytest.approx(0.5)
    assert weight(made) == pytest.approx(1.0)


def test_two_of_two_summed_inputs_give_their_sum() -> None:
    class Join(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))
            self.join = ag.InputChoice(n_candidates=2, n_chosen=2, label="join")

        def forward(self, x: Tensor) -> Tensor:
            return self.w * self.join([x, 2 * x])

    made = trainer(Join())
    assert made.supernet(torch.ones(3)).tolist() == pytest.approx([3.0] * 3)
