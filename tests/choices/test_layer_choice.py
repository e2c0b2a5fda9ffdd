"""Laws of a layer choice: what it returns relaxed, what it decides, and which candidates it takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.choices import Choice
from archgrad.errors import ArchitectureError, SpaceError
from toys import Learnt, Times, relaxed, softmax, vector


def test_the_output_is_the_softmax_average_of_the_candidates() -> None:
    # p = softmax(0, log 3) = (1/4, 3/4); p1 * 2x + p2 * 10x = 8x
    choice = ag.LayerChoice({"double": Times(2.0), "ten": Times(10.0)}, label="c")
    supernet = relaxed(choice, {"c": [0.0, float(torch.log(torch.tensor(3.0, dtype=torch.float64)))]})
    x = vector(1.0, -2.0)
    assert torch.allclose(supernet(x), 8.0 * x, rtol=1e-14)


def test_the_gradient_of_the_alphas_is_that_of_the_softmax() -> None:
    # y = sum_k p_k f_k; dy/da_j = p_j (f_j - y)
    alphas = [0.3, -0.7, 1.1]
    factors = [2.0, 3.0, 5.0]
    supernet = relaxed(ag.LayerChoice([Times(f) for f in factors], label="c"), {"c": alphas})
    supernet(torch.ones((), dtype=torch.float64)).backward()
    p = softmax(alphas)
    y = sum(pk * fk for pk, fk in zip(p, factors, strict=True))
    expected = vector(*(pk * (fk - y) for pk, fk in zip(p, factors, strict=True)))
    assert torch.allclose(supernet.alphas["c"].grad, expected, rtol=1e-13)


def test_a_list_names_its_candidates_by_number() -> None:
    choice = ag.LayerChoice([nn.Identity(), Times(2.0)])
    assert choice.names == ("0", "1")
    assert isinstance(choice["1"], Times)


def test_a_dict_keeps_its_order() -> None:
    assert ag.LayerChoice({"z": nn.Identity(), "a": nn.Identity(), "m": nn.Identity()}).names == ("z", "a", "m")


def test_module_containers_are_taken_as_dict_and_list() -> None:
    choice = ag.LayerChoice(nn.ModuleDict({"b": nn.Tanh(), "a": nn.ReLU()}))
    assert choice.names == ("b", "a")
    assert isinstance(choice["a"], nn.ReLU)
    assert ag.LayerChoice(nn.ModuleList([nn.Tanh(), nn.ReLU()])).names == ("0", "1")


@pytest.mark.parametrize("name", ["pop", "keys", "forward", "a.b", "training", "a/b", " ", "0", "self", "α"])
def test_any_name_serves_as_a_candidate(name: str) -> None:
    supernet = relaxed(ag.LayerChoice({name: Times(2.0), "other": Times(3.0)}, label="c"), {"c": [5.0, 0.0]})
    architecture = ag.Architecture.from_json(ag.discretize(supernet).to_json())
    assert architecture.choices["c"] == name
    assert architecture.provenance["alphas"]["c"] == {name: 5.0, "other": 0.0}
    assert ag.derive(supernet, architecture)(vector(1.0)) == vector(2.0)


def test_a_candidate_needs_a_name() -> None:
    with pytest.raises(SpaceError, match="non-empty names"):
        ag.LayerChoice({"": nn.Identity(), "a": nn.Identity()}, label="c")


@pytest.mark.parametrize("candidates", [{}, []])
def test_a_choice_needs_a_candidate(candidates: object) -> None:
    with pytest.raises(SpaceError, match=r"LayerChoice\(label='c'\) needs at least one candidate"):
        ag.LayerChoice(candidates, label="c")  # type: ignore[arg-type]


def test_a_candidate_must_be_a_module() -> None:
    with pytest.raises(SpaceError, match=r"LayerChoice\(label='c'\).*'relu': a class. Give ReLU\(\.\.\.\)"):
        ag.LayerChoice({"relu": nn.ReLU}, label="c")  # type: ignore[dict-item]


@pytest.mark.parametrize("label", ["", 3])
def test_a_label_is_a_non_empty_string(label: object) -> None:
    with pytest.raises(SpaceError, match="non-empty string"):
        ag.LayerChoice([nn.Identity()], label=label)  # type: ignore[arg-type]


def test_an_unknown_candidate_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="b"):
        ag.LayerChoice({"a": nn.Identity()})["b"]


def test_a_single_candidate_runs_as_it_is() -> None:
    supernet = relaxed(ag.LayerChoice([Times(2.0)], label="c"), {"c": [-7.0]})
    assert torch.equal(supernet(vector(3.0)), vector(6.0))


def test_equal_probabilities_decide_for_the_first_candidate() -> None:
    supernet = relaxed(ag.LayerChoice({"b": Times(1.0), "a": Times(2.0)}, label="c"), {"c": [0.5, 0.5]})
    assert ag.discretize(supernet).choices["c"] == "b"


def test_a_decision_for_an_unknown_candidate_names_those_that_there_are() -> None:
    with pytest.raises(ArchitectureError, match=r"'c' has no candidate 'conv7'.*conv3, conv5"):
        ag.LayerChoice({"conv3": nn.Identity(), "conv5": nn.Identity()}).fix("c", "conv7")


def test_an_open_choice_that_is_called_says_what_to_do() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = ag.LayerChoice({"a": nn.Identity()}, label="conv")

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    with pytest.raises(SpaceError, match=r"Choice 'conv' is open .*archgrad\.Supernet\(space\).*archgrad\.derive"):
        Net()(vector(1.0))
    with pytest.raises(SpaceError, match="a choice is open"):
        ag.LayerChoice({"a": nn.Identity()})(vector(1.0))


def test_a_part_of_a_supernet_that_is_called_alone_says_what_to_do() -> None:
    supernet = relaxed(nn.Sequential(ag.LayerChoice({"a": Times(1.0)}, label="conv")))
    supernet(vector(1.0))
    with pytest.raises(SpaceError, match=r"'conv' was called outside its supernet's forward pass. Call the supernet"):
        supernet.network(vector(1.0))


def test_candidates_get_every_argument() -> None:
    class Affine(nn.Module):
        def __init__(self, sign: float) -> None:
            super().__init__()
            self.sign = sign

        def forward(self, x: Tensor, y: Tensor, *, scale: float = 1.0) -> Tensor:
            return x + self.sign * scale * y

    supernet = relaxed(ag.LayerChoice([Affine(1.0), Affine(-3.0)], label="c"), {"c": [0.0, 0.0]})
    # (x + 2y)/2 + (x - 6y)/2 = x - 2y
    assert torch.allclose(supernet(vector(1.0), vector(10.0), scale=2.0), vector(-19.0))


def test_a_nested_choice_mixes_inside_its_candidate() -> None:
    # outer (1/2, 1/2) over [inner, 8x], inner (1/2, 1/2) over [2x, 4x]: (3x + 8x)/2 = 5.5x
    inner = ag.LayerChoice([Times(2.0), Times(4.0)], label="inner")
    outer = ag.LayerChoice({"inner": inner, "eight": Times(8.0)}, label="outer")
    supernet = relaxed(outer, {"outer": [0.0, 0.0], "inner": [0.0, 0.0]})
    assert list(supernet.alphas) == ["outer", "inner"]
    assert torch.allclose(supernet(vector(2.0)), vector(11.0))


def test_a_choice_in_a_candidate_that_is_not_taken_is_not_decided() -> None:
    inner = ag.LayerChoice({"two": Times(2.0), "four": Times(4.0)}, label="inner")
    outer = ag.LayerChoice({"inner": inner, "eight": Times(8.0)}, label="outer")
    taken = ag.discretize(relaxed(outer, {"outer": [1.0, 0.0], "inner": [0.0, 1.0]}))
    assert dict(taken.choices) == {"outer": "inner", "inner": "four"}
    left = ag.discretize(relaxed(outer, {"outer": [0.0, 1.0], "inner": [0.0, 1.0]}))
    assert dict(left.choices) == {"outer": "eight"}
    assert ag.derive(outer, left)(vector(1.0)) == vector(8.0)
    assert ag.derive(outer, taken)(vector(1.0)) == vector(4.0)


def test_the_same_instance_used_twice_is_one_choice_with_one_set_of_weights() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = ag.LayerChoice([Learnt(3.0), Times(1.0)], label="c")
            self.b = self.a

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    supernet = relaxed(Twice(), {"c": [0.0, 0.0]})
    assert list(supernet.alphas) == ["c"]
    assert len(supernet.weights) == 1
    assert torch.allclose(supernet(vector(1.0)), vector(4.0))  # ((3 + 1)/2)^2
    derived = ag.derive(Twice(), ag.Architecture({"c": "0"}))
    assert derived.a is derived.b
    assert derived(vector(1.0)) == vector(9.0)


def test_one_candidate_instance_may_stand_in_two_choices() -> None:
    shared = Learnt(3.0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = ag.LayerChoice({"shared": shared, "one": Times(1.0)}, label="a")
            self.b = ag.LayerChoice({"one": Times(1.0), "shared": shared}, label="b")

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    derived = ag.derive(Net(), ag.Architecture({"a": "shared", "b": "shared"}))
    assert derived.a is derived.b
    assert len(list(derived.parameters())) == 1
    assert derived(vector(1.0)) == vector(9.0)


def test_choices_with_one_label_decide_together_and_keep_their_own_layers() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = ag.LayerChoice({"x": Learnt(2.0), "y": Learnt(3.0)}, label="c")
            self.b = ag.LayerChoice({"x": Learnt(5.0), "y": Learnt(7.0)}, label="c")

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    supernet = relaxed(Net(), {"c": [0.0, 1.0]})
    assert list(supernet.alphas) == ["c"]
    assert len(supernet.weights) == 4
    derived = ag.derive(Net(), ag.discretize(supernet))
    assert derived(vector(1.0)) == vector(21.0)


def test_a_choice_may_be_the_whole_space() -> None:
    space = ag.LayerChoice({"two": Times(2.0), "three": Times(3.0)})
    supernet = relaxed(space, {"root": [0.0, 2.0]})
    architecture = ag.discretize(supernet)
    assert dict(architecture.choices) == {"root": "three"}
    derived = ag.derive(space, architecture)
    assert isinstance(derived, Times)
    assert derived(vector(1.0)) == vector(3.0)


def test_an_input_choice_may_be_the_whole_space() -> None:
    space = ag.InputChoice(2)
    supernet = relaxed(space, {"root": [2.0, 0.0]})
    derived = ag.derive(space, ag.discretize(supernet))
    assert not isinstance(derived, Choice)
    assert derived([vector(1.0), vector(5.0)]) == vector(1.0)


def test_repr_shows_label_and_names() -> None:
    assert "label='c', names=['a', 'b']" in repr(ag.LayerChoice({"a": nn.Identity(), "b": nn.Identity()}, label="c"))


def test_a_choice_iterates_over_its_names() -> None:
    choice = ag.LayerChoice({"b": nn.Identity(), "a": nn.Identity()})
    assert list(choice) == ["b", "a"]
    assert len(choice) == 2
    assert "a" in choice
    assert "c" not in choice
