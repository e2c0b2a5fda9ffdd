"""The recurrent space against closed forms written out by hand, and its parameters against the paper's 23 million."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.architectures import DARTS_RNN
from archgrad.errors import ArchitectureError, OptionError, SpaceError
from archgrad.relaxation import Gumbel
from archgrad.spaces import darts_rnn
from archgrad.spaces.recurrent_cell import RecurrentCell

TWO = {"recurrent": {"1": [["tanh", 0]], "2": [["relu", 1]]}}


def numbered(module: nn.Module) -> nn.Module:
    """Give all weights values that are told by their places."""
    for number, weight in enumerate(module.parameters()):
        with torch.no_grad():
            weight.copy_(
                torch.linspace(-0.8, 0.9, weight.numel(), dtype=weight.dtype).reshape(weight.shape) + number / 7
            )
    return module.double()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def weights_of(module: nn.Module) -> dict[str, list[list[float]]]:
    return {name.split(".")[-2]: w.tolist() for name, w in module.named_parameters() if "state_weights" in name}


def test_two_steps_of_a_derived_cell_as_written_by_hand() -> None:
    """Hidden size 1, two nodes: tanh of s_0, and ReLU of node 1; the second step begins with the first one's mean."""
    cell = RecurrentCell(2, 1, normalise=False, label="recurrent")
    derived = numbered(ag.derive(cell, ag.Architecture(TWO)))
    w0, w1, w2 = (weights_of(derived)[state] for state in ("0", "1", "2"))
    h, outputs = 0.0, []
    for x in (0.7, -1.2):
        c0 = sigmoid(w0[0][0] * x + w0[0][1] * h)
        s0 = h + c0 * (math.tanh(w0[1][0] * x + w0[1][1] * h) - h)
        s1 = s0 + sigmoid(w1[0][0] * s0) * (math.tanh(w1[1][0] * s0) - s0)
        s2 = s1 + sigmoid(w2[0][0] * s1) * (max(w2[1][0] * s1, 0.0) - s1)
        h = (s1 + s2) / 2
        outputs.append(h)
    found = derived([torch.tensor([[[0.7], [-1.2]]], dtype=torch.float64)])
    assert found.flatten().tolist() == pytest.approx(outputs, abs=1e-12)


@pytest.mark.parametrize("fast", [True, False])
def test_a_step_of_the_relaxed_cell_as_written_by_hand(fast: bool) -> None:
    """Every edge is mixed by the softmax over its five candidates, of which "none" adds nothing and keeps its share."""
    supernet = ag.Supernet(RecurrentCell(2, 1, normalise=False, label="recurrent"), fast=fast)
    numbered(supernet.network)
    supernet.alphas.double()
    rows = {"0->1": [0.3, -0.2, 0.5, 0.1, -0.4], "0->2": [1.0, 0.2, -0.3, 0.4, 0.0], "1->2": [-1.0, 0.6, 0.2, 0.0, 0.9]}
    with torch.no_grad():
        for edge, row in rows.items():
            supernet.alphas[f"recurrent/{edge}"].copy_(torch.tensor(row, dtype=torch.float64))
    shares = {edge: [math.exp(a) / sum(map(math.exp, row)) for a in row] for edge, row in rows.items()}
    w0, w1, w2 = (weights_of(supernet.network)[state] for state in ("0", "1", "2"))

    def edge(name: str, s: float, w: list[list[float]]) -> float:
        c, h = sigmoid(w[0][0] * s), w[1][0] * s
        values = (math.tanh(h), max(h, 0.0), sigmoid(h), h)
        return sum(p * (s + c * (value - s)) for p, value in zip(shares[name][1:], values, strict=True))

    x = 0.7
    s0 = sigmoid(w0[0][0] * x) * math.tanh(w0[1][0] * x)
    s1 = edge("0->1", s0, w1)
    s2 = edge("0->2", s0, w2) + edge("1->2", s1, w2)
    found = supernet([torch.tensor([[[x]]], dtype=torch.float64)])
    assert found.item() == pytest.approx((s1 + s2) / 2, abs=1e-12)


def test_in_the_search_every_state_is_normalised_and_in_the_retraining_none() -> None:
    """A batch of two, one step: BatchNorm without affine part makes (a, b) into (+-1, -+1) up to its epsilon."""
    search, retrain = (darts_rnn(3, hidden_size=4, nodes=2, stage=stage) for stage in ("search", "retrain"))
    norms = [module for module in search.modules() if isinstance(module, nn.BatchNorm1d)]
    assert len(norms) == 3
    assert not any(list(norm.parameters()) for norm in norms)
    assert not any(isinstance(module, nn.BatchNorm1d) for module in retrain.modules())
    states: list[Tensor] = []
    for norm in norms:
        norm.register_forward_hook(lambda _module, _inputs, output: states.append(output))
    ag.Supernet(search, seed=1).train()(torch.tensor([[0], [1]]))
    assert len(states) == 3
    assert all(torch.allclose(state.mean(0), torch.zeros(4), atol=1e-5) for state in states)


def gradients(supernet: ag.Supernet, tokens: Tensor) -> list[Tensor]:
    values = [*supernet.weights.values(), *supernet.alphas.values()]
    loss = supernet(tokens).square().mean()
    return [loss, *torch.autograd.grad(loss, values)]


