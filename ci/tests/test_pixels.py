"""Pictures of strangers: what Pillow alone would show wrongly, or unpack to gigabytes."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from zvl.data.pixels import decode_image, read_image, to_pixels
from zvl.data.rows import Fault


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_keep_their_upper_8_and_do_not_turn_white(kind):
    values = np.random.default_rng().integers(0, 1 << 16, (9, 7)).astype(np.uint16)
    shown = np.asarray(decode_image(encoded(Image.fromarray(values), kind)))
    assert (shown == (values >> 8)[:, :, None]).all()


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "PNG"),
        encoded(Image.new("LA", (4, 4), (7, 0)), "PNG"),
        encoded(Image.new("RGB", (4, 4), (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
        encoded(Image.new("P", (4, 4)), "PNG", transparency=0),
        encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "WEBP", lossless=True, exact=True),
    ],
    ids=["RGBA", "LA", "RGB", "P", "WEBP"],
)
def test_transparent_parts_show_white_and_no_hidden_colour(data):
    assert decode_image(data).getpixel((0, 0)) == (255, 255, 255)


def test_half_transparent_is_half_white():
    assert decode_image(encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 128)), "PNG")).getpixel((0, 0)) == (
        255,
        127,
        127,
    )


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    red, green, blue = decode_image(
        encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    ).getpixel((4, 4))
    assert red > 250 and green < 5 and blue < 5


def test_a_bomb_is_refused_by_its_header_alone():
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", b"never looked at")
        + chunk(b"IEND", b"")
    )
    with pytest.raises(Fault, match="over 50000000 pixels"):
        decode_image(bomb)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        encoded(Image.effect_noise((64, 64), 50), "JPEG")[:-300],
        encoded(Image.effect_noise((64, 64), 50), "PNG")[:-300],
        encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",  # Pillow would start a program for it
    ],
    ids=["empty", "text", "cut JPEG", "cut PNG", "floats", "EPS"],
)
def test_what_is_no_picture_is_a_fault_with_a_reason(data, tmp_path):
    with pytest.raises(Fault) as caught:
        decode_image(data)
    assert "0x" not in caught.value.reason, "an address would make each reason another one"
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.jpg: not a readable picture"):
        read_image(str(tmp_path / "x.jpg"))


def test_a_picture_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.png: not a readable picture"):
        read_image(str(tmp_path / "gone.png"))


def test_plain_pictures_are_as_pillow_has_them():
    noise = Image.fromarray(np.random.default_rng().integers(0, 256, (30, 40, 3), np.uint8))
    for data in (encoded(noise, "PNG"), encoded(noise, "JPEG"), encoded(noise.convert("CMYK"), "JPEG")):
        with Image.open(io.BytesIO(data)) as image:
            assert torch.equal(to_pixels([decode_image(data)], 16), to_pixels([image.convert("RGB")], 16))
