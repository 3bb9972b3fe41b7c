"""Image files: what is read, what is refused in one sentence, and that writing is whole or not at all."""

from __future__ import annotations

import hashlib
import os
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
import pyvips
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support import tiny
from xpsr_sdk import ImageError
from xpsr_sdk.data.files import READABLE, WRITABLE, find_images
from xpsr_sdk.data.images import (
    read_image,
    read_picture,
    resize,
    to_image,
    to_tensor,
    write_image,
)
from xpsr_sdk.files.writing import write_whole

PHOTO = tiny.photo(24, 16)


def pixels(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(image, int)


def one_sentence(error: pytest.ExceptionInfo[ImageError], file: Path) -> bool:
    text = str(error.value)
    return text.startswith(str(file)) and "\n" not in text and text.endswith(".") and len(text) < len(str(file)) + 200


# Reading


@pytest.mark.parametrize("suffix", sorted(READABLE))
def test_every_type_is_read(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"photo{suffix}"
    if suffix in (".heic", ".heif"):
        pillow_heif.from_pillow(PHOTO).save(file, quality=95)
    else:
        PHOTO.save(file)
    item = read_image(file)
    assert (item.image.mode, item.image.size) == ("RGB", (24, 16))
    assert np.abs(pixels(item.image) - pixels(PHOTO)).mean() < 12
    assert item.path == file
    assert item.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    PHOTO.save(tmp_path / "photo.png", exif=exif)
    image = read_image(tmp_path / "photo.png").image
    assert image.size == ((16, 24) if orientation >= 5 else (24, 16))
    turned = {1: PHOTO, 3: PHOTO.rotate(180), 6: PHOTO.rotate(-90, expand=True), 8: PHOTO.rotate(90, expand=True)}
    if orientation in turned:
        assert np.array_equal(pixels(image), pixels(turned[orientation]))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_gray_keeps_its_range(tmp_path: Path, suffix: str) -> None:
    levels = np.array([[0, 257, 32896, 65535]], np.uint16).repeat(4, 0)
    Image.fromarray(levels).save(tmp_path / f"gray{suffix}")
    image = read_image(tmp_path / f"gray{suffix}").image
    assert pixels(image)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparent_parts_lie_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2, :, 3] = 255  # black above, nothing below
    Image.fromarray(rgba).save(tmp_path / "photo.png")
    image = pixels(read_image(tmp_path / "photo.png").image)
    assert image[:2].max() == 0
    assert image[2:].min() == 255


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    PHOTO.convert("L").convert(mode).save(tmp_path / "photo.png")
    image = read_image(tmp_path / "photo.png").image
    assert image.mode == "RGB"
    assert np.ptp(pixels(image), axis=2).max() <= 1


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save(tmp_path / "photo.png", transparency=0)
    assert pixels(read_image(tmp_path / "photo.png").image).min() == 255


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "photo.jpg", quality=95)
    red = pixels(read_image(tmp_path / "photo.jpg").image)[16, 16]
    assert red[0] > 240
    assert red[1:].max() < 40