def test_the_fast_way_gives_the_same_loss_and_gradients() -> None:
    space = darts_rnn(5, hidden_size=6, nodes=3).double()
    tokens = torch.arange(20).reshape(4, 5) % 5
    fast, plain = (gradients(ag.Supernet(space, seed=2, fast=way), tokens) for way in (True, False))
    for one, other in zip(fast, plain, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_a_supernet_of_one_candidate_an_edge_is_the_derived_network() -> None:
    """Edges that are not kept take "none"; with the weights kept, BatchNorm of the search included."""
    space = darts_rnn(5, hidden_size=4, nodes=2).double()
    supernet = ag.Supernet(space, seed=0)
    taken = {"recurrent/0->1": 1, "recurrent/0->2": 0, "recurrent/1->2": 2}  # none, tanh, relu, ...
    with torch.no_grad():
        for label, place in taken.items():
            supernet.alphas[label].fill_(-1e4)[place] = 1e4
    tokens = torch.arange(12).reshape(3, 4) % 5
    derived = ag.derive(supernet, ag.Architecture(TWO), keep_weights=True)
    assert torch.allclose(supernet.train()(tokens), derived.train()(tokens), atol=1e-12)


def test_a_node_keeps_the_edge_of_the_likeliest_activation_and_never_none() -> None:
    cell = RecurrentCell(2, 1, normalise=False, label="r")
    rows = {"r/0->1": [0.9, 0.02, 0.03, 0.04, 0.01], "r/0->2": [0.1, 0.3, 0.3, 0.2, 0.1]}
    rows["r/1->2"] = [0.6, 0.05, 0.31, 0.02, 0.02]
    assert cell.decide("r", rows) == {"1": [["sigmoid", 0]], "2": [["relu", 1]]}


def parameters(words: int, hidden_size: int) -> int:
    embedding, first, node = words * hidden_size + words, (2 * hidden_size) ** 2, hidden_size * 2 * hidden_size
    return embedding + first + 8 * node


def test_the_published_cell_has_the_papers_23_million_parameters_on_penn_treebank() -> None:
    network = ag.derive(darts_rnn(100, hidden_size=17, stage="retrain"), DARTS_RNN)
    assert sum(weight.numel() for weight in network.parameters()) == parameters(100, 17)
    assert parameters(10_000, 850) == 22_960_000


def test_classes_that_are_no_tokens_have_weights_of_their_own() -> None:
    tied, apart = darts_rnn(7, hidden_size=4), darts_rnn(3, vocabulary=7, hidden_size=4)
    assert tied.embedding.weight is tied.decoder.weight
    assert apart.decoder.weight.shape == (3, 4)
    assert ag.Supernet(apart)(torch.tensor([[6, 0], [1, 2]])).shape == (2, 3, 2)


def test_a_dropout_has_one_mask_for_all_steps_and_none_in_evaluation() -> None:
    torch.manual_seed(0)
    dropout = darts_rnn(3, hidden_size=64, dropout=0.5).dropout
    x = torch.ones(2, 5, 64)
    dropped = dropout(x)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropped, dropped[:, :1].expand_as(x))
    assert torch.equal(dropout.eval()(x), x)
    space = darts_rnn(3, hidden_size=8, nodes=1, dropout_hidden=0.9, dropout_embedded=0.5, dropout_input=0.5)
    supernet, tokens = ag.Supernet(space), torch.tensor([[0, 1, 2], [2, 1, 0]])
    assert not torch.equal(supernet(tokens), supernet(tokens))
    supernet.eval()
    assert torch.equal(supernet(tokens), supernet(tokens))


@pytest.mark.parametrize(
    "method", ["darts", "darts-exact", "gdas", "drnas", "darts-minus", "sdarts-adv", "noisy-darts"]
)
def test_methods_search_it(method: str) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(4, (24, 5))
    data = (tokens[:, :-1], tokens[:, 1:])
    space = darts_rnn(4, hidden_size=3, nodes=2)
    result = ag.search(space, data, method=method, task="sequence", epochs=1, batch_size=8, quiet=True, device="cpu")
    decided = result.architecture.choices["recurrent"]
    assert all(name != "none" for edges in decided.values() for name, _ in edges)
    network = ag.derive(darts_rnn(4, hidden_size=3, nodes=2, stage="retrain"), result)
    assert network(tokens[:, :-1]).shape == (24, 4, 4)


def test_one_drawn_candidate_an_edge_is_computed_alone() -> None:
    supernet = ag.Supernet(darts_rnn(4, hidden_size=3, nodes=2), relaxation=Gumbel(1.0, 1.0), seed=0)
    assert torch.isfinite(supernet(torch.tensor([[0, 1], [2, 3]]))).all()


@pytest.mark.parametrize(
    "options", [{"num_classes": 0}, {"hidden_size": 0}, {"nodes": 0}, {"vocabulary": 0}, {"stage": "test"}]
)
def test_a_value_outside_its_range_is_refused(options: dict) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        darts_rnn(**options)


@pytest.mark.parametrize("name", ["dropout", "dropout_embedded", "dropout_input", "dropout_hidden"])
@pytest.mark.parametrize("share", [1.0, -0.1, True, math.nan])
def test_a_dropout_outside_its_range_is_refused(name: str, share: float) -> None:
    with pytest.raises(OptionError, match=name):
        darts_rnn(**{name: share})


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="has nodes 1, 2, 3, but the architecture has 1, 2"):
        ag.derive(darts_rnn(4, hidden_size=2, nodes=3, stage="retrain"), ag.Architecture(TWO))
    with pytest.raises(SpaceError, match="'darts-rnn' is for sequences of whole numbers"):
        ag.search("darts-rnn", "digits", epochs=1, quiet=True)
