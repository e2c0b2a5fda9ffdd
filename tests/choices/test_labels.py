"""Laws of labels: stable where they are not given, shared where they are, and every conflict named with its places."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import archgrad as ag
from archgrad.cell import Cell
from archgrad.errors import SpaceError
from archgrad.labels import alpha_rows, label_choices
from toys import TabularSpace, Times, in_fresh_process, relaxed, vector


def layer(*names: str, label: str | None = None) -> ag.LayerChoice:
    return ag.LayerChoice({name: Times(1.0) for name in names or ("a", "b")}, label=label)


def cell(label: str | None = None, **options: object) -> Cell:
    builders: dict[str, Callable[[int, int], nn.Module]] = {"none": lambda s, n: Times(0.0), "a": lambda s, n: Times(1)}
    return Cell(1, builders, label=label, **options)  # type: ignore[arg-type]


class Holder(nn.Module):
    """Choices under given attribute names."""

    def __init__(self, **choices: nn.Module) -> None:
        super().__init__()
        for name, choice in choices.items():
            setattr(self, name, choice)


class Loop(nn.Module):
    """Unlabelled choices in nested loops, one of them inside a candidate."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList([layer(), ag.LayerChoice({"in": layer(), "id": nn.Identity()})]) for _ in range(2)
        )
        self.join = ag.InputChoice(3)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for block in self.blocks:
            for choice in block:  # type: ignore[attr-defined]
                x = choice(x)
            outputs.append(x)
        return self.join(outputs)


LOOP_LABELS = [
    "blocks/0/0",
    "blocks/0/1",
    "blocks/0/1/candidates/0",
    "blocks/1/0",
    "blocks/1/1",
    "blocks/1/1/candidates/0",
    "join",
]


def test_unlabelled_choices_are_called_by_their_path() -> None:
    assert [entry.label for entry in label_choices(Loop())] == LOOP_LABELS
    assert list(relaxed(Loop()).alphas) == LOOP_LABELS


def test_choices_in_loops_search_and_derive() -> None:
    alphas = {"join": [0.0, 0.0, 9.0], "blocks/0/1": [9.0, 0.0], "blocks/1/1": [9.0, 0.0]}
    supernet = relaxed(Loop(), alphas)
    architecture = ag.discretize(supernet)
    assert set(architecture.choices) == set(LOOP_LABELS)
    assert ag.derive(Loop(), architecture)(vector(2.0)) == vector(2.0)


def test_labels_are_the_same_in_a_process_with_another_hash_seed() -> None:
    code = "import test_labels, archgrad; print([*archgrad.Supernet(test_labels.Loop()).alphas])"
    assert in_fresh_process(code, hash_seed=1) == str(LOOP_LABELS)


def test_building_a_space_again_gives_the_same_labels() -> None:
    spaces: list[Callable[[], nn.Module]] = [
        Loop,
        TabularSpace,
        lambda: ag.spaces.darts_cifar(4, 3),
        lambda: ag.spaces.nasbench201(4, 1),
        lambda: ag.spaces.tiny(),
    ]
    for build in spaces:
        first, second = (label_choices(build()) for _ in range(2))
        assert [(entry.label, entry.path) for entry in first] == [(entry.label, entry.path) for entry in second]


def test_a_cell_at_the_root_is_called_root() -> None:
    assert list(alpha_rows(label_choices(cell()))) == ["root/0->2", "root/1->2"]


def test_an_unlabelled_cell_is_called_by_its_path_and_its_edges_after_it() -> None:
    rows = alpha_rows(label_choices(nn.Sequential(nn.Sequential(cell()))))
    assert list(rows) == ["0/0/0->2", "0/0/1->2"]


def test_an_instance_that_is_used_twice_counts_once() -> None:
    choice = layer()
    assert [entry.label for entry in label_choices(Holder(a=choice, b=choice))] == ["a"]


def test_cells_with_one_label_share_their_rows() -> None:
    rows = alpha_rows(label_choices(Holder(a=cell("normal"), b=cell("normal"), c=cell("reduce"))))
    assert list(rows) == ["normal/0->2", "normal/1->2", "reduce/0->2", "reduce/1->2"]


def test_input_choices_with_one_label_may_join_in_their_own_way() -> None:
    space = Holder(a=ag.InputChoice(2, label="j"), b=ag.InputChoice(2, reduction="concat", label="j"))
    assert list(ag.Supernet(space).alphas) == ["j"]


