"""Class folders as other tools and people lay them out: read as meant, or refused with a word."""

import warnings
from glob import glob
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archgrad.data.listing import ImageFolder, StoredImage, is_image, list_classes, read_folder, split_of
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
    "more",
    [
        {"test": 5, "valid": FEWER},  # the flat one is what somebody is to predict
        {"test": FEWER, "val": FEWER, "dev": {"cat": 3, "dog": 2}},
    ],
)
def test_images_of_a_part_that_is_not_used_are_told_of(more):
    with pytest.warns(UserWarning, match="5 images of images are left out, as they lie in no class folder of a part"):
        listing = list_classes(tree({"train": CLASSES, **more}), PATH)
    assert listing.test_targets.bincount().tolist() == [1, 2]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"train": CLASSES, "test": 9}, "test folder of 9 images without class folders"),
        ({"train": CLASSES, "cats": 3}, r"'train' beside \['cats'\]"),
        ({"train": CLASSES, "Train": CLASSES}, r"\['Train', 'train'\] for one part of the data"),
        ({"good": CLASSES, "bad": CLASSES}, r"\['bad', 'good'\], which hold no images .* \['cat', 'dog'\]"),
        ({"test": CLASSES, "val": FEWER}, "hold no class folders for training"),
        ({"train": 9, "valid": 3, "test": 3}, "nothing says what the images show.*FILE.py:NAME"),  # and a CSV in each
        ({"images": 9}, "1 class folders .*FILE.py:NAME"),
        ({"images": 9, "masks": 9}, "'images' of images beside 'masks' of what is marked"),
        ({"train": {"images": 9, "labels": 0}, "valid": {"images": 3, "labels": 0}}, "boxes are not learnt"),
        ({"images": {"train": 9, "val": 3}, "labels": {"train": 0, "val": 0}}, "'labels' of what is marked"),
        ({"JPEGImages": 9, "SegmentationClass": 9, "Annotations": 0}, "'JPEGImages' of images beside 'Annotations'"),
        ({"train": {"a": CLASSES, "b": CLASSES}, "test": {"a": FEWER, "b": FEWER}}, "either are the classes"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(layout, message):
    with pytest.raises(DataError, match=message):
        list_classes(tree(layout), PATH)


@pytest.mark.parametrize(
    "layout", [{"train": 5, "bus": 5, "test": 5}, {"bus": 5, "night train": 5}, {"mask": 5, "no mask": 5}]
)
def test_a_class_may_be_called_as_a_split(layout):
    assert list_classes(tree(layout), PATH).classes == tuple(sorted(layout))


def test_classes_whose_names_differ_in_case_alone_are_told_of():
    with pytest.warns(UserWarning, match=r"nearly the same name, \['Tabby cat', 'tabby_cat'\]"):
        list_classes(tree({"tabby_cat": 5, "Tabby cat": 5, "dog": 5}), PATH)


def test_the_names_of_splits():
    assert [split_of(name) for name in ("Training", "test-set", "my_valid", "dev", "cat", "train_val", "trainer")] == [
        *("train", "test", "val", "dev"),
        *(None, None, None),
    ]


def test_folders_of_systems_are_no_classes(tmp_path):
    for name in ("data/cat/a.png", "data/dog/a.png", "data/dog/@eaDir/a.png/THUMB.jpg", "__MACOSX/data/cat/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = read_folder(tmp_path)
    assert [image.path.relative_to(tmp_path) for image in found.all_images()] == [*map(Path, NAMES_OF_IMAGES)]
    assert list(found.folders) == ["data"]


NAMES_OF_IMAGES = ("data/cat/a.png", "data/dog/a.png")
NAMES = st.sampled_from(["train", "Training", "test", "val", "valid", "a", "b", "images"])
LAYOUTS = st.recursive(st.integers(0, 4), lambda below: st.dictionaries(NAMES, below, max_size=3), max_leaves=8)


@settings(max_examples=100, deadline=None)
@given(LAYOUTS)
def test_no_image_is_in_both_sets_and_no_class_is_a_split_with_classes_in_it(layout):
    folder = tree(layout)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
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


NAMES_OF_PARTS = ["train", "Test", "valid", "dev", "pets_train", ""]
SPLITS = st.lists(st.sampled_from(NAMES_OF_PARTS), min_size=1, max_size=4, unique=True)
LABELS = st.lists(st.sampled_from(["cat", "dog", "ü owl", ".hidden", "images"]), min_size=2, max_size=4, unique=True)
IMAGES = st.lists(st.sampled_from(["a.png", "b.JPG", "c.jfif", "sub/a.png", "._a.png", "n.txt"]), min_size=1)
STRAY = st.lists(st.sampled_from(["x.png", "train/x.png", "Test/x.png", "valid/y.png", "notes/a.txt"]), max_size=2)


@settings(max_examples=60, deadline=None)
@given(SPLITS, LABELS, st.lists(IMAGES, min_size=16, max_size=16), STRAY, st.sampled_from(["", "archive/data"]))
def test_of_a_folder_on_disk_each_image_is_listed_once_or_told_of(
    tmp_path_factory, splits, labels, images, stray, around
):
    """Whatever lies there: an error that says why, or each image in one part, of the class of a folder around it."""
    root = tmp_path_factory.mktemp("layout")
    of_classes = (f"{split}/{label}/{name}" for split in splits for label in labels for name in images.pop())
    for name in (*of_classes, *stray):
        file = root / around / name.removeprefix("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    if len(labels) == 3:  # a class folder that lies elsewhere
        (folder := next(root.glob(f"**/{labels[0]}"))).rename(root.parent / f"{root.name}-elsewhere")
        folder.symlink_to(root.parent / f"{root.name}-elsewhere", target_is_directory=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            listing = list_classes(read_folder(root), root)
        except DataError:
            return
    listed = [image.path for image in listing.images]
    assert len(set(listed)) == len(listed)
    there = {path for path in map(Path, glob(f"{root}/**", recursive=True)) if is_image(path.name) and path.is_file()}
    assert set(listed) <= there
    for name, (found, targets) in listing.parts().items():
        assert len(found) == len(targets), name
        for image, target in zip(found, targets.tolist(), strict=True):
            assert listing.classes[target] in image.path.relative_to(root).parts
    if left := there - set(listed):
        assert told, f"{sorted(map(str, left))} are left out without a word"
