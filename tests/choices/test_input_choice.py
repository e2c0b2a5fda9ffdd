"""Laws of an input choice: relaxed, it is the expectation of the discrete choice over all subsets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.errors import ArchitectureError, SpaceError
from toys import relaxed, vector

REDUCTIONS = ("sum", "mean", "concat", "none")
CASES = [(n, k) for n in range(1, 6) for k in range(1, n + 1)]


def inputs(n: int) -> list[Tensor]:
    return list(torch.randn(n, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(n)))


def alphas(n: int) -> list[float]:
    return (2.0 * torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(7 * n))).tolist()


def join(chosen: Sequence[Tensor], reduction: str) -> Tensor:
    """The discrete choice, as one tensor."""
    if reduction == "sum":
        return torch.stack(list(chosen)).sum(0)
    if reduction == "mean":
        return torch.stack(list(chosen)).mean(0)
    return torch.cat(list(chosen), dim=1) if reduction == "concat" else torch.stack(list(chosen))


def expectation(alpha: Tensor, k: int, values: Sequence[Tensor], reduction: str) -> Tensor:
    """Sum over all k-subsets of (probability of the subset) * (what the discrete choice returns for it)."""
    subsets = list(itertools.combinations(range(len(values)), k))
    probability = torch.softmax(torch.stack([alpha[list(subset)].sum() for subset in subsets]), 0)
    joins = [join([values[i] for i in subset], reduction) for subset in subsets]
    return sum((p * value for p, value in zip(probability, joins, strict=True)), torch.zeros_like(joins[0]))


def run(n: int, k: int, reduction: str) -> tuple[ag.Supernet, Tensor]:
    supernet = relaxed(ag.InputChoice(n, k, reduction, label="join"), {"join": alphas(n)})
    output = supernet(inputs(n))
    return supernet, torch.stack(output) if reduction == "none" else output


@pytest.mark.parametrize("values", [(0.0, 0.0), (3.0, -5.0), (-400.0, 700.0)])
def test_two_of_two_inputs_x_and_2x_give_3x_whatever_the_alphas(values: tuple[float, float]) -> None:
    supernet = relaxed(ag.InputChoice(n_candidates=2, n_chosen=2, label="join"), {"join": values})
    for dtype in (torch.float64, torch.float32):
        x = vector(1.0, -2.5, 1e3).to(dtype)
        assert torch.equal(supernet.to(dtype)([x, 2.0 * x]), 3.0 * x)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("n", "k"), CASES)
def test_the_output_is_the_expectation_over_subsets(n: int, k: int, reduction: str) -> None:
    supernet, output = run(n, k, reduction)
    expected = expectation(supernet.alphas["join"], k, inputs(n), reduction)
    assert torch.allclose(output, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("n", "k"), CASES)
def test_the_gradient_is_that_of_the_expectation(n: int, k: int, reduction: str) -> None:
    supernet, output = run(n, k, reduction)
    probe = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (ours,) = torch.autograd.grad((output * probe).sum(), [supernet.alphas["join"]])
    alpha = torch.tensor(alphas(n), dtype=torch.float64, requires_grad=True)
    (theirs,) = torch.autograd.grad((expectation(alpha, k, inputs(n), reduction) * probe).sum(), [alpha])
    assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_one_chosen_input_is_the_softmax() -> None:
    # p = softmax(0, log 4) = (1/5, 4/5)
    supernet = relaxed(ag.InputChoice(2, label="join"), {"join": [0.0, math.log(4.0)]})
    assert torch.allclose(supernet([vector(10.0), vector(5.0)]), vector(6.0))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_sure_alphas_give_what_the_derived_choice_gives(reduction: str) -> None:
    choice = ag.InputChoice(4, 2, reduction, label="join")
    supernet = relaxed(choice, {"join": [-60.0, 60.0, -60.0, 60.0]})
    derived = ag.derive(choice, ag.discretize(supernet))
    ours, theirs = supernet(inputs(4)), derived(inputs(4))
    if reduction == "none":
        assert isinstance(theirs, list)
        assert len(ours) == len(theirs) == 2
        ours, theirs = torch.stack(ours), torch.stack(theirs)
    assert torch.allclose(ours, theirs, atol=1e-12)


def test_the_decision_takes_the_likeliest_inputs_in_ascending_order() -> None:
    supernet = relaxed(ag.InputChoice(4, 2, label="join"), {"join": [0.1, 0.9, 0.2, 0.8]})
    assert ag.discretize(supernet).choices["join"] == (1, 3)


def test_equal_probabilities_decide_for_the_lower_inputs() -> None:
    supernet = relaxed(ag.InputChoice(4, 2, label="join"), {"join": [0.0, 1.0, 0.0, 0.0]})
    assert ag.discretize(supernet).choices["join"] == (0, 1)


def test_the_evidence_of_an_input_choice_is_a_list() -> None:
    architecture = ag.discretize(relaxed(ag.InputChoice(2, label="join"), {"join": [0.0, 0.0]}))
    assert list(architecture.provenance["alphas"]["join"]) == [0.0, 0.0]
    assert list(architecture.provenance["probabilities"]["join"]) == [0.5, 0.5]


def test_concatenated_inputs_keep_their_order() -> None:
    choice = ag.InputChoice(3, 2, "concat", label="join")
    derived = ag.derive(choice, ag.Architecture({"join": [0, 2]}))
    a, b, c = (torch.full((1, 1), value) for value in (1.0, 2.0, 3.0))
    assert derived([a, b, c]).tolist() == [[1.0, 3.0]]


def test_concat_goes_along_the_given_dimension() -> None:
    choice = ag.InputChoice(2, 2, "concat", dim=0, label="join")
    a, b = torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    expected = [[1.0, 1.0], [0.0, 0.0]]
    assert torch.allclose(relaxed(choice)([a, b]), torch.tensor(expected, dtype=torch.float64), atol=1e-12)
    assert ag.derive(choice, ag.Architecture({"join": [0, 1]}))([a, b]).tolist() == expected


@pytest.mark.parametrize("reduction", ["sum", "mean", "concat"])
def test_inputs_may_be_structures_relaxed_and_derived_alike(reduction: str) -> None:
    # two of two, so that relaxed and derived agree: each tensor of the structure is joined on its own
    choice = ag.InputChoice(2, 2, reduction, label="join")
    pair = [{"h": inputs(2)[i], "c": (inputs(3)[i], None)} for i in range(2)]
    for joined in (relaxed(choice)(pair), ag.derive(choice, ag.Architecture({"join": [0, 1]}))(pair)):
        assert torch.allclose(joined["h"], join(inputs(2), reduction), atol=1e-12)
        assert torch.allclose(joined["c"][0], join(inputs(3)[:2], reduction), atol=1e-12)
        assert joined["c"][1] is None


@pytest.mark.parametrize(("n", "k"), [(0, 1), (3, 0), (3, 4), (-1, 1), (2.0, 1), (3, None), ("3", 1), (3, True)])
def test_the_numbers_of_inputs_are_checked(n: object, k: object) -> None:
    with pytest.raises(SpaceError, match=f"1 <= n_chosen <= n_candidates.*n_chosen={k}, n_candidates={n}"):
        ag.InputChoice(n, k, label="join")  # type: ignore[arg-type]


def test_an_unknown_reduction_names_those_that_there_are() -> None:
    with pytest.raises(SpaceError, match="a reduction of sum, mean, concat, none, but got 'max'"):
        ag.InputChoice(2, reduction="max", label="join")


@pytest.mark.parametrize("given", [[vector(1.0)], [], [vector(1.0)] * 4])
def test_a_wrong_number_of_inputs_is_an_error_relaxed_and_derived(given: list[Tensor]) -> None:
    choice = ag.InputChoice(3, 1, label="join")
    with pytest.raises(SpaceError, match=f"'join' needs a sequence of 3 inputs, but got {len(given)} inputs"):
        relaxed(choice)(given)
    with pytest.raises(SpaceError, match="needs a sequence of 3 inputs"):
        ag.derive(choice, ag.Architecture({"join": [2]}))(given)


def test_a_tensor_is_no_sequence_of_inputs() -> None:
    with pytest.raises(SpaceError, match="needs a sequence of 2 inputs, but got Tensor"):
        relaxed(ag.InputChoice(2, label="join"))(torch.zeros(2, 3))


def test_inputs_of_unequal_shape_are_named_by_number() -> None:
    with pytest.raises(SpaceError, match=r"'join'.*'input 0' gives \(2,\).*'input 1' gives \(3,\)"):
        relaxed(ag.InputChoice(2, label="join"))([vector(1.0, 2.0), vector(1.0, 2.0, 3.0)])


@pytest.mark.parametrize("decision", ["a", [0], [0, 1, 2], [0, 3], {"2": [["a", 0]]}])
def test_a_decision_that_does_not_fit_is_an_error_that_names_the_choice(decision: object) -> None:
    with pytest.raises(ArchitectureError, match="'join' takes 2 of inputs 0 to 2, each at most once"):
        ag.derive(ag.InputChoice(3, 2, label="join"), ag.Architecture({"join": decision}))  # type: ignore[dict-item]


def test_inputs_that_are_not_taken_may_be_left_out_of_a_derived_network() -> None:
    derived = ag.derive(ag.InputChoice(3, 1, label="join"), ag.Architecture({"join": [1]}))
    assert isinstance(derived, nn.Module)
    assert derived([None, vector(4.0), None]) == vector(4.0)
