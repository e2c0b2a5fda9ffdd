"""When a search is said to collapse."""

from __future__ import annotations

from torch import nn

import archgrad as ag
from archgrad.search.collapse import collapse_warning


def warning(space: nn.Module) -> str | None:
    """What is said where the candidate "none" has nearly all of the probability wherever there is one."""
    supernet = ag.Supernet(space)
    for label, alpha in supernet.alphas.items():
        names = supernet.rows[label].names
        alpha.data[names.index("none") if "none" in names else 0] = 9.0
    return collapse_warning(ag.discretize(supernet), supernet.probabilities(), supernet.rows)


def test_a_cell_whose_edges_are_none_collapses() -> None:
    space = ag.spaces.darts_cifar(channels=2, cells=3, nodes=2)
    told = warning(space)
    assert told is not None
    assert told.startswith("Warning: 'none' has more than half of the probability on 10 of 10 edges.")


def test_a_candidate_called_none_outside_cells_may_be_anything() -> None:
    space = nn.Sequential(
        nn.Linear(4, 4), ag.LayerChoice({"none": nn.Identity(), "dropout": nn.Dropout()}, label="extra")
    )
    assert warning(space) is None
