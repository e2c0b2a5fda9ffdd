"""The selection of DARTS-PT against the authors' numbers, in float64: what each removal costs, and what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from test_methods import EDGES, supernet_of

import archgrad as ag
from archgrad.epoch_end import EpochEnd
from archgrad.relaxation import Softmax
from archgrad.schedules import Progress
from archgrad.selection import PerturbationBased
from archgrad.selection.undecided import Undecided

pytestmark = pytest.mark.shared
ORDER = (3, 0, 5, 1, 4, 2)  # as the metadata of the file has it
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


class InOrder(PerturbationBased):
    """The selection with an order that was drawn elsewhere."""

    def pick(self, choices: Sequence[Undecided], generator: torch.Generator) -> Undecided:
        by_label = {choice.label: choice for choice in choices}
        return by_label[rows()[ORDER[len(ORDER) - len(choices)]]]


def rows() -> list[str]:
    return [f"cell/{source}->{node}" for node, source in (map(int, edge.split("<-")) for edge in EDGES)]


@pytest.mark.parametrize("criterion", ["accuracy", "loss"])
def test_what_each_removal_costs_and_what_is_kept_is_the_authors(
    shared_dir: Path, criterion: Literal["accuracy", "loss"]
) -> None:
    values = load_file(shared_dir / "golden" / "methods" / "dartspt_nb201_c4_n1.safetensors")
    golden = {key: value.double() if value.is_floating_point() else value for key, value in values.items()}
    supernet = supernet_of(golden, "alphas", Softmax())
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    batches = list(zip(golden["x_valid"], golden["y_valid"], strict=True))
    end = EpochEnd(
        supernet, ag.discretize(supernet), Progress(0, 1), F.cross_entropy, lambda: batches[0], lambda: iter(batches)
    )
    group = {"accuracy": "acc", "loss": "loss"}[criterion]
    selection = InOrder(tune_epochs=0, criterion=criterion)
    selection.settle(end, 0)
    assert [decision["choice"] for decision in supernet.settled] == [rows()[place] for place in ORDER]
    for s, decision in enumerate(supernet.settled):
        found = torch.tensor(list(decision[f"{criterion}_without"].values()), dtype=torch.float64)
        assert tuple(decision[f"{criterion}_without"]) == OPERATIONS
        if criterion == "accuracy":
            assert torch.equal((found * 64).round().long(), golden["acc/correct"][s].long())
        else:
            assert (found - golden["loss/valid_loss"][s]).abs().max() < 1e-10
        assert decision["kept"] == OPERATIONS[int(golden[f"{group}/selected_op"][s])]
    assert torch.equal(torch.tensor(list(supernet.probabilities().values())).double(), golden[f"{group}/final_weights"])
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())
    nodes = ag.discretize(supernet, scores=selection.scores(supernet)).choices["cell"]
    decided = {f"cell/{source}->{node}": name for node in ("1", "2", "3") for name, source in nodes[node]}
    assert decided == {decision["choice"]: decision["kept"] for decision in supernet.settled}


def test_a_mixture_without_a_candidate_is_not_renormalised(shared_dir: Path) -> None:
    golden = load_file(shared_dir / "golden" / "methods" / "dartspt_nb201_c4_n1.safetensors")
    weights, found = golden["acc/weights_first_mask"].double(), golden["acc/logits_first_mask"].double()
    golden = {key: value.double() if value.is_floating_point() else value for key, value in golden.items()}
    supernet = supernet_of(golden, "alphas", Softmax())
    row = ORDER[0]
    off = [k for k in range(5) if weights[row, k] == 0]
    with torch.no_grad(), supernet.without({rows()[row]: off}):
        logits = torch.cat([supernet(x) for x in golden["x_valid"]])
    assert off == [0]
    assert (logits - found).abs().max() < 1e-9
