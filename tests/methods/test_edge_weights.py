"""Edge weights: what they multiply, what gradient they get, what they leave alone, and how they decide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch

import archgrad as ag
from archgrad.bilevel import FirstOrder, search_step
from archgrad.perturbations import Uniform
from archgrad.regularizers import BetaDecay
from archgrad.relaxation import Dirichlet, Relaxation, Sigmoid, Simplex, SoftGumbel, Softmax
from archgrad.schedules import Progress
from archgrad.testing import MixedSpace, Times


def cell(n_nodes: int = 1) -> ag.Cell:
    return ag.Cell(n_nodes, {"one": lambda s, n: Times(1.0), "three": lambda s, n: Times(3.0)}, label="c", n_kept=1)


def set_to(supernet: ag.Supernet, values: Mapping[str, list[float]]) -> None:
    with torch.no_grad():
        for label, row in values.items():
            supernet.alphas[label].copy_(torch.tensor(row, dtype=torch.float64))


def test_a_node_is_the_sum_of_its_edges_times_their_weights() -> None:
    # q = softmax(ln 3, 0) = (3/4, 1/4); both mixtures are (1 + 3)/2 = 2: y = 2 (3/4 + 1/4 5) = 4
    supernet = ag.Supernet(cell(), edge_weights=Softmax()).double()
    set_to(supernet, {"c/0->2": [0.0, 0.0], "c/1->2": [0.0, 0.0], "c/->2": [math.log(3.0), 0.0]})
    states = [torch.ones(1, 1, 1, 1).double(), 5.0 * torch.ones(1, 1, 1, 1).double()]
    y = supernet(states)
    assert y.item() == pytest.approx(4.0, rel=1e-15)
    # dy/db_0 = q0 (2 x0 - y) = 3/4 (2 - 4) = -1.5; dy/da of edge 1 = q1 p(1 - p) (3 - 1) x1 = 1/4 1/4 2 5 = 0.625
    gradients = torch.autograd.grad(y.sum(), [supernet.alphas["c/->2"], supernet.alphas["c/1->2"]])
    assert gradients[0].tolist() == pytest.approx([-1.5, 1.5], rel=1e-14)
    assert gradients[1].tolist() == pytest.approx([-0.625, 0.625], rel=1e-14)


def test_each_node_has_a_row_and_rows_of_operations_stay_as_they_were() -> None:
    plain, weighed = ag.Supernet(cell(2)), ag.Supernet(cell(2), edge_weights=Softmax())
    assert weighed.rows == plain.rows
    assert weighed.nodes == {"c/->2": ("c/0->2", "c/1->2"), "c/->3": ("c/0->3", "c/1->3", "c/2->3")}
    assert list(weighed.alphas) == [*plain.alphas, *weighed.nodes]
    assert all(torch.equal(weighed.alphas[label], alpha) for label, alpha in plain.alphas.items())
    assert weighed.open_rows()[0].keys() == weighed.probabilities().keys() == plain.rows.keys()


def test_an_edge_is_ranked_by_its_weight_times_its_best_operation() -> None:
    supernet = ag.Supernet(cell(), edge_weights=Softmax())
    set_to(supernet, {"c/0->2": [0.0, 2.0], "c/1->2": [1.0, 0.0], "c/->2": [0.0, 0.0]})
    assert ag.discretize(supernet).choices["c"]["2"] == (("three", 0),)
    set_to(supernet, {"c/->2": [0.0, 1.0]})
    architecture = ag.discretize(supernet)
    assert architecture.choices["c"]["2"] == (("one", 1),)
    assert architecture.provenance["edge_weights"]["c/->2"] == pytest.approx([0.26894, 0.73106], abs=1e-5)


def test_regularisers_leave_edge_weights_alone() -> None:
    supernet = ag.Supernet(MixedSpace(), edge_weights=Softmax()).double()
    before = {label: alpha.detach().clone() for label, alpha in supernet.alphas.items()}
    batch = (torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3)
    search_step(
        supernet,
        batch,
        batch,
        step=FirstOrder(),
        weights_optimizer=torch.optim.SGD(supernet.weights.values(), 0.0),
        alphas_optimizer=torch.optim.SGD(supernet.alphas.values(), 1.0),
        loss=lambda outputs, targets: 0.0 * outputs.sum(),
        regularizers=(BetaDecay(weight=1.0),),
    )
    moved = {label: alpha for label, alpha in supernet.alphas.items() if not torch.equal(alpha, before[label])}
    assert moved.keys() == supernet.rows.keys()


def test_perturbations_move_operations_alone_and_edge_weights_come_on_top() -> None:
    supernet = ag.Supernet(cell(), edge_weights=Softmax()).double()
    supernet.progress = Progress(0, 4)
    seen: list[dict[str, Any]] = []
    supernet.network.register_forward_pre_hook(
        lambda *_: seen.append({label: mixture.slots.detach() for label, mixture in supernet._table.current.items()})
    )
    x = torch.ones(1, 1, 1, 1).double()
    with supernet.perturbed(Uniform(radius=0.1), lambda weights: pytest.fail("not asked")):
        supernet([x, x])
    q = torch.softmax(supernet.alphas["c/->2"].detach(), 0)
    for k, label in enumerate(supernet.nodes["c/->2"]):
        assert float(seen[0][label].sum()) == pytest.approx(float(q[k]), rel=1e-12)


@pytest.mark.parametrize("relaxation", [Dirichlet(), SoftGumbel(), Sigmoid(), Simplex()])
def test_edges_may_have_any_relaxation_that_runs_them_all(relaxation: Relaxation) -> None:
    own = Simplex() if relaxation.domain == "simplex" else Softmax()
    supernet = ag.Supernet(cell(2), own, edge_weights=relaxation, seed=3).double()
    supernet.progress = Progress(1, 4)
    x = torch.ones(2, 1, 1, 1).double()
    with supernet.same_draw():
        assert torch.equal(supernet([x, 5.0 * x]), supernet([x, 5.0 * x]))
    y = supernet([x, 5.0 * x])
    gradients = torch.autograd.grad(y.sum(), [supernet.alphas[node] for node in supernet.nodes])
    assert all(bool((g.isfinite() & (g != 0)).all()) for g in gradients)
    assert ag.discretize(supernet).choices["c"]
