"""Laws of the split into two halves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import archgrad as ag
from archgrad.data import Data, TensorSamples, stratified_halves
from archgrad.data.split import grouped_halves, ordered_halves
from archgrad.errors import DataError, OptionError

fractions = st.floats(0.001, 0.999)


@settings(max_examples=100)
@given(targets=st.lists(st.integers(0, 6), min_size=2, max_size=80), fraction=fractions, seed=st.integers(0, 99))
def test_each_class_is_shared_within_one_sample_and_no_index_is_lost(targets, fraction, seed):
    classes = torch.tensor(targets)
    first, second = stratified_halves(classes, fraction=fraction, seed=seed)
    assert sorted(torch.cat([first, second]).tolist()) == list(range(len(targets)))
    assert len(first) == min(max(round(fraction * len(targets)), 1), len(targets) - 1)
    for label in classes.unique():
        in_class = int((classes == label).sum())
        assert abs(int((classes[first] == label).sum()) - fraction * in_class) < 1


def test_class_sorted_data_comes_out_shuffled_and_balanced():
    classes = torch.arange(10).repeat_interleave(100)
    first, second = stratified_halves(classes, fraction=0.5, seed=0)
    for half in (first, second):
        assert classes[half].bincount().tolist() == [50] * 10
        assert len(classes[half][:50].unique()) > 5  # not class after class


def test_the_split_follows_from_the_seed():
    classes = torch.arange(60) % 3
    first, second = stratified_halves(classes, fraction=0.5, seed=1)
    again, _ = stratified_halves(classes, fraction=0.5, seed=1)
    other, _ = stratified_halves(classes, fraction=0.5, seed=2)
    assert torch.equal(first, again)
    assert set(first.tolist()) != set(other.tolist())
    assert first.dtype == second.dtype == torch.int64


def test_the_split_of_seed_0_stays_as_it_is():
    # A stored run resumes only if this never changes.
    first, second = stratified_halves(torch.tensor([0, 0, 0, 1, 1, 1, 2, 2]), fraction=0.5, seed=0)
    assert (first.tolist(), second.tolist()) == ([6, 0, 2, 3], [4, 1, 5, 7])


def test_regression_targets_are_only_shuffled():
    first, second = stratified_halves(torch.linspace(0, 1, 11), fraction=0.3, seed=0)
    assert len(first) == 3
    assert sorted(torch.cat([first, second]).tolist()) == list(range(11))


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5, float("nan")])
def test_a_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(OptionError, match=f"between 0 and 1, but got {fraction}"):
        stratified_halves(torch.tensor([0, 1]), fraction=fraction, seed=0)


def test_one_sample_cannot_be_split():
    with pytest.raises(DataError, match="at least 2 samples, but the data has 1"):
        stratified_halves(torch.tensor([0]), fraction=0.5, seed=0)


@given(
    st.lists(st.integers(0, 6), min_size=4, max_size=60).filter(lambda groups: len(set(groups)) > 1), st.integers(0, 9)
)
@settings(max_examples=40)
def test_no_group_is_in_both_halves(groups, seed):
    groups = torch.tensor(groups)
    targets = torch.arange(len(groups)) % 3
    first, second = grouped_halves(targets, groups, fraction=0.5, seed=seed)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(len(groups)))
    assert len(first)
    assert len(second)
    assert not set(groups[first].tolist()) & set(groups[second].tolist())
    again = grouped_halves(targets, groups, fraction=0.5, seed=seed)
    assert torch.equal(first, again[0])


def test_halves_of_groups_have_about_the_same_share_of_each_class():
    groups = torch.arange(60).repeat_interleave(5)
    targets = (groups % 3 == 0).long()  # a third of the patients are ill
    for seed in range(5):
        first, second = grouped_halves(targets, groups, fraction=0.5, seed=seed)
        assert len(first) == len(second) == 150
        assert targets[first].sum() == targets[second].sum() == 50
    third, rest = grouped_halves(targets, groups, fraction=1 / 3, seed=0)
    assert (len(third), len(rest)) == (100, 200)


def test_the_second_half_is_later_than_the_first():
    times = torch.tensor([5, 1, 3, 3, 3, 9, 2, 7])
    first, second = ordered_halves(times, fraction=0.5)
    assert first.tolist() == [1, 6, 2, 3, 4]  # those of one time stay together
    assert second.tolist() == [0, 7, 5]
    with pytest.raises(DataError, match="all 3 samples are of one"):
        ordered_halves(torch.ones(3), fraction=0.5)
    with pytest.raises(DataError, match="all 3 samples are of one"):
        grouped_halves(torch.ones(3), torch.ones(3), fraction=0.5, seed=0)


def test_data_of_a_split_of_ones_own_is_served_so():
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    whole = TensorSamples(x, y)

    def halves(**options):
        return Data.from_datasets(whole, **options).halves(fraction=0.5, seed=0)

    weights, alphas = halves(times=np.arange(40, 0, -1))
    assert min(weights.indices) == 20
    assert max(alphas.indices) == 19
    weights, alphas = halves(groups=[f"p{row // 10}" for row in range(40)])
    assert {int(row) // 10 for row in weights.indices}.isdisjoint({int(row) // 10 for row in alphas.indices})
    weights, alphas = halves(valid=TensorSamples(x[:7], y[:7]))
    assert (len(weights.indices), len(alphas.indices)) == (40, 7)
    some = Data.from_datasets(whole, groups=range(40)).take(torch.tensor([3, 5, 8]))
    assert some.groups.tolist() == [3, 5, 8]
    joined = Data.from_datasets(whole, valid=TensorSamples(x[:7], y[:7])).whole()
    assert (len(joined.train), joined.valid) == (47, None)
    for wrong, message in (
        ({"times": range(40), "groups": range(40)}, "Give one of valid, groups and times"),
        ({"times": range(9)}, "one entry for each of the 40"),
        ({"times": ["a"] * 40}, "must be numbers or dates"),
    ):
        with pytest.raises(DataError, match=message):
            halves(**wrong)


def test_a_share_of_the_weights_is_refused_beside_validation_data():
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    data = Data.from_datasets(TensorSamples(x, y), valid=TensorSamples(x, y))
    space = torch.nn.Sequential(ag.LayerChoice([torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)]))
    with pytest.raises(OptionError, match=r"weights_fraction=0\.3 .* validation samples of its own"):
        ag.search(space, data, weights_fraction=0.3, epochs=1, quiet=True, device="cpu")


def test_validation_data_of_another_kind_is_refused_before_a_retraining_joins_it():
    x, y = torch.rand(8, 3, 6, 6), torch.rand(8)
    images = (x * 255).to(torch.uint8)
    for train, valid, message in (
        ((x, y), (x, y[:, None]), r"fractions of shape \(1,\) a sample, but .* one fraction"),
        ((x, y), (x, y.round().long()), "one whole number a sample, but"),
        ((x, torch.rand(8, 2)), (x, torch.rand(8, 3)), r"shape \(3,\) a sample, but .* shape \(2,\)"),
        ((images, y), (x, y), r"inputs of the validation samples are fractions of shape .*, but .* uint8"),
        ((x, y), (x[:, :, :5], y), r"shape \(3, 5, 6\), but those of the training samples fractions of"),
    ):
        with pytest.raises(DataError, match=message):
            Data.from_datasets(TensorSamples(*train), valid=TensorSamples(*valid))
    assert Data.from_datasets(TensorSamples(x, y), valid=TensorSamples(x.double(), y)).whole().train.inputs.ndim == 4
