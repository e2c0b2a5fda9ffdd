"""Photos as cameras, browsers and archives leave them."""

import os

import numpy as np
import pytest
import torch
from image_files import class_folders, picture
from PIL import Image

import archgrad as ag
from archgrad.data import ImageTransform, InfiniteLoader, evaluation_batches, load
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


def test_sixteen_bits_reach_the_network_as_they_are(tmp_path):
    """A scanner of 12 bits in files of 16 uses a sixteenth of the range, of which 8 bits would leave 16 shades."""
    folder = tmp_path / "scans"
    for label in range(2):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(5):
            values = np.random.default_rng(number).integers(0, 4096, (8, 8)).astype(np.uint16)
            Image.fromarray(values).save(folder / f"class{label}" / f"{number}.png")
    (folder / "class0" / "light.png").write_bytes(picture(9, mode="L"))
    for again in range(2):  # the second time from the cache
        data = loaded(folder, tmp_path)
        assert data.train.inputs.dtype == torch.uint16, again
        images = data.evaluation_transform()(data.train.inputs, None)
        assert images.std() == pytest.approx(1, abs=0.01)
        assert len(images[1].unique()) > 55
    lazy = loaded(folder, tmp_path, memory_limit=0)
    assert lazy.mean == pytest.approx(data.mean)
    assert torch.equal(lazy.train[0][0], data.train.inputs[0])
    (batch, _), *_ = evaluation_batches(lazy.train, batch_size=4)
    assert batch.dtype == torch.uint16
    with InfiniteLoader(data.train, batch_size=4, seed=0, transform=data.training_transform()) as stream:
        assert next(stream.batches())[0].dtype == torch.float32


def test_two_sizes_and_a_fit(tmp_path):
    folder = class_folders(tmp_path / "images")
    (folder / "train" / "class0" / "wide.png").write_bytes(picture(5, size=(30, 10)))
    with pytest.warns(UserWarning, match=r"leaves out up to 67% of it.* give fit='pad'"):
        loaded(folder, tmp_path)
    for fit in ("squash", "pad"):
        data = loaded(folder, tmp_path, fit=fit, image_size=(4, 12))
        assert data.train.inputs.shape[1:] == (3, 4, 12)
        assert (data.image_size, data.fit) == (4, fit)
        assert torch.equal(
            loaded(folder, tmp_path, fit=fit, image_size=(4, 12), memory_limit=0).train[2][0], data.train[2][0]
        )
    with pytest.raises(ag.errors.OptionError, match="fit must be one of crop, squash, pad"):
        loaded(folder, tmp_path, fit="stretch")
    with pytest.raises(ag.errors.OptionError, match="fit goes with folder:PATH"):
        load("digits", fit="pad")


@pytest.mark.parametrize("memory_limit", [None, 0])
def test_unreadable_images_are_all_named_at_once_or_left_out_and_counted(tmp_path, memory_limit):
    folder = class_folders(tmp_path / "images", each=5)
    whole = loaded(folder, tmp_path, memory_limit=memory_limit)
    broken = [
        folder / "train" / "class0" / "1.png",
        folder / "train" / "class2" / "4.png",
        folder / "test/class1/0.png",
    ]
    for file in broken:
        file.write_bytes(b"")
    with pytest.raises(DataError, match="3 of 30 images cannot be used") as refusal:
        loaded(folder, tmp_path, memory_limit=memory_limit)
    assert all(str(file) in str(refusal.value) for file in broken)
    truncated = picture(7)
    broken[0].write_bytes(truncated[: len(truncated) // 2])
    for _ in range(2):
        with pytest.warns(UserWarning, match="^3 images of .* cannot be read and left out"):
            data = loaded(folder, tmp_path, memory_limit=memory_limit, skip_unreadable=True)
        assert (len(data.train), len(data.test)) == (13, 14)
        assert data.train_targets.bincount().tolist() == [4, 5, 4]
        assert torch.equal(data.train[1][0], whole.train[2][0])
    for file in (folder / "train" / "class1").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match="no readable training image of the class 'class1'"):
        loaded(folder, tmp_path, memory_limit=memory_limit, skip_unreadable=True)


def test_a_val_folder_beside_train_and_test_is_for_the_alphas(tmp_path):
    folder = class_folders(tmp_path / "images", splits=("train", "val", "test"))
    for memory_limit in (None, None, 0):
        data = loaded(folder, tmp_path, memory_limit=memory_limit)
        weights, alphas = data.halves(fraction=0.5, seed=0)
        assert (len(weights.indices), len(alphas.indices), len(data.test)) == (12, 12, 12)
        assert alphas.samples is data.valid
        assert len(data.whole().train_targets) == 24
    (folder / "test").rename(tmp_path / "away")
    assert loaded(folder, tmp_path).valid is None  # the only other part is for the report


def test_images_that_are_drawn_in_their_transparency_alone_are_told_of(tmp_path):
    folder = class_folders(tmp_path / "images")
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[2:5, 2:5, 3] = 255  # a black square on nothing
    Image.fromarray(pixels).save(folder / "train" / "class0" / "icon.png")
    with pytest.warns(UserWarning, match=r"1 of 13 training images .* of one colour all over, such as .*icon\.png"):
        loaded(folder, tmp_path)
