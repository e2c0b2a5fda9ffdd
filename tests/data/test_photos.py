"""Photos as cameras, browsers and archives leave them."""

import os

import numpy as np
import pytest
import torch
from image_files import class_folders, picture
from PIL import Image

import archgrad as ag
from archgrad.data import ImageTransform, load
from archgrad.data.decode import decode
from archgrad.data.listing import StoredImage
from archgrad.errors import DataError


def loaded(folder, tmp_path, **options):
    return load(f"folder:{folder}", root=tmp_path / "cache", **options)


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_photo_is_the_same_whichever_way_its_camera_was_held(tmp_path, turn):
    upright = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    methods = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # EXIF's number: of the transposition that undoes it
    stored = upright if methods[turn] is None else upright.transpose(Image.Transpose(methods[turn]))
    exif = Image.Exif()
    exif[0x0112] = turn
    stored.save(tmp_path / "photo.png", exif=exif)
    pixels, _ = decode(StoredImage(tmp_path / "photo.png", "photo", 0, 0, 0), image_size=8, channels=3)
    assert np.array_equal(pixels, np.asarray(upright).transpose(2, 0, 1))


def test_links_are_followed_and_loops_and_dead_ends_told(tmp_path):
    folder = class_folders(tmp_path / "images")
    expected = loaded(folder, tmp_path)
    elsewhere = tmp_path / "elsewhere"
    (folder / "train" / "class1").rename(elsewhere)
    (folder / "train" / "class1").symlink_to(elsewhere)
    data = loaded(folder, tmp_path)
    assert data.classes == expected.classes
    assert torch.equal(data.train.inputs, expected.train.inputs)
    (elsewhere / "dead.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(DataError, match=r"dead\.png' is a link that leads nowhere"):
        loaded(folder, tmp_path)
    os.unlink(elsewhere / "dead.png")
    (elsewhere / "loop").symlink_to(folder)
    with pytest.raises(DataError, match="is a link that leads back to a folder around it"):
        loaded(folder, tmp_path)


@pytest.mark.parametrize(("suffix", "form"), [(".jfif", "JPEG"), (".JPE", "JPEG"), (".avif", "AVIF")])
def test_other_names_of_image_files_are_read(tmp_path, suffix, form):
    folder = class_folders(tmp_path / "images")
    (folder / "train" / "class0" / f"photo{suffix}").write_bytes(picture(5, form=form))
    assert len(loaded(folder, tmp_path).train) == 13


def test_images_that_are_left_out_are_counted(tmp_path):
    folder = class_folders(tmp_path / "images")
    for name in ("a.heic", "b.HEIF", "c.dng"):
        (folder / "train" / "class0" / name).write_bytes(b"\0")
    with pytest.warns(UserWarning, match=r"3 images of .* are left out, such as .*a\.heic.* Convert them"):
        assert len(loaded(folder, tmp_path).train) == 12


def test_thumbnails_do_not_make_photos_small(tmp_path):
    folder = tmp_path / "images"
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for number, side in enumerate((4, 30, 31, 32, 33)):
            (folder / label / f"{number}.png").write_bytes(picture(number, size=(side, side)))
    assert loaded(folder, tmp_path).image_size in (30, 31, 32)


def test_whole_numbers_are_images_only_in_the_types_of_image_files():
    def data(dtype, **options):
        pair = torch.utils.data.TensorDataset(torch.ones(6, 2, 5, 6).to(dtype), torch.arange(6) % 2)
        return ag.Data.from_datasets(pair, **options)

    assert [data(dtype).channels for dtype in (torch.uint8, torch.uint16, torch.float32)] == [2, 2, 2]
    words = data(torch.int64)
    assert words.channels == 0
    assert words.training_transform() is None  # so that they reach an Embedding as they are
    assert data(torch.int16).channels == 0
    asked = data(torch.int16, augmentation=ag.data.Augmentation(flip=True))
    assert asked.channels == 2


def test_sixteen_bits_are_scaled_by_what_they_hold():
    for dtype, full in ((torch.uint8, 255), (torch.uint16, 65535), (torch.int16, 1)):
        images = torch.full((1, 1, 2, 2), full, dtype=torch.int32).to(dtype)
        assert torch.equal(ImageTransform()(images, None), torch.ones(1, 1, 2, 2))


def test_cutout_by_default_is_for_pictures():
    from archgrad.retrain.retrain_api import _cutout_side

    def data(inputs, **options):
        return ag.Data.from_datasets(torch.utils.data.TensorDataset(inputs, torch.arange(6) % 2), **options)

    spectrograms = torch.rand(6, 1, 8, 8)
    assert _cutout_side(None, data(spectrograms)) == 0
    assert _cutout_side(4, data(spectrograms)) == 4
    assert _cutout_side(None, data(spectrograms, augmentation=ag.data.Augmentation(flip=True))) == 4
    assert _cutout_side(None, data((spectrograms * 255).byte())) == 4
    assert _cutout_side(None, data(torch.rand(6, 4))) == 0
