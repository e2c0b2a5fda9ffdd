"""Laws of `derive`: a plain network of the chosen parts only, from any space."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from derived_networks import images, open_choices, parameters_without_gradient, random_cells
from torch import Tensor, nn

import archgrad as ag
from archgrad.errors import ArchitectureError, SpaceError
from toys import Learnt, TabularSpace, Times, relaxed, same_state, vector


class Nested(nn.Module):
    """Choices in candidates, shared labels, and one instance in two places."""

    def __init__(self) -> None:
        super().__init__()

        def block() -> ag.LayerChoice:
            inner = ag.LayerChoice({"linear": nn.Linear(4, 4), "tanh": nn.Tanh()}, label="inner")
            return ag.LayerChoice({"deep": nn.Sequential(nn.Linear(4, 4), inner), "skip": nn.Identity()}, label="outer")

        self.blocks = nn.ModuleList(block() for _ in range(3))
        self.last = self.blocks[0]
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(self.last(x))


SPACES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "darts_cifar": (lambda: ag.spaces.darts_cifar(2, 3, nodes=3), images),
    "darts_imagenet": (lambda: ag.spaces.darts_imagenet(4, 3, 5, stage="search", nodes=2), lambda: images(32)),
    "nasbench201": (lambda: ag.spaces.nasbench201(4, 1), images),
    "nasbench201, retrain": (lambda: ag.spaces.nasbench201(4, 1, stage="retrain"), images),
    "tiny": (lambda: ag.spaces.tiny(4), lambda: images(channels=1)),
    "tabular": (TabularSpace, lambda: torch.randn(5, 4)),
    "nested": (Nested, lambda: torch.randn(5, 4)),
}


@pytest.mark.parametrize("name", SPACES)
def test_random_architectures_leave_no_choice_and_no_parameter_without_gradient(name: str) -> None:
    build, batch = SPACES[name]
    space = build()
    for seed in range(3):
        architecture = ag.random_architecture(space, seed=seed)
        network = ag.derive(space, architecture)
        assert open_choices(network) == []
        assert parameters_without_gradient(network, batch()) == []


@pytest.mark.parametrize("space", [ag.spaces.darts_cifar, ag.spaces.darts_imagenet])
@pytest.mark.parametrize("auxiliary", [False, True])
def test_templates_keep_nothing_unused_for_cells_of_any_form(space: Callable[..., nn.Module], auxiliary: bool) -> None:
    template = space(4, 6, 5, auxiliary=auxiliary, stage="retrain")
    for seed in range(6):
        network = ag.derive(template, random_cells(seed))
        assert open_choices(network) == []
        assert parameters_without_gradient(network, images(32, batch=3)) == []


def test_cells_whose_output_nothing_uses_are_left_out() -> None:
    # every cell reads the one before the previous: of cells 0 to 5, cells 1, 3 and 5 are a chain to the stem
    only_prev_prev = ag.Architecture({label: {"2": [["sep_conv_3x3", 0]]} for label in ("normal", "reduce")})
    network = ag.derive(ag.spaces.darts_cifar(4, 6, stage="retrain"), only_prev_prev)
    assert [cell is not None for cell in network.cells] == [False, True, False, True, False, True]
    assert parameters_without_gradient(network, images()) == []
    with_head = ag.derive(ag.spaces.darts_cifar(4, 6, auxiliary=True, stage="retrain"), only_prev_prev)
    assert [cell is not None for cell in with_head.cells] == [True, True, True, True, True, True]
    assert parameters_without_gradient(with_head, images(32)) == []


def test_the_space_stays_as_it_is() -> None:
    space = TabularSpace()
    before = copy.deepcopy(space.state_dict())
    modules = list(space.modules())
    network = ag.derive(space, ag.random_architecture(space, seed=0))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert list(space.modules()) == modules
    assert same_state(space, before)


def test_a_space_gives_any_number_of_independent_networks() -> None:
    space = TabularSpace()
    first, second = (ag.derive(space, ag.random_architecture(space, seed=s)) for s in (0, 0))
    assert {id(p) for p in first.parameters()}.isdisjoint(id(p) for p in second.parameters())


def test_fresh_weights_of_a_space_are_those_that_it_was_built_with() -> None:
    space = ag.LayerChoice([Learnt(3.0), Learnt(5.0)], label="c")
    assert ag.derive(space, ag.Architecture({"c": "1"}))(vector(2.0)) == vector(10.0)


def test_a_space_of_users_modules_derives_to_users_modules() -> None:
    space = Nested()
    network = ag.derive(space, ag.Architecture({"outer": "deep", "inner": "linear"}))
    assert type(network) is Nested
    others = {type(module).__module__ for module in network.modules() if module is not network}
    assert all(name.startswith("torch.nn") for name in others)


@pytest.mark.parametrize("name", SPACES)
def test_derived_networks_need_no_supernet_relaxation_or_fast_path(name: str) -> None:
    build, batch = SPACES[name]
    supernet = ag.Supernet(build())
    supernet.eval()
    for network in (
        ag.derive(build(), ag.discretize(supernet)),
        ag.derive(supernet, ag.discretize(supernet), keep_weights=True),
    ):
        needed = {type(module).__module__ for module in network.modules()}
        rooms = {name.split(".")[1] for name in needed if name.startswith("archgrad.")}
        assert rooms <= {"choices", "derived_cell", "operations", "spaces", "testing"}
        assert not any("_table" in vars(module) for module in network.modules())
        assert all(vars(module).get("evaluator") is None for module in network.modules())
        network.eval()(batch())


def test_a_label_that_the_space_does_not_have_is_named_with_those_that_it_has() -> None:
    with pytest.raises(ArchitectureError, match=r"unknown label 'konv'\. The labels of this space are 'first', "):
        ag.derive(TabularSpace(), ag.Architecture({"konv": "dense"}))


def test_a_missing_label_is_named_with_those_that_are_decided() -> None:
    with pytest.raises(ArchitectureError, match=r"no decision for 'first'\. It decides 'second'"):
        ag.derive(TabularSpace(), ag.Architecture({"second": "0"}))


def test_a_missing_label_of_a_nested_choice_matters_only_where_it_is_taken() -> None:
    decided = {"first": "skip", "second": "0", "join": [0, 1]}
    ag.derive(TabularSpace(), ag.Architecture(decided))
    with pytest.raises(ArchitectureError, match="no decision for 'activation'"):
        ag.derive(TabularSpace(), ag.Architecture({**decided, "first": "dense"}))


def test_decisions_of_nested_choices_that_are_not_taken_are_allowed() -> None:
    decided = {"first": "skip", "activation": "tanh", "second": "0", "join": [0, 1]}
    assert open_choices(ag.derive(TabularSpace(), ag.Architecture(decided))) == []


@pytest.mark.parametrize(
    ("label", "decision", "message"),
    [
        ("first", "conv", "'first' has no candidate 'conv'. Its candidates are dense, skip"),
        ("first", [0], r"'first' has no candidate \(0,\)"),
        ("join", "dense", "'join' takes 2 of inputs 0 to 2"),
        ("join", [0, 7], "'join' takes 2 of inputs 0 to 2"),
    ],
)
def test_a_decision_that_does_not_fit_names_the_choice(label: str, decision: object, message: str) -> None:
    decided = {"first": "skip", "second": "0", "join": [0, 1], label: decision}
    with pytest.raises(ArchitectureError, match=message):
        ag.derive(TabularSpace(), ag.Architecture(decided))


def test_an_architecture_of_another_space_is_an_error() -> None:
    with pytest.raises(ArchitectureError, match="unknown label 'normal'"):
        ag.derive(ag.spaces.nasbench201(4, 1), ag.architectures.DARTS_V2)
    with pytest.raises(
        ArchitectureError, match="needs the cells 'normal' and 'reduce', but the architecture has 'cell'"
    ):
        ag.derive(
            ag.spaces.darts_cifar(4, 3, stage="retrain"), ag.random_architecture(ag.spaces.nasbench201(4, 1), seed=0)
        )


def test_a_network_without_choices_is_derived_from_an_empty_architecture() -> None:
    assert isinstance(ag.derive(nn.Linear(2, 2), ag.Architecture({})), nn.Linear)
    with pytest.raises(ArchitectureError, match="The labels of this space are none"):
        ag.derive(nn.Linear(2, 2), ag.Architecture({"a": "b"}))


def test_after_derive_is_called_on_what_is_left() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.choice: nn.Module = ag.LayerChoice([Times(2.0)], label="c")
            self.found: list[type] = []

        def after_derive(self) -> None:
            self.found.append(type(self.choice))

    space = Counts()
    network = ag.derive(space, ag.Architecture({"c": "0"}))
    assert network.found == [Times]
    assert space.found == []


def test_the_training_mode_is_that_of_the_space() -> None:
    space = TabularSpace().eval()
    assert not ag.derive(space, ag.random_architecture(space, seed=0)).training
    assert ag.derive(space.train(), ag.random_architecture(space, seed=0)).training


def test_random_architectures_are_seeded_cover_the_space_and_leave_global_randomness() -> None:
    space = TabularSpace()
    before = torch.get_rng_state()
    drawn = [ag.random_architecture(space, seed=seed) for seed in range(40)]
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn[3] == ag.random_architecture(space, seed=3)
    assert {a.choices["first"] for a in drawn} == {"dense", "skip"}
    assert {a.choices["join"] for a in drawn} == {(0, 1), (0, 2), (1, 2)}
    assert drawn[3].provenance["seed"] == 3


def test_the_evidence_of_an_architecture_is_the_alphas_and_their_probabilities() -> None:
    supernet = relaxed(TabularSpace(), {"first": [1.0, 1.0], "join": [0.0, 0.0, 0.0]})
    architecture = ag.discretize(supernet, space="tabular", provenance={"epoch": 4})
    assert architecture.space == "tabular"
    assert architecture.provenance["epoch"] == 4
    assert architecture.provenance["alphas"]["first"] == {"dense": 1.0, "skip": 1.0}
    assert architecture.provenance["probabilities"]["first"] == {"dense": 0.5, "skip": 0.5}
    assert architecture.provenance["probabilities"]["join"] == pytest.approx((2 / 3,) * 3)
    assert set(architecture.provenance["alphas"]) == set(supernet.alphas)
    assert ag.Architecture.from_json(architecture.to_json()) == architecture


def test_a_supernet_given_twice_or_without_its_weights_is_an_error() -> None:
    supernet = ag.Supernet(TabularSpace())
    architecture = ag.discretize(supernet)
    with pytest.raises(SpaceError, match="given two supernets"):
        ag.derive(supernet, architecture, keep_weights=True, supernet=supernet)
    with pytest.raises(SpaceError, match="a supernet but not keep_weights=True"):
        ag.derive(TabularSpace(), architecture, supernet=supernet)
    with pytest.raises(SpaceError, match=r"keep_weights=True needs a supernet.*supernet="):
        ag.derive(TabularSpace(), architecture, keep_weights=True)


class _NeverCopied(nn.Identity):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise AssertionError("a candidate that is not taken was copied")


def test_candidates_that_are_not_taken_are_not_copied_and_what_the_space_holds_stays() -> None:
    shared = nn.ReLU(inplace=True)
    space = nn.Sequential(
        ag.LayerChoice({"never": _NeverCopied(), "shared": shared}, label="a"),
        ag.LayerChoice({"shared": nn.Sequential(shared), "linear": nn.Linear(2, 2)}, label="b"),
    )
    network = ag.derive(space, {"a": "shared", "b": "linear"})
    assert type(network[0]) is nn.ReLU
    assert network[0] is not shared
    assert network[1] is not space[1]["linear"]
    assert (shared.inplace, network[0].inplace) == (True, False)
