"""Laws of the split into two halves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archgrad.data import stratified_halves
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
