"""Data of one's own: what is accepted, what is found out, what is refused at the door."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from archgrad.data import Augmentation, Data, InfiniteLoader, TensorSamples, as_data, evaluation_batches, targets_of
from archgrad.data.augment import channel_statistics
from archgrad.errors import DataError, OptionError

TABLE, LABELS = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


class Plain(Dataset):
    """Gives pairs and nothing else; counts how often it is read."""

    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < 12:
            raise IndexError(index)
        self.reads += 1
        random.random()
        return TABLE[index], int(LABELS[index])


class WithTargets(Plain):
    classes = ("x", "y", "z")

    def __init__(self, targets: object, target_transform: object = None) -> None:
        super().__init__()
        self.targets = targets
        self.target_transform = target_transform


@pytest.mark.parametrize(
    "source",
    [
        (TABLE, LABELS),
        (TABLE.numpy(), LABELS.numpy()),
        (TABLE, LABELS.to(torch.uint8)),
        TensorDataset(TABLE, LABELS),
        Subset(TensorDataset(TABLE, LABELS), range(12)),
        Plain(),
        WithTargets(LABELS.tolist()),
        ConcatDataset([Subset(Plain(), range(5)), Subset(WithTargets(LABELS.tolist()), range(5, 12))]),
    ],
)
def test_data_of_any_form_gives_the_same_batches_and_classes(source):
    data = as_data(source)
    assert len(data.classes) == 3
    assert torch.equal(data.train_targets, LABELS)
    assert (data.channels, data.image_size, data.mean) == (0, 0, ())
    assert data.training_transform() is None
    ((inputs, targets),) = evaluation_batches(data.train, batch_size=12)
    assert torch.equal(inputs, TABLE)
    assert torch.equal(targets, LABELS)


def test_data_and_names_pass_through():
    data = as_data((TABLE, LABELS))
    assert as_data(data) is data
    assert as_data("digits").name == "digits"


def test_tensors_in_memory_need_no_workers_also_behind_a_subset():
    data = as_data(Subset(Subset(TensorDataset(TABLE, LABELS), [5, 4, 3, 2, 1, 0]), [0, 1, 2]))
    assert isinstance(data.train, TensorSamples)
    assert torch.equal(data.train.inputs, TABLE[[5, 4, 3]])


def test_targets_are_read_once_and_leave_the_global_generators_alone():
    samples = Plain()
    random.seed(0)
    expected = random.random()
    random.seed(0)
    data = as_data(samples)
    assert random.random() == expected
    reads = samples.reads
    assert reads <= 12 + 2
    assert torch.equal(data.train_targets, LABELS)
    assert samples.reads == reads


def test_known_targets_are_used_with_their_transform_and_only_if_they_fit():
    known = WithTargets([2 - label for label in LABELS.tolist()], target_transform=lambda label: 2 - label)
    assert torch.equal(targets_of(known), LABELS)
    assert known.reads <= 3  # to see that they agree
    assert torch.equal(targets_of(WithTargets([1, 2])), LABELS)  # too short: not one a sample
    assert torch.equal(targets_of(WithTargets(None)), LABELS)
    assert torch.equal(targets_of(WithTargets(LABELS.numpy())), LABELS)
    assert torch.equal(targets_of(WithTargets(list(LABELS))), LABELS)


def test_class_names_come_from_the_caller_else_the_data_set_else_numbers():
    assert Data.from_datasets(WithTargets(LABELS.tolist())).classes == ("x", "y", "z")
    assert Data.from_datasets(Plain()).classes == ("0", "1", "2")
    assert Data.from_datasets(Plain(), classes=["a", "b", "c", "d"]).classes == ("a", "b", "c", "d")


def test_regression_has_no_classes():
    data = as_data((TABLE, torch.randn(12)))
    assert data.classes == ()
    assert data.train_targets.is_floating_point()
    with pytest.raises(DataError, match="Class names go with whole-number targets"):
        Data.from_datasets(TensorDataset(TABLE, torch.randn(12)), classes=["a", "b"])


def test_images_in_memory_are_normalised_by_their_own_statistics():
    images = torch.randint(0, 256, (12, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = Data.from_datasets(TensorDataset(images, LABELS), augmentation=Augmentation(flip=True))
    assert (data.channels, data.image_size) == (3, 6)
    assert (data.mean, data.std) == channel_statistics(images)
    stream = InfiniteLoader(data.train, batch_size=12, seed=0, transform=data.training_transform(dtype=torch.float64))
    inputs, _ = next(stream.batches())
    torch.testing.assert_close(inputs.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0)
    assert Data.from_datasets(TensorDataset(images, LABELS), mean=[0.5] * 3, std=[1.0] * 3).mean == (0.5, 0.5, 0.5)


def test_cutout_is_the_callers_choice_for_images_only():
    data = as_data("digits")
    assert data.training_transform(cutout=3).augmentation == Augmentation(crop_padding=1, cutout=3)
    assert data.evaluation_transform().augmentation == Augmentation()
    table = as_data((TABLE, LABELS))
    assert table.training_transform(cutout=0) is None
    with pytest.raises(DataError, match="Cutout is for images"):
        table.training_transform(cutout=3)


class Pictures(Plain):
    def __getitem__(self, index: int) -> tuple[Image.Image, int]:  # type: ignore[override]
        return Image.new("RGB", (4, 4)), index


class Single(Plain):
    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        return TABLE[index]


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


class Words(Plain):
    def __getitem__(self, index: int) -> tuple[Tensor, str]:  # type: ignore[override]
        return TABLE[index], "cat"


NOT_A_NUMBER = TABLE.clone()
NOT_A_NUMBER[7, 2] = float("nan")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((TABLE[:0], LABELS[:0]), "no samples"),
        (Subset(Plain(), []), "no samples"),
        ((TABLE, LABELS[:5]), r"shapes are \(12, 5\) and \(5,\)"),
        ((TABLE, LABELS * 0 + 2), "at least 2 classes, but all 12 targets are 2"),
        ((TABLE, LABELS - 1), "at least 0, but the training targets reach from -1 to 1"),
        ((NOT_A_NUMBER, LABELS), "inputs must be finite, but sample 7"),
        ((TABLE, torch.full((12,), float("inf"))), "targets must be finite, but sample 0"),
        (Pictures(), "PIL images.*ToTensor"),
        (Single(), r"must be a pair \(input, target\), but sample 0 of Single is a Tensor"),
        (Words(), "Number the classes 0, 1, 2"),
        (Stream(), "no samples"),
        ([1, 2, 3], "but got list"),
        (None, "but got NoneType"),
        ((TABLE, LABELS, LABELS), "but got tuple"),
        ("no-such-set", "no data set"),
    ],
)
def test_bad_data_is_refused_at_the_door_with_the_remedy(source, message):
    with pytest.raises(DataError, match=message):
        as_data(source)


def test_test_targets_and_class_names_must_fit_the_training_data():
    train = TensorDataset(TABLE, LABELS)
    with pytest.raises(DataError, match=r"in 0\.\.2 \(3 classes\), but the test targets reach from 0 to 5"):
        Data.from_datasets(train, TensorDataset(TABLE, torch.arange(12) % 6))
    with pytest.raises(DataError, match=r"in 0\.\.1 \(2 classes\), but the training targets reach from 0 to 2"):
        Data.from_datasets(train, classes=["a", "b"])
    with pytest.raises(DataError, match="test targets must be whole numbers"):
        Data.from_datasets(train, TensorDataset(TABLE, torch.randn(12)))
    assert (
        Data.from_datasets(train, TensorDataset(TABLE, LABELS * 0)).test is not None
    )  # one class is enough for a test


def test_image_options_for_a_table_are_refused():
    with pytest.raises(DataError, match="Augmentation and normalisation are for images"):
        Data.from_datasets(TensorDataset(TABLE, LABELS), augmentation=Augmentation(flip=True))
    with pytest.raises(OptionError, match="cutout must be at least 0"):
        as_data("digits").training_transform(cutout=-1)


def test_loading_data_imports_no_more_of_archgrad_than_what_checks_at_the_door():
    import re

    package = Path(__import__("archgrad.data", fromlist=["x"]).__file__).parent
    imported = {name for file in package.glob("*.py") for name in re.findall(r"archgrad\.(\w+)", file.read_text())}
    assert imported - {"images"} == {
        *("batches", "checks", "data", "errors", "files", "input_checks"),
        *("json_text", "machine", "nested", "paths", "sizes"),
    }


def test_arrays_that_may_not_be_written_are_copied():
    table = np.zeros((4, 2), np.float32)
    table.setflags(write=False)
    assert len(as_data((table, np.array([0, 1, 0, 1]))).train) == 4


class Masks(Dataset):
    """As torchvision's VOCSegmentation: `targets` are paths, samples give masks."""

    def __init__(self, known):
        self.targets = known

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.zeros(3, 4, 4), torch.full((4, 4), index % 2)


class Boxes(Masks):
    def __getitem__(self, index):
        return torch.zeros(3), index % 3


@pytest.mark.parametrize("samples", [Masks, Boxes])
@pytest.mark.parametrize(
    "known",
    [
        [f"masks/{i}.png" for i in range(6)],
        [["a", "b"]] * 6,
        [{"boxes": []}] * 6,
        [9, 9, 9, 9, 9, 9],
        np.zeros(6, dtype=object),
        torch.full((6,), 0.5),
    ],
)
def test_an_attribute_counts_only_where_it_agrees_with_what_samples_give(samples, known):
    expected = torch.stack([torch.as_tensor(samples(None)[i][1]) for i in range(6)])
    assert torch.equal(targets_of(samples(known)), expected)
    assert torch.equal(Data.from_datasets(samples(known)).train_targets, expected)


def test_samples_whose_targets_are_no_numbers_are_told():
    class Names(Masks):
        def __getitem__(self, index):
            return torch.zeros(3), "cat"

    with pytest.raises(DataError, match="Number the classes"):
        Data.from_datasets(Names([f"{i}.png" for i in range(6)]))
