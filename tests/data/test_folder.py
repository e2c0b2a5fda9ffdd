"""Images from class folders and tars: what is read, in what order, once."""

import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import class_folders, picture, tar_of
from PIL import Image

from archgrad.data import Augmentation, InfiniteLoader, load
from archgrad.data import archive as archive_module
from archgrad.data import image_folder as folder_module
from archgrad.data.augment import channel_statistics
from archgrad.data.decode import ImageFiles
from archgrad.errors import DataError, OptionError


def test_classes_are_sorted_by_name_and_images_keep_their_pixels(tmp_path):
    folder = class_folders(tmp_path / "images")
    data = load(f"folder:{folder}", root=tmp_path / "cache")
    assert data.classes == ("class0", "class1", "class2")
    assert (data.channels, data.image_size) == (3, 8)
    assert data.train.targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    pixels = np.asarray(Image.open(folder / "train" / "class1" / "2.png")).transpose(2, 0, 1)
    assert torch.equal(data.train.inputs[6], torch.from_numpy(pixels.copy()))
    assert (data.mean, data.std) == channel_statistics(data.train.inputs)
    assert (data.augmentation.crop_padding, data.augmentation.flip) == (1, True)


def test_for_random_parts_images_are_kept_larger_than_a_network_sees_them(tmp_path):
    folder = class_folders(tmp_path / "images")
    data, whole = (
        load(f"folder:{folder}", root=tmp_path / "cache", image_size=size, augmentation=augmentation)
        for size, augmentation in ((7, "imagenet"), (8, "none"))
    )
    assert (data.image_size, data.augmentation.resized_crop, data.augmentation.flip) == (7, 7, True)
    assert data.augmentation.colour_jitter == (0.4, 0.4, 0.4, 0.2)
    assert torch.equal(data.train.inputs, whole.train.inputs)
    assert len(list((tmp_path / "cache" / "decoded").glob("*.safetensors"))) == 1  # which both read
    assert whole.augmentation == Augmentation()
    assert data.evaluation_transform()(data.test.inputs, None).shape == (12, 3, 7, 7)
    batch, _ = next(InfiniteLoader(data.train, batch_size=4, seed=0, transform=data.training_transform()).batches())
    assert batch.shape == (4, 3, 7, 7)
    by_default = load(f"folder:{folder}", root=tmp_path / "cache", augmentation="imagenet")
    assert (by_default.image_size, by_default.train.inputs.shape[2:]) == (224, (256, 256))
    for options, message in (
        ({"augmentation": "cifar"}, "augmentation must be one of shift, imagenet, none"),
        ({"augmentation": "imagenet", "image_size": (7, 9)}, "square parts"),
        ({"augmentation": "imagenet", "image_size": 4000}, "8/7 of image_size"),
    ):
        with pytest.raises(OptionError, match=message):
            load(f"folder:{folder}", root=tmp_path / "cache", **options)
    with pytest.raises(OptionError, match="augmentation goes with folder:PATH"):
        load("digits", augmentation="none")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2"])
@pytest.mark.parametrize("prefix", [".", "around", "a/b"])
def test_a_tar_gives_what_its_folder_gives(tmp_path, suffix, prefix):
    folder = class_folders(tmp_path / "images")
    expected = load(f"folder:{folder}", root=tmp_path / "cache")
    data = load(f"folder:{tar_of(folder, tmp_path / f'set{suffix}', prefix=prefix)}", root=tmp_path / "cache")
    assert torch.equal(data.train.inputs, expected.train.inputs)
    assert torch.equal(data.test.inputs, expected.test.inputs)
    assert torch.equal(data.test.targets, expected.test.targets)
    assert data.classes == expected.classes