CONFLICTS: list[tuple[str, dict[str, nn.Module], list[str]]] = [
    (
        "other candidates",
        {"x": layer("a", "b", label="l"), "y": layer("a", "c", label="l")},
        ["Label 'l'", "other candidates", "'x'", "'y'", "[a, b]", "[a, c]"],
    ),
    (
        "another order of candidates",
        {"x": layer("a", "b", label="l"), "y": layer("b", "a", label="l")},
        ["Label 'l'", "'x'", "'y'", "[a, b]", "[b, a]"],
    ),
    (
        "fewer candidates",
        {"x": layer("a", "b", label="l"), "y": layer("a", label="l")},
        ["Label 'l'", "'x'", "'y'", "[a, b]", "[a]"],
    ),
    (
        "a layer and an input choice",
        {"x": layer("0", "1", label="l"), "y": ag.InputChoice(2, label="l")},
        ["Label 'l'", "LayerChoice", "InputChoice", "'x'", "'y'"],
    ),
    (
        "a layer choice and a cell",
        {"x": cell("l"), "y": layer(label="l")},
        ["Label 'l'", "Cell", "LayerChoice", "'x'", "'y'"],
    ),
    (
        "other numbers of inputs",
        {"x": ag.InputChoice(2, label="l"), "y": ag.InputChoice(3, label="l")},
        ["Label 'l'", "'x'", "'y'", "1 of [0, 1]", "1 of [0, 1, 2]"],
    ),
    (
        "other numbers of chosen inputs",
        {"x": ag.InputChoice(3, 1, label="l"), "y": ag.InputChoice(3, 2, label="l")},
        ["Label 'l'", "'x'", "'y'", "1 of [0, 1, 2]", "2 of [0, 1, 2]"],
    ),
    (
        "cells with other numbers of kept edges",
        {"x": cell("l"), "y": cell("l", n_kept=1)},
        ["Label 'l'", "'x'", "'y'", "n_kept=2", "n_kept=1"],
    ),
    (
        "cells that never derive other candidates",
        {"x": cell("l"), "y": cell("l", never=())},
        ["Label 'l'", "'x'", "'y'", "never=['none']", "never=[]"],
    ),
    (
        "cells with other numbers of inputs",
        {"x": cell("l"), "y": cell("l", n_inputs=3)},
        ["Label 'l'", "'x'", "'y'", "on 2 edges", "on 3 edges"],
    ),
    (
        "the path of an unlabelled choice",
        {"x": layer(), "y": layer(label="x")},
        ["Label 'x'", "path of an unlabelled choice", "'x'", "'y'"],
    ),
    (
        "the label of a choice that stands before the unlabelled one",
        {"x": layer(label="y"), "y": layer()},
        ["Label 'y'", "path of an unlabelled choice", "'x'", "'y'"],
    ),
    (
        "the edge of a cell",
        {"x": cell("normal"), "y": layer("none", "a", label="normal/0->2")},
        ["Label 'normal/0->2'", "'normal'", "'x'", "'y'"],
    ),
    (
        "labels that would be one name in a state dict",
        {"x": layer(label="a.b"), "y": layer(label="a/b")},
        ["'a.b'", "'a/b'", "'x'", "'y'"],
    ),
    (
        "cells whose edges would be one name in a state dict",
        {"x": cell("a.b"), "y": cell("a/b")},
        ["'a.b/0->2'", "'a/b/0->2'", "'x'", "'y'"],
    ),
]


@pytest.mark.parametrize(("choices", "parts"), [case[1:] for case in CONFLICTS], ids=[case[0] for case in CONFLICTS])
def test_a_conflict_is_an_error_that_names_both_places(choices: dict[str, nn.Module], parts: list[str]) -> None:
    with pytest.raises(SpaceError) as caught:
        ag.Supernet(Holder(**choices))
    for part in parts:
        assert part in str(caught.value)


def test_a_conflict_with_the_root_says_root() -> None:
    with pytest.raises(SpaceError, match=r"'root' and 'candidates\.0'"):
        ag.Supernet(ag.LayerChoice([layer("0", "1", label="root"), nn.Identity()]))


def test_a_conflict_is_met_when_an_architecture_is_derived_too() -> None:
    space = Holder(x=layer("a", label="l"), y=layer("b", label="l"))
    with pytest.raises(SpaceError, match="Label 'l' is shared by choices with other candidates"):
        ag.derive(space, ag.Architecture({"l": "a"}))


@pytest.mark.parametrize("label", ["a.b", "keys", "training", "0", "weights/x.y", "a b", "α"])
def test_any_text_serves_as_a_label(label: str) -> None:
    space = Holder(x=layer(label=label))
    supernet = relaxed(space)
    assert list(supernet.alphas) == [label]
    state = supernet.state_dict()
    other = relaxed(space, seed=1)
    other.load_state_dict(state)
    assert torch.equal(other.alphas[label], supernet.alphas[label])
    assert list(ag.discretize(supernet).choices) == [label]
