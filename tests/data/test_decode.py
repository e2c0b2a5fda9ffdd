"""Images are checked before they are decoded, and resized as said."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import picture
from PIL import Image

from archgrad.data import decode_many
from archgrad.data.decode import decode, read_header
from archgrad.data.decode_many import decode_all
from archgrad.data.listing import StoredImage
from archgrad.errors import DataError


def stored(path, content: bytes) -> StoredImage:
    path.write_bytes(content)
    return StoredImage(path, str(path), 0, len(content), 0)


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(7100, 7100), (20_000, 5000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_image_bombs_are_refused_by_their_header(tmp_path, size):
    bomb = stored(tmp_path / "bomb.png", png_that_claims(*size))
    with pytest.raises(DataError, match=r"bomb\.png (is refused: it has .* pixels|cannot be read)"):
        decode(bomb, image_size=8, channels=3)
    with pytest.raises(DataError, match=r"bomb\.png"):
        read_header(bomb)


def test_the_other_size_is_the_central_square_resized(tmp_path):
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 200  # the central square
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    result, header = decode(stored(tmp_path / "x.png", file.getvalue()), image_size=5, channels=3)
    assert result.shape == (3, 5, 5)
    assert (result == 200).all()
    assert header == (10, 30, True, 8)
    assert header.cut(5, 5) == 1 - 10 / 30


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_format_is_read(tmp_path, form, channels):
    result, _ = decode(stored(tmp_path / "x", picture(100, form=form)), image_size=8, channels=channels)
    assert result.shape == (channels, 8, 8)
    assert result.dtype == np.uint8
    assert abs(float(result.mean()) - 100) < 10


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"])
def test_each_mode_of_pixels_is_read(tmp_path, mode):
    file = io.BytesIO()
    form = "TIFF" if mode in ("CMYK", "PA") else "PNG"
    image = Image.open(io.BytesIO(picture(100))).convert("P").convert(mode) if mode == "PA" else None
    (image or Image.open(io.BytesIO(picture(100))).convert(mode)).save(file, form)
    for channels in (1, 3):
        result, header = decode(stored(tmp_path / "x", file.getvalue()), image_size=8, channels=channels)
        assert result.shape == (channels, 8, 8)
    assert header.colour == (mode not in ("1", "L", "LA"))


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path):
    image = Image.open(io.BytesIO(picture(100))).convert("P")
    file = io.BytesIO()
    image.save(file, "PNG", transparency=bytes(range(256)))
    assert decode(stored(tmp_path / "x.png", file.getvalue()), image_size=8, channels=3)[0].shape == (3, 8, 8)


def deep(path, values, form="PNG"):
    Image.fromarray(np.asarray(values)).save(path, form)
    return StoredImage(path, path.name, 0, 0, 0)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_kept_or_rounded_to_eight(tmp_path, form):
    values = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    image = deep(tmp_path / "x", values, form)
    pixels, header = decode(image, image_size=8, channels=1, bits=16)
    assert pixels.dtype == np.uint16
    assert np.array_equal(pixels[0], values)
    assert header == (8, 8, False, 16)
    eight, _ = decode(image, image_size=8, channels=3)
    assert np.array_equal(eight[2], np.round(values / 257))
    assert decode(image, image_size=8, channels=1, bits=None)[0].dtype == np.uint16
    light = stored(tmp_path / "y", picture(200, mode="L"))
    of_eight = decode(light, image_size=8, channels=1)[0]
    assert np.array_equal(decode(light, image_size=8, channels=1, bits=16)[0], of_eight.astype(np.uint16) * 257)


def test_values_beyond_sixteen_bits_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds the values 0 to 70000, but 16 bits reach"):
        decode(deep(tmp_path / "x", np.int32([[0, 70_000]] * 2), "TIFF"), image_size=8, channels=1)
    with pytest.raises(DataError, match="floating-point values"):
        decode(deep(tmp_path / "x", np.float32([[0, 0.5]] * 2), "TIFF"), image_size=8, channels=1)


@pytest.mark.parametrize("bits", [8, 16])
def test_images_of_another_shape_are_cut_squeezed_or_padded(tmp_path, bits):
    values = np.repeat(np.array([0, 0, 1, 2, 3, 3]) * 60, 4)[None].repeat(8, 0)  # 8 x 24, six parts of 4 pixels
    image = deep(tmp_path / "x.png", values.astype(f"uint{bits}"))

    def row(fit, size=(4, 4)):
        pixels, _ = decode(image, image_size=size, channels=1, bits=bits, fit=fit)
        assert pixels.shape == (1, *size)
        return pixels[0]

    assert (row("crop")[:, :2] < row("crop")[:, 2:]).all()
    assert row("crop").min() >= 55  # neither the dark left nor the light right
    assert row("crop").max() <= 125
    assert row("squash").min() < 10
    assert row("squash").max() > 170
    padded = row("pad", (6, 6))
    assert (padded[:2] == 0).all()
    assert (padded[4:] == 0).all()
    assert padded[2].max() > 170
    assert np.array_equal(
        row("crop", (4, 12)), row("squash", (4, 12))
    )  # of the image's own shape there is nothing to do
    assert np.array_equal(row("pad", (4, 12)), row("squash", (4, 12)))


def test_formats_that_run_a_program_are_not_read(tmp_path):
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    with pytest.raises(DataError, match="cannot be read as an image"):
        decode(stored(tmp_path / "x.png", content), image_size=8, channels=3)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    form=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"]),
    changes=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=6),
    keep=st.integers(0, 600),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_damaged_image_decodes_or_is_refused_with_our_own_error(tmp_path, form, changes, keep):
    content = bytearray(picture(120, form=form))
    for place, value in changes:
        content[place % len(content)] = value
    image = stored(tmp_path / "x", bytes(content[:keep]))
    try:
        pixels, _ = decode(image, image_size=8, channels=3)
    except DataError:
        with pytest.raises(DataError, match=re.escape(image.name)):
            decode(image, image_size=8, channels=3)
    else:
        assert pixels.shape == (3, 8, 8)


def test_worker_processes_decode_what_one_process_decodes_and_name_what_they_cannot(tmp_path, monkeypatch):
    images = [stored(tmp_path / f"{number}.png", picture(number)) for number in range(30)]
    alone, headers = decode_all(images, image_size=8, channels=3)
    monkeypatch.setattr(decode_many, "_WORTH_WORKERS", 1)
    monkeypatch.setattr(decode_many, "_CHUNK_BYTES", 700)
    together, same_headers = decode_all(images, image_size=8, channels=3)
    assert (alone == together).all()
    assert headers == same_headers
    images[17].path.write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"^[^\n]*17\.png cannot be read as an image: [^\n]*$"):
        decode_all(images, image_size=8, channels=3)
