"""What is written beside the pixels, and how: resolution, text, quality, pipes."""

from __future__ import annotations

import copy
import pickle
from io import BytesIO, RawIOBase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.support import tiny
from xpsr_sdk import ImageError
from xpsr_sdk.data.images import read_picture, write_image, write_picture
from xpsr_sdk.data.picture import from_pil
from xpsr_sdk.data.writing import save_picture

PHOTO = tiny.photo(24, 16)


@pytest.mark.parametrize("written", [".avif", ".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("read", [".jpg", ".png", ".tif"])
def test_300_dpi_stay_300_dpi(tmp_path: Path, read: str, written: str) -> None:
    PHOTO.save(tmp_path / f"photo{read}", dpi=(300, 300))
    write_picture(read_picture(tmp_path / f"photo{read}"), tmp_path / f"again{written}")
    again = read_picture(tmp_path / f"again{written}")
    assert again.dpi == pytest.approx((300, 300), abs=0.01)
    if written not in (".avif", ".webp"):  # there, Pillow reads it from nowhere
        with Image.open(tmp_path / f"again{written}") as image:
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_photo_without_dpi_gets_none(tmp_path: Path, suffix: str) -> None:
    write_image(PHOTO, tmp_path / f"photo{suffix}")
    with Image.open(tmp_path / f"photo{suffix}") as image:
        assert "dpi" not in image.info
    assert read_picture(tmp_path / f"photo{suffix}").dpi is None


def test_a_resolution_that_no_file_can_hold_is_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tiny.PHOTO.save(tmp_path / "a.bmp")
    content = bytearray((tmp_path / "a.bmp").read_bytes())
    content[38:46] = b"\xff\xff\xff\xff" * 2  # pixels a metre, across and down
    (tmp_path / "a.bmp").write_bytes(bytes(content))
    picture = read_picture(tmp_path / "a.bmp")
    write_picture(picture, tmp_path / "a.png")
    assert picture.dpi is None
    assert not capfd.readouterr().err


def test_a_jpeg_file_holds_65500_pixels_in_a_row(tmp_path: Path) -> None:
    write_picture(from_pil(Image.new("L", (1, 65500))), tmp_path / "a.jpg")
    with pytest.raises(ImageError, match=r"1x65501 is more than .jpg holds, 65500 pixels"):
        write_picture(from_pil(Image.new("L", (1, 65501))), tmp_path / "b.jpg")


def test_text_in_a_png_file_is_kept(tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "A house")
    texts.add_text("Creation Time", "1999")
    texts.add_itxt("parameters", "Füße, 夜")
    PHOTO.save(tmp_path / "photo.png", pnginfo=texts)
    write_picture(read_picture(tmp_path / "photo.png"), tmp_path / "again.png")
    with Image.open(tmp_path / "again.png") as again:
        found = again.info
        assert np.array_equal(np.asarray(again), np.asarray(PHOTO))
    names = ("Title", "Creation Time", "parameters")
    assert tuple(found[name] for name in names) == ("A house", "1999", "Füße, 夜")


@pytest.mark.parametrize("is_compressed", [False, True])
def test_text_in_latin_1_is_kept(tmp_path: Path, is_compressed: bool) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("first", "夜")
    texts.add_text("Title", "Grüße", zip=is_compressed)
    texts.add_text("by others", "Grüße".encode())  # UTF-8 where Latin-1 is due
    PHOTO.save(tmp_path / "photo.png", pnginfo=texts)
    write_picture(read_picture(tmp_path / "photo.png"), tmp_path / "again.png")
    with Image.open(tmp_path / "again.png") as again:
        assert [again.info[name] for name in ("first", "Title", "by others")] == ["夜", "Grüße", "Grüße"]


@pytest.mark.parametrize(
    "said", ['tiff:Orientation="6"', "tiff:Orientation = '6'", "><tiff:Orientation>6</tiff:Orientation><x"]
)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_xmp_does_not_turn_the_result_again(tmp_path: Path, said: str, suffix: str) -> None:
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description {said} dc:format="6"/></x:xmpmeta>'
    PHOTO.save(tmp_path / "photo.jpg", xmp=xmp.encode())
    write_picture(read_picture(tmp_path / "photo.jpg"), tmp_path / f"again{suffix}")
    with Image.open(tmp_path / f"again{suffix}") as again:
        found = again.info.get("xmp", again.info.get("XML:com.adobe.xmp"))
    found = found.decode() if isinstance(found, bytes) else found
    assert found.rstrip("\0") == xmp.replace("6", "1", 1)


def test_quality_sets_the_size_of_what_loses_some(tmp_path: Path) -> None:
    for quality in (30, 95):
        write_picture(from_pil(PHOTO), tmp_path / f"{quality}.jpg", quality)
    assert (tmp_path / "30.jpg").stat().st_size < (tmp_path / "95.jpg").stat().st_size


class Pipe(RawIOBase):
    """What can be written to, and no more."""

    def __init__(self) -> None:
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, chunk: Any) -> int:
        self.content += bytes(chunk)
        return len(chunk)


@pytest.mark.parametrize("suffix", [".avif", ".jpg", ".png", ".tif", ".webp"])
def test_an_image_goes_through_a_pipe(suffix: str) -> None:
    pipe: Any = Pipe()
    save_picture(from_pil(PHOTO), pipe, suffix)
    assert Image.open(BytesIO(pipe.content)).size == PHOTO.size


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_is_told_as_such() -> None:
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space left on device"):
        save_picture(from_pil(PHOTO), full, ".png")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda picture: pickle.loads(pickle.dumps(picture))])
def test_a_picture_can_be_copied_and_sent_to_another_process(copied: Any) -> None:
    exif = Image.Exif()
    exif[0x010E] = "A house"
    PHOTO.save(file := BytesIO(), "JPEG", exif=exif, dpi=(300, 300))
    picture = from_pil(Image.open(file))
    again = copied(picture)
    assert np.array_equal(again.window(0, 0, *again.size), picture.window(0, 0, *picture.size))
    assert (again.metadata, again.dpi) == (picture.metadata, (300, 300))