def test_a_photo_of_a_camera_with_a_preview_behind_it(tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    PHOTO.save(file, format="MPO", save_all=True, append_images=[tiny.photo(12, 8, seed=1)])
    with Image.open(file) as image:
        assert (image.format, getattr(image, "n_frames", 1)) == ("MPO", 2)
    image = read_image(file).image
    assert image.size == (24, 16)
    assert np.abs(pixels(image) - pixels(PHOTO)).mean() < 12


# What is refused


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist") as error:
        read_image(tmp_path / "none.png")
    assert one_sentence(error, tmp_path / "none.png")


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read: it is a folder") as error:
        read_image(tmp_path)
    assert one_sentence(error, tmp_path)


@pytest.mark.parametrize("content", [b"", b"just text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0junk"])
def test_something_else_with_the_suffix_of_an_image(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(content)
    with pytest.raises(ImageError, match=r"is (not an image|damaged|empty)") as error:
        read_image(file)
    assert one_sentence(error, file)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_file(tmp_path: Path, suffix: str, share: float) -> None:
    file = tmp_path / f"photo{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(ImageError, match=r"is (damaged|not an image)") as error:
        read_image(file)
    assert one_sentence(error, file)


@pytest.mark.parametrize("suffix", [".avif", ".gif", ".webp", ".png"])
def test_an_animation(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"photo{suffix}"
    PHOTO.save(file, save_all=True, append_images=[tiny.photo(24, 16, seed=1)])
    with pytest.raises(ImageError, match=r"is animated \(2 frames\): only still images") as error:
        read_image(file)
    assert one_sentence(error, file)


def test_a_png_that_is_larger_than_pillow_takes(tmp_path: Path) -> None:
    pyvips.Image.black(15000, 12500).write_to_file(str(tmp_path / "photo.png"))
    assert read_picture(tmp_path / "photo.png", max_megapixels=300).size == (15000, 12500)


def test_a_file_of_several_pages(tmp_path: Path) -> None:
    PHOTO.save(tmp_path / "scan.tif", save_all=True, append_images=[PHOTO])
    with pytest.raises(ImageError, match=r"scan.tif has 2 pages: only single images are restored\.$"):
        read_image(tmp_path / "scan.tif")


def test_levels_without_a_known_white(tmp_path: Path) -> None:
    Image.new("F", (24, 16)).save(tmp_path / "heights.tif")
    with pytest.raises(ImageError, match=r"heights.tif holds levels of type float: save it with 8 or 16 bits"):
        read_image(tmp_path / "heights.tif")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
def test_a_decompression_bomb(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"photo{suffix}"
    PHOTO.resize((1200, 1000)).save(file)
    message = r"is refused as too large: 1200x1000 is 1\.2 megapixels, and the limit is 1 \(max_megapixels\)\.$"
    with pytest.raises(ImageError, match=message) as error:
        read_image(file, max_megapixels=1)
    assert one_sentence(error, file)
    assert read_image(file, max_megapixels=1.2).image.size == (1200, 1000)


def test_a_header_that_promises_more_than_any_photo_has(tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    PHOTO.save(file)
    content = bytearray(file.read_bytes())
    content[16:24] = (60000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    file.write_bytes(content)
    with pytest.raises(ImageError, match=r"60000x60000 is 3600\.0 megapixels, and the limit is 300"):
        read_image(file)


def test_heic_without_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif.from_pillow(PHOTO).save(tmp_path / "photo.heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"photo.heic is HEIC, which needs the extra xpsr-sdk\[heic\]\.$"):
        read_image(tmp_path / "photo.heic")


# Writing


@pytest.mark.parametrize("suffix", sorted(WRITABLE))
def test_every_type_is_written(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / "new" / f"photo{suffix.upper()}"
    write_image(PHOTO, file)
    assert np.abs(pixels(read_image(file).image) - pixels(PHOTO)).mean() < 12
    assert os.listdir(file.parent) == [file.name]


def test_another_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot write \.gif; use one of \.avif, .*\.webp"):
        write_image(PHOTO, tmp_path / "photo.gif")
    assert not os.listdir(tmp_path)


def test_more_pixels_than_the_type_can_hold(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"photo\.webp cannot be written: .*16383") as error:
        write_image(Image.new("RGB", (16384, 1)), tmp_path / "photo.webp")
    assert one_sentence(error, tmp_path / "photo.webp")
    assert not os.listdir(tmp_path)


def test_a_file_is_closed_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[Any] = []
    replace = os.replace

    def as_on_windows(source: Any, target: Any) -> None:
        assert streams[0].closed
        replace(source, target)

    monkeypatch.setattr(os, "replace", as_on_windows)
    write_whole(tmp_path / "photo.png", streams.append)
    assert os.listdir(tmp_path) == ["photo.png"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_writing_is_whole_or_not_at_all(tmp_path: Path, error: BaseException) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(b"older")

    def half(stream: Any) -> None:
        stream.write(b"half of it")
        raise error

    expected = ImageError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_whole(file, half)
    assert file.read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["photo.png"]


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ImageError, match=r"cannot be written"):
        write_image(PHOTO, tmp_path / "file" / "photo.png")


# Folders and sizes


def test_images_are_found_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/z.jpg", "a/notes.txt", "c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [str(p.relative_to(tmp_path)) for p in find_images(tmp_path)] == ["a/z.jpg", "b.PNG", "c.webp"]


def test_hidden_files_are_left_out_with_a_word(tmp_path: Path) -> None:
    for name in ("a.png", "._a.png", ".thumbnails/a.png", ".DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match=r"2 hidden images are left out, such as \."):
        assert find_images(tmp_path) == [tmp_path / "a.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    for name in ("photos/trip", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.jfif").touch()
    for name, target in (("album", "../elsewhere"), ("again", "../elsewhere"), ("loop", "."), ("known", "trip")):
        (tmp_path / "photos" / name).symlink_to(target)
    found = [str(p.relative_to(tmp_path / "photos")) for p in find_images(tmp_path / "photos")]
    assert found == ["again/a.jfif", "trip/a.jfif"]


@given(st.integers(1, 40), st.integers(1, 40))
def test_tensors_and_images_hold_the_same_levels(width: int, height: int) -> None:
    image = tiny.photo(width, height)
    assert np.array_equal(pixels(to_image(to_tensor(image))), pixels(image))


@given(*[st.integers(2, 40)] * 4)
def test_resizing_is_bicubic_as_pillow_does_it(width: int, height: int, new_width: int, new_height: int) -> None:
    image = tiny.photo(width, height).point(lambda level: 64 + level // 2)  # Pillow clips halfway
    expected = pixels(image.resize((new_width, new_height), Image.Resampling.BICUBIC))
    found = pixels(to_image(resize(to_tensor(image), new_height, new_width)))
    assert np.abs(found - expected).max() <= 2


def test_the_same_size_is_left_alone() -> None:
    image = torch.rand(1, 3, 5, 7)
    assert resize(image, 5, 7) is image
