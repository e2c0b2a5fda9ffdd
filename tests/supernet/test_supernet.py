"""Laws of a supernet: a copy of the space, weights and alphas apart, the same in every process."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.cell import Cell
from archgrad.errors import SpaceError
from archgrad.relaxation import Gumbel
from toys import Learnt, TabularSpace, Times, in_fresh_process, relaxed, vector


class Tied(nn.Module):
    """One weight in two places, one frozen weight, one buffer, and a choice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(3, 3)
        self.frozen.requires_grad_(False)
        self.norm = nn.BatchNorm1d(3, affine=False)
        self.choice = ag.LayerChoice([nn.Identity(), nn.Tanh()], label="choice")

    def forward(self, x: Tensor) -> Tensor:
        return self.choice(self.norm(self.frozen(self.second(self.first(x)))))


def table(rows: int = 4) -> Tensor:
    return torch.randn(rows, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_users_module_stays_as_it_is() -> None:
    space = ag.spaces.darts_cifar(2, 3, nodes=2).train()
    before = copy.deepcopy(space.state_dict())
    formats = [p.is_contiguous() for p in space.parameters()]
    modules = list(space.modules())
    supernet = ag.Supernet(space)
    loss = supernet(torch.randn(2, 3, 8, 8)).square().sum()
    loss.backward()
    torch.optim.SGD(supernet.parameters(), 0.1).step()
    assert list(space.modules()) == modules
    assert [p.is_contiguous() for p in space.parameters()] == formats
    assert all(p.grad is None for p in space.parameters())
    after = space.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(cell.evaluator is None for cell in modules if isinstance(cell, Cell))
    with pytest.raises(SpaceError, match="open and cannot run"):
        space(torch.randn(2, 3, 8, 8))


def test_weights_and_alphas_are_disjoint_and_together_all_trainable_parameters() -> None:
    supernet = ag.Supernet(ag.spaces.darts_cifar(2, 3))
    weights = {id(p) for p in supernet.weights.values()}
    alphas = {id(p) for p in supernet.alphas.values()}
    assert weights.isdisjoint(alphas)
    assert weights | alphas == {id(p) for p in supernet.parameters()}
    assert len(alphas) == 28  # 14 edges of the normal cell and 14 of the reduction cell


def test_alphas_are_a_mapping_from_label_to_parameter() -> None:
    supernet = relaxed(TabularSpace())
    assert list(supernet.alphas) == ["first", "activation", "second", "join"]
    assert {label: tuple(row.shape) for label, row in supernet.alphas.items()} == {
        "first": (2,),
        "activation": (2,),
        "second": (2,),
        "join": (3,),
    }
    assert all(isinstance(row, nn.Parameter) and row.requires_grad for row in supernet.alphas.values())
    assert "first" in supernet.alphas
    assert supernet.alphas.get("nothing") is None
    with pytest.raises(KeyError):
        supernet.alphas["nothing"]
    assert supernet.rows["join"].n_chosen == 2


def test_weights_are_named_as_in_the_space() -> None:
    space = TabularSpace()
    assert list(ag.Supernet(space).weights) == [name for name, _ in space.named_parameters()]


def test_alphas_start_at_a_thousandth_of_a_standard_normal() -> None:
    candidates = [nn.Identity() for _ in range(4000)]
    alphas = ag.Supernet(ag.LayerChoice(candidates, label="c")).alphas["c"]
    # standard errors: 1e-3/sqrt(4000) = 1.6e-5 of the mean, 1e-3/sqrt(8000) = 1.1e-5 of the deviation
    assert abs(alphas.mean().item()) < 6e-5
    assert alphas.std().item() == pytest.approx(1e-3, abs=5e-5)
    assert (alphas.abs() > 1.96e-3).double().mean().item() == pytest.approx(0.05, abs=0.015)


def test_the_seed_decides_the_alphas_whatever_the_global_generator_does() -> None:
    space = TabularSpace()
    torch.manual_seed(1)
    first = ag.Supernet(space, seed=3)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second, other = ag.Supernet(space, seed=3), ag.Supernet(space, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    for label in first.alphas:
        assert torch.equal(first.alphas[label], second.alphas[label])
        assert not torch.equal(first.alphas[label], other.alphas[label])


def test_rows_start_different_from_each_other() -> None:
    alphas = ag.Supernet(ag.spaces.darts_cifar(2, 3)).alphas
    assert len({tuple(row.tolist()) for row in alphas.values()}) == 28


def everything_ordered() -> str:
    torch.manual_seed(0)
    supernet = ag.Supernet(ag.spaces.darts_cifar(2, 3), seed=7)
    alphas = [(label, row.tolist()) for label, row in supernet.alphas.items()]
    return str([*supernet.state_dict(), *supernet.weights, *alphas])


def test_order_and_start_are_the_same_in_a_process_with_another_hash_seed() -> None:
    code = "import test_supernet; print(test_supernet.everything_ordered())"
    assert in_fresh_process(code, hash_seed=1) == everything_ordered()


def test_the_state_dict_holds_weights_buffers_and_alphas_and_goes_round() -> None:
    space = Tied()
    supernet = relaxed(space, {"choice": [0.25, -0.5]})
    state = copy.deepcopy(supernet.state_dict())
    assert {"alphas.choice", "network.first.weight", "network.frozen.bias", "network.norm.running_mean"} <= set(state)
    other = relaxed(Tied(), seed=9)
    x = torch.randn(4, 3, dtype=torch.float64)
    assert not torch.equal(other.eval()(x), supernet.eval()(x))
    other.load_state_dict(state)
    assert other.alphas["choice"].tolist() == [0.25, -0.5]
    assert torch.equal(other(x), supernet(x))


@pytest.mark.parametrize("assign", [False, True])
def test_weights_and_alphas_are_the_loaded_ones(assign: bool) -> None:
    supernet = relaxed(TabularSpace())
    state = {name: torch.full_like(value, 0.125) for name, value in supernet.state_dict().items()}
    supernet.load_state_dict(state, assign=assign)
    assert all(bool((p == 0.125).all()) for p in [*supernet.weights.values(), *supernet.alphas.values()])
    gradients = torch.autograd.grad(supernet(table()).sum(), list(supernet.weights.values()), allow_unused=True)
    assert any(g is not None for g in gradients)


def test_a_state_dict_goes_through_a_file_without_unpickling_code(tmp_path: Path) -> None:
    supernet = relaxed(TabularSpace())
    torch.save(supernet.state_dict(), tmp_path / "state.pt")
    other = relaxed(TabularSpace(), seed=1)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other(table()), supernet(table()))


def test_a_weight_in_two_places_is_one_weight() -> None:
    supernet = relaxed(Tied())
    assert list(supernet.weights) == ["first.weight", "first.bias", "second.bias"]
    assert supernet.network.second.weight is supernet.network.first.weight


def test_frozen_parameters_are_no_weights() -> None:
    supernet = relaxed(Tied())
    assert not any(name.startswith("frozen") for name in supernet.weights)
    assert not supernet.network.frozen.weight.requires_grad


def test_a_parameter_that_is_frozen_later_is_no_weight_until_it_is_thawed() -> None:
    supernet = relaxed(Tied())
    supernet.network.first.requires_grad_(False)
    assert list(supernet.weights) == ["second.bias"]
    supernet.network.requires_grad_(True)
    assert "first.weight" in supernet.weights
    assert "frozen.weight" in supernet.weights


def test_a_copy_computes_the_same_and_shares_nothing() -> None:
    supernet = relaxed(TabularSpace(), relaxation=Gumbel())
    twin = copy.deepcopy(supernet)
    for _ in range(3):  # the copy draws what the original draws
        assert torch.equal(twin(table()), supernet(table()))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert not any(torch.equal(supernet.alphas[label], twin.alphas[label]) for label in supernet.alphas)
    assert not any(torch.equal(supernet.weights[name], twin.weights[name]) for name in supernet.weights)
    assert {id(p) for p in twin.weights.values()} == {id(p) for p in twin.network.parameters()}


def test_a_copy_of_the_cell_space_computes_the_same() -> None:
    supernet = relaxed(ag.spaces.nasbench201(4, 1))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(copy.deepcopy(supernet)(x), supernet(x))


def test_two_supernets_of_one_space_share_nothing() -> None:
    space = TabularSpace()
    first, second = relaxed(space), relaxed(space)
    assert {id(p) for p in first.parameters()}.isdisjoint(id(p) for p in second.parameters())
    first(table())
    with pytest.raises(SpaceError, match="outside"):
        second.network(table())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_alphas_have_the_dtype_of_the_space(dtype: torch.dtype) -> None:
    supernet = ag.Supernet(TabularSpace().to(dtype))
    assert {row.dtype for row in supernet.alphas.values()} == {dtype}
    assert supernet(table().to(dtype)).dtype == dtype


def test_alphas_follow_the_supernet_to_another_dtype() -> None:
    supernet = ag.Supernet(TabularSpace()).double()
    assert {row.dtype for row in supernet.alphas.values()} == {torch.float64}
    assert supernet(table()).dtype == torch.float64


def test_a_space_without_parameters_has_float32_alphas() -> None:
    assert ag.Supernet(ag.LayerChoice([nn.ReLU(), nn.Tanh()])).alphas["root"].dtype == torch.float32


def test_probabilities_are_those_of_the_alphas_by_label() -> None:
    supernet = relaxed(TabularSpace(), {"first": [0.0, 0.0], "join": [50.0, 50.0, 0.0]})
    probabilities = supernet.probabilities()
    assert list(probabilities) == list(supernet.alphas)
    assert probabilities["first"] == [0.5, 0.5]
    assert probabilities["join"] == pytest.approx([1.0, 1.0, 0.0], abs=1e-12)


def test_same_draw_nests_and_ends_with_the_outermost() -> None:
    choice = ag.LayerChoice([Times(float(f)) for f in range(64)], label="c")
    supernet = relaxed(choice, relaxation=Gumbel())
    with supernet.same_draw():
        outer = supernet(vector(1.0))
        with supernet.same_draw():
            assert torch.equal(supernet(vector(1.0)), outer)
        assert torch.equal(supernet(vector(1.0)), outer)
    assert len({supernet(vector(1.0)).item() for _ in range(8)}) > 1


def test_same_draw_ends_after_an_error() -> None:
    choice = ag.LayerChoice([Times(float(f)) for f in range(64)], label="c")
    supernet = relaxed(choice, relaxation=Gumbel())
    with pytest.raises(RuntimeError, match="stop"), supernet.same_draw():
        raise RuntimeError("stop")
    assert len({supernet(vector(1.0)).item() for _ in range(8)}) > 1


def test_an_error_in_a_pass_leaves_the_supernet_usable() -> None:
    supernet = relaxed(TabularSpace())
    with pytest.raises(RuntimeError):
        supernet(torch.randn(2, 5, dtype=torch.float64))
    assert supernet(table()).shape == (4, 3)


def test_all_choices_with_one_label_see_one_draw() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = ag.LayerChoice([Times(float(f)) for f in range(64)], label="c")
            self.b = ag.LayerChoice([Times(float(f)) for f in range(64)], label="c")

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) - self.b(x)

    supernet = relaxed(Shared(), relaxation=Gumbel())
    assert all(supernet(vector(1.0)).item() == 0.0 for _ in range(5))


