"""Class folders as other tools and people lay them out: read as meant, or refused with a word."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archgrad.data.listing import ImageFolder, StoredImage, list_classes, split_of
from archgrad.errors import DataError

PATH = Path("images")


def tree(layout: object) -> ImageFolder:
    """Make a folder of a dict of folders, or of so many images."""
    folder = ImageFolder()
    if isinstance(layout, int):
        folder.images = {f"{i}.png": StoredImage(PATH, f"{id(folder)}/{i}.png", 0, 1, 0) for i in range(layout)}
    else:
        folder.folders = {name: tree(below) for name, below in layout.items()}
    return folder


CLASSES = {"cat": 4, "dog": 3}
FEWER = {"cat": 1, "dog": 2}


@pytest.mark.parametrize(
    "layout",
    [
        {"Training": CLASSES, "Testing": FEWER},
        {"TRAIN": CLASSES, "TEST": FEWER},
        {"train": CLASSES, "valid": FEWER},
        {"train": CLASSES, "validation": FEWER},
        {"train": CLASSES, "dev": FEWER},
        {"train": CLASSES, "test": FEWER, "val": {"cat": 1, "dog": 1}},
        {"train": CLASSES, "test": 5, "valid": FEWER},  # the flat one is what somebody is to predict
        {"pets_train": CLASSES, "pets-val": FEWER},
        {"training_set": {"training_set": CLASSES}, "test_set": {"test_set": FEWER}},
        {"archive": {"dataset": {"Train": CLASSES, "Test": FEWER}}},
    ],
)
def test_splits_have_many_names(layout):
    listing = list_classes(tree(layout), PATH)
    assert listing.classes == ("cat", "dog")
    assert listing.train_targets.bincount().tolist() == [4, 3]
    assert listing.test_targets.bincount().tolist() == [1, 2]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"train": CLASSES, "test": 9}, "test folder of 9 images without class folders"),
        ({"train": CLASSES, "cats": 3}, r"'train' beside \['cats'\]"),
        ({"train": CLASSES, "Train": CLASSES}, r"\['Train', 'train'\] for one part of the data"),
        ({"good": CLASSES, "bad": CLASSES}, r"\['bad', 'good'\], which hold no images .* \['cat', 'dog'\]"),
        ({"test": CLASSES, "val": FEWER}, "either are the classes"),
        ({"train": {"a": CLASSES, "b": CLASSES}, "test": {"a": FEWER, "b": FEWER}}, "either are the classes"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(layout, message):
    with pytest.raises(DataError, match=message):
        list_classes(tree(layout), PATH)


@pytest.mark.parametrize("layout", [{"train": 5, "bus": 5, "test": 5}, {"bus": 5, "night train": 5}])
def test_a_class_may_be_called_as_a_split(layout):
    assert list_classes(tree(layout), PATH).classes == tuple(sorted(layout))


def test_the_names_of_splits():
    assert [split_of(name) for name in ("Training", "test-set", "my_valid", "dev", "cat", "train_val", "trainer")] == [
        *("train", "test", "val", "dev"),
        *(None, None, None),
    ]


NAMES = st.sampled_from(["train", "Training", "test", "val", "valid", "a", "b", "images"])
LAYOUTS = st.recursive(st.integers(0, 4), lambda below: st.dictionaries(NAMES, below, max_size=3), max_leaves=8)


@settings(max_examples=100, deadline=None)
@given(LAYOUTS)
def test_no_image_is_in_both_sets_and_no_class_is_a_split_with_classes_in_it(layout):
    folder = tree(layout)
    try:
        listing = list_classes(folder, PATH)
    except DataError:
        return
    train, test = ({image.name for image in images} for images in (listing.train, listing.test))
    assert train
    assert test
    assert not train & test
    assert train | test <= {image.name for image in folder.all_images()}
    assert set(listing.train_targets.tolist()) == set(range(len(listing.classes)))
    assert len(listing.classes) >= 2