def test_unpacking_and_decoding_happen_once_and_again_after_a_change(tmp_path, monkeypatch):
    calls: list[str] = []
    for module, name in ((folder_module, "decompress"), (folder_module, "decode_all")):
        original = getattr(module, name)

        def counted(*args, original=original, name=name, **options):
            calls.append(name)
            return original(*args, **options)

        monkeypatch.setattr(module, name, counted)
    folder = class_folders(tmp_path / "images")
    packed = tar_of(folder, tmp_path / "set.tar.gz")
    first = load(f"folder:{packed}", root=tmp_path / "cache")
    assert calls == ["decompress", "decode_all", "decode_all"]
    again = load(f"folder:{packed}", root=tmp_path / "cache")
    assert len(calls) == 3
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert (first.mean, first.std, first.classes) == (again.mean, again.std, again.classes)
    (folder / "train" / "class0" / "new.png").write_bytes(picture(9))
    packed = tar_of(folder, packed)
    assert len(load(f"folder:{packed}", root=tmp_path / "cache").train) == 13


@pytest.mark.parametrize("damage", ["truncated", "flipped header", "other content"])
def test_a_damaged_cache_is_made_again(tmp_path, damage):
    folder = class_folders(tmp_path / "images")
    expected = load(f"folder:{folder}", root=tmp_path / "cache")
    (cached,) = (tmp_path / "cache" / "decoded").glob("*.safetensors")
    content = bytearray(cached.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped header":
        content[12] ^= 255
    else:
        content = content.replace(b"train_inputs", b"other_inputs")
    cached.write_bytes(content)
    assert torch.equal(load(f"folder:{folder}", root=tmp_path / "cache").train.inputs, expected.train.inputs)


def test_a_cache_that_cannot_be_written_is_a_warning_and_the_data_is_there(tmp_path, monkeypatch):
    folder = class_folders(tmp_path / "images")

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("archgrad.data.cache.partial_file", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert len(load(f"folder:{folder}", root=tmp_path / "cache").train) == 12
    with pytest.raises(DataError, match=r"No space left.*ARCHGRAD_DATA"):
        load(f"folder:{tar_of(folder, tmp_path / 'set.tar')}", root=tmp_path / "cache")


def test_without_a_test_folder_a_fifth_of_each_class_becomes_the_test_set(tmp_path):
    folder = class_folders(tmp_path / "images", splits=("",), classes=2, each=10)
    data = load(f"folder:{folder}", root=tmp_path / "cache")
    assert data.train.targets.bincount().tolist() == [8, 8]
    assert data.test.targets.bincount().tolist() == [2, 2]
    again = load(f"folder:{folder}", root=tmp_path / "other")
    assert torch.equal(data.test.inputs, again.test.inputs)
    everything = torch.cat([data.train.inputs, data.test.inputs]).flatten(1)
    assert len(everything.unique(dim=0)) == 20


def test_val_is_taken_for_test_and_hidden_files_and_other_files_are_left_out(tmp_path):
    folder = class_folders(tmp_path / "images", splits=("train", "val"))
    (folder / "train" / ".cache").mkdir()
    (folder / "train" / "class0" / "._0.png").write_bytes(b"rubbish")
    (folder / "train" / "class0" / "notes.txt").write_text("rubbish")
    deep = folder / "train" / "class0" / "more"
    deep.mkdir()
    (deep / "x.PNG").write_bytes(picture(1))
    data = load(f"folder:{folder}", root=tmp_path / "cache")
    assert data.train.targets.bincount().tolist() == [5, 4, 4]
    assert len(data.test) == 12


def test_images_of_other_sizes_are_cut_and_resized_to_the_commonest(tmp_path):
    folder = class_folders(tmp_path / "images")
    for number, size in enumerate([(30, 16), (16, 16), (5, 40)]):
        (folder / "train" / "class0" / f"odd{number}.png").write_bytes(picture(7, size=size))
    with pytest.warns(
        UserWarning, match="2 of 15 training images .* another shape.* the central square .* up to 88% of it"
    ):
        data = load(f"folder:{folder}", root=tmp_path / "cache")
    assert data.train.inputs.shape == (15, 3, 8, 8)
    with pytest.warns(UserWarning, match="have another shape"):
        larger = load(f"folder:{folder}", root=tmp_path / "cache", image_size=12)
    assert larger.train.inputs.shape == (15, 3, 12, 12)


def test_a_wrong_guess_of_the_size_from_a_few_images_is_corrected(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "_SURVEY_IMAGES", 1)
    folder = class_folders(tmp_path / "images")
    (folder / "train" / "class0" / "0.png").write_bytes(picture(7, size=(20, 20), mode="L"))
    data = load(f"folder:{folder}", root=tmp_path / "cache")
    assert data.train.inputs.shape == (12, 3, 8, 8)


def test_grey_images_have_one_channel_and_become_colour_beside_colour(tmp_path):
    folder = tmp_path / "images"
    for label in "ab":
        (folder / label).mkdir(parents=True)
        for number in range(2):
            (folder / label / f"{number}.jpg").write_bytes(picture(90, mode="L", form="JPEG"))
    grey = load(f"folder:{folder}", root=tmp_path / "cache")
    assert grey.channels == grey.train.inputs.shape[1] == len(grey.mean) == 1
    (folder / "a" / "1.jpg").write_bytes(picture(90, form="JPEG"))
    mixed = load(f"folder:{folder}", root=tmp_path / "cache")
    assert mixed.channels == 3


def test_beyond_the_memory_limit_images_stay_in_their_files_and_give_the_same(tmp_path):
    folder = class_folders(tmp_path / "images")
    packed = tar_of(folder, tmp_path / "set.tar.xz")
    expected = load(f"folder:{folder}", root=tmp_path / "cache")
    for source in (folder, packed):
        for _ in range(2):  # the second time from cached facts
            data = load(f"folder:{source}", root=tmp_path / "cache", memory_limit=100)
            assert isinstance(data.train, ImageFiles)
            assert (data.mean, data.std, data.image_size) == (expected.mean, expected.std, expected.image_size)
            assert torch.equal(torch.stack([image for image, _ in data.train]), expected.train.inputs)
            assert [target for _, target in data.test] == expected.test.targets.tolist()
    transform = expected.training_transform()
    options = {"batch_size": 5, "seed": 3, "transform": transform}
    with InfiniteLoader(data.train, workers=1, **options) as lazy:
        for (a, b), (c, d), _ in zip(
            lazy.batches(), InfiniteLoader(expected.train, **options).batches(), range(6), strict=False
        ):
            assert torch.equal(a, c)
            assert torch.equal(b, d)


def test_a_file_removed_during_the_run_is_named(tmp_path):
    folder = class_folders(tmp_path / "images")
    data = load(f"folder:{folder}", root=tmp_path / "cache", memory_limit=0)
    (folder / "train" / "class1" / "0.png").unlink()
    stream = InfiniteLoader(data.train, batch_size=12, seed=0)
    with pytest.raises(DataError, match=r"class1/0\.png cannot be read"):
        next(stream.batches())


@pytest.mark.parametrize("memory_limit", [None, 0])
def test_a_corrupt_image_is_named(tmp_path, memory_limit):
    folder = class_folders(tmp_path / "images")
    bad = folder / "train" / "class1" / "2.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(DataError, match=r"class1/2\.png cannot be read as an image"):
        load(f"folder:{folder}", root=tmp_path / "cache", memory_limit=memory_limit)
    packed = tar_of(folder, tmp_path / "set.tar")
    with pytest.raises(DataError, match=r"set\.tar: .*class1/2\.png cannot be read as an image"):
        load(f"folder:{packed}", root=tmp_path / "cache", memory_limit=memory_limit)
    assert not list((tmp_path / "cache" / "decoded").glob("*.safetensors"))


def test_layouts_that_make_no_data_are_refused_with_the_remedy(tmp_path):
    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message):
            load(f"folder:{tmp_path / 'images'}", root=tmp_path / "cache")

    refused("does not exist. Give folder:PATH")
    (tmp_path / "images").mkdir()
    refused("0 class folders .* at least 2")
    class_folders(tmp_path / "images", classes=1)
    refused(r"1 class folders \['class0'\], but at least 2")
    (tmp_path / "images" / "train" / "empty").mkdir()
    refused(r"no images for the classes \['empty'\]")
    (tmp_path / "images" / "train" / "empty" / "x.png").write_bytes(picture(3))
    (tmp_path / "images" / "test" / "stranger").mkdir()
    refused(r"no training images for the classes \['stranger'\]")
    (tmp_path / "images" / "test" / "stranger").rmdir()
    (tmp_path / "images" / "cat").mkdir()
    refused(r"'train' beside \['cat'\]")


def test_a_class_of_one_image_needs_a_test_folder(tmp_path):
    folder = class_folders(tmp_path / "images", splits=("",), classes=2, each=1)
    with pytest.raises(DataError, match=r"single image for the classes \['class0', 'class1'\]"):
        load(f"folder:{folder}", root=tmp_path / "cache")
    folder = class_folders(tmp_path / "other", classes=2, each=1)
    (folder / "test" / "class0" / "0.png").unlink()
    (folder / "test" / "class1" / "0.png").unlink()
    with pytest.raises(DataError, match="test folder without images"):
        load(f"folder:{folder}", root=tmp_path / "cache")


def test_a_file_that_is_no_tar_is_refused(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(picture(1))
    with pytest.raises(DataError, match="neither a folder nor a tar"):
        load(f"folder:{tmp_path / 'photo.jpg'}", root=tmp_path / "cache")


def test_options_of_folders_are_checked_and_refused_elsewhere(tmp_path):
    folder = class_folders(tmp_path / "images")
    with pytest.raises(OptionError, match="image_size must be a whole number of at least 1, but got image_size=0"):
        load(f"folder:{folder}", root=tmp_path / "cache", image_size=0)
    with pytest.raises(OptionError, match="memory_limit must be a whole number of at least 0, but got memory_limit=-1"):
        load(f"folder:{folder}", root=tmp_path / "cache", memory_limit=-1)
    with pytest.raises(OptionError, match=r"goe?s? with folder:PATH, but the data is 'digits'"):
        load("digits", image_size=8)


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_folder_without_permission_names_the_remedy(tmp_path):
    folder = class_folders(tmp_path / "images")
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(DataError, match=r"cannot be written.*ARCHGRAD_DATA"):
        load(f"folder:{folder}", root=tmp_path / "closed" / "cache")


@pytest.mark.slow
@pytest.mark.shared
def test_the_reference_tar_is_listed_right_and_loads_whole(shared_dir, tmp_path):
    archive, plain = shared_dir / "data" / "cifar10-jpeg.tar.xz", tmp_path / "plain.tar"
    archive_module.decompress(archive, plain)
    listing = folder_module.list_classes(archive_module.read_tar(plain, archive), archive)
    assert listing.classes == (
        *("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    )
    assert listing.train_targets.bincount().tolist() == [5000] * 10
    assert listing.test_targets.bincount().tolist() == [1000] * 10
    some = ImageFiles(listing.train[::2500], listing.train_targets[::2500], image_size=32, channels=3)
    with tarfile.open(plain) as tar:
        for (pixels, target), stored in zip(some, some.images, strict=True):
            name = stored.name.split(": ")[1]
            assert listing.classes[target] in name
            expected = np.asarray(Image.open(tar.extractfile(name))).transpose(2, 0, 1)
            assert np.array_equal(pixels.numpy(), expected)
    data = load(f"folder:{plain}", root=tmp_path / "cache")
    assert data.train.inputs.shape == (50_000, 3, 32, 32)
    assert data.test.inputs.shape == (10_000, 3, 32, 32)
    # CIFAR-10's own constants, but for what JPEG loses.
    assert data.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=0.001)
    assert data.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=0.003)


def test_folders_inside_each_other_have_a_limit(tmp_path):
    folder = class_folders(tmp_path / "images")
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(1200):  # by steps, as no path may be so long
        os.mkdir("deeper", dir_fd=descriptor)
        below = os.open("deeper", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    with pytest.raises(DataError, match=r"64 folders deep\. Name a folder nearer"):
        load(f"folder:{folder}", root=tmp_path / "cache")
    subprocess.run(["rm", "-rf", str(folder / "deeper")], check=False)


def test_classes_whose_folders_are_no_text_are_refused_before_training(tmp_path):
    folder = class_folders(tmp_path / "images")
    for split in ("train", "test"):
        os.rename(folder / split / "class0", os.fsencode(folder / split) + b"/caf\xe9")
    with pytest.raises(DataError, match=r"Unicode text.*caf\\udce9.*Rename it, or its folder"):
        load(f"folder:{folder}", root=tmp_path / "cache")