def test_a_supernet_passes_all_arguments_on() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.choice = ag.LayerChoice([Learnt(1.0)], label="c")

        def forward(self, x: Tensor, y: Tensor, *, sign: float) -> Tensor:
            return self.choice(x) + sign * y

    assert relaxed(Sum())(vector(3.0), vector(2.0), sign=-1.0) == vector(1.0)


def test_a_space_without_choices_is_an_error_with_a_remedy() -> None:
    with pytest.raises(SpaceError, match=r"Linear has no open choice to search\. Put a LayerChoice"):
        ag.Supernet(nn.Linear(2, 2))
    with pytest.raises(SpaceError, match=r"no open choice to search\. Build it with stage='search'"):
        ag.Supernet(ag.spaces.darts_cifar(4, 3, stage="retrain"))


@pytest.mark.parametrize("build", [lambda: ag.spaces.darts_cifar(2, 3), lambda: ag.spaces.nasbench201(4, 1)])
def test_the_fast_way_computes_the_same_numbers(build: object) -> None:
    space = build()  # type: ignore[operator]
    fast, plain = (ag.Supernet(space, fast=choice).double().train() for choice in (True, False))
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, theirs = fast(x), plain(x)
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)
    gradients = [
        torch.autograd.grad(y.square().sum(), [*s.alphas.values()]) for y, s in ((ours, fast), (theirs, plain))
    ]
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)
    states = [{k: v for k, v in s.state_dict().items() if "running" in k or "tracked" in k} for s in (fast, plain)]
    assert all(torch.allclose(value, states[1][name], rtol=1e-9) for name, value in states[0].items())


class Standardised(nn.Conv2d):
    """A user's own convolution, which takes its weight for contiguous as built."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.view(self.out_channels, -1)
        return nn.functional.conv2d(x, (flat - flat.mean(1, keepdim=True)).view_as(self.weight), self.bias)


def test_the_fast_way_leaves_the_memory_of_users_own_layers_as_it_is() -> None:
    space = nn.Sequential(nn.Conv2d(3, 4, 3), ag.LayerChoice([Standardised(4, 4, 3), nn.Conv2d(4, 4, 3)], label="c"))
    supernet = ag.Supernet(space)
    assert supernet(torch.randn(2, 3, 8, 8)).shape == (2, 4, 4, 4)
    assert supernet.network[1]["0"].weight.is_contiguous()
