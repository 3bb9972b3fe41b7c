"""What a file holds beside RGB of 8 bits comes back out of it: bit depth, gray, alpha, profiles, metadata."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
import pyvips
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from tests.support import tiny
from xpsr_sdk import ImageError
from xpsr_sdk.data.images import read_image, read_picture, write_picture
from xpsr_sdk.data.picture import Picture, from_pil, picture_of

PHOTO = tiny.photo(24, 16)
LOSSLESS = [".png", ".tif"]


def noise(channels: int, most: int, seed: int = 0) -> np.ndarray[Any, Any]:
    levels = np.random.default_rng(seed).integers(0, most + 1, (16, 24, channels))
    return levels.astype(np.uint8 if most == 255 else np.uint16)


def levels(picture: Picture) -> np.ndarray[Any, Any]:
    return picture.window(0, 0, *picture.size)


def reread(picture: Picture, file: Path) -> Picture:
    write_picture(picture, file)
    return read_picture(file)


def vips_profile(name: str) -> bytes:
    """One of the profiles that libvips brings along: srgb, p3 or cmyk."""
    return bytes(pyvips.Operation.call("profile_load", name))


def seen(image: Image.Image) -> np.ndarray[Any, Any]:
    """The colours of a file as a colour-managed program shows them on an sRGB screen."""
    profile = image.info.get("icc_profile")
    if profile:
        srgb: Any = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(BytesIO(profile)), srgb)
        assert converted is not None
        image = converted
    return np.asarray(image.convert("RGB"), int)


# Channels and bits


@pytest.mark.parametrize("suffix", LOSSLESS)
@given(channels=st.integers(1, 4), most=st.sampled_from([255, 65535]), seed=st.integers(0, 99))
def test_every_level_of_every_channel_survives(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, channels: int, most: int, seed: int
) -> None:
    pixels = noise(channels, most, seed)
    again = reread(picture_of(pixels), tmp_path_factory.mktemp("files") / f"photo{suffix}")
    assert np.array_equal(levels(again), pixels)
    assert (again.max_level, again.is_gray, again.has_alpha) == (most, channels < 3, channels in (2, 4))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_pil_image_comes_back_as_it_was(mode: str) -> None:
    image = PHOTO.convert("L").convert(mode) if mode in ("1", "LA") else PHOTO.convert(mode)
    expected = image.convert({"1": "L", "P": "RGB"}.get(mode, mode))
    again = from_pil(image).to_pil()
    assert again.mode == expected.mode
    assert np.array_equal(np.asarray(again), np.asarray(expected))


def test_a_palette_with_a_transparent_colour_has_alpha(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 1)
    image.save(tmp_path / "photo.png", transparency=0)
    pixels = levels(read_picture(tmp_path / "photo.png"))
    assert pixels[0, 0].tolist() == [0, 0, 255, 255]
    assert pixels[1, 1, 3] == 0


def test_16_bit_gray_of_pillow_has_16_bits() -> None:
    ramp = np.arange(24 * 16, dtype=np.uint16).reshape(16, 24) * 170
    picture = from_pil(Image.fromarray(ramp))
    assert (picture.max_level, picture.is_gray) == (65535, True)
    assert np.array_equal(levels(picture)[..., 0], ramp)


def test_floating_point_levels_are_refused() -> None:
    with pytest.raises(ImageError, match="holds floating-point levels: save it with 8 or 16 bits a channel"):
        from_pil(Image.new("F", (24, 16)))


def test_jpeg_lays_transparency_on_white_and_says_so(tmp_path: Path) -> None:
    pixels = np.zeros((16, 24, 4), np.uint16)  # black, of 16 bits, and invisible
    with pytest.warns(UserWarning, match=r"photo.jpg: .jpg has no transparency; transparent parts are put on white\."):
        again = reread(picture_of(pixels), tmp_path / "photo.jpg")
    assert (again.max_level, again.has_alpha) == (255, False)
    assert levels(again).min() == 255


@pytest.mark.parametrize("suffix", [".avif", ".webp"])
def test_other_types_keep_transparency(tmp_path: Path, suffix: str) -> None:
    image = PHOTO.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(PHOTO.size))
    again = reread(from_pil(image), tmp_path / f"photo{suffix}")
    assert np.abs(levels(again)[..., 3].astype(int) - np.asarray(image)[..., 3]).max() <= 4


def test_avif_keeps_12_bits(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 24 * 16).reshape(16, 24, 1).repeat(3, 2).astype(np.uint16)
    again = reread(picture_of(ramp), tmp_path / "photo.avif")
    assert again.max_level == 65535
    assert len(np.unique(levels(again))) > 300


# Colour profiles


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp", ".avif"])
def test_a_wide_gamut_is_kept_with_its_profile(tmp_path: Path, suffix: str) -> None:
    PHOTO.save(tmp_path / "photo.png", icc_profile=vips_profile("p3"))
    picture = read_picture(tmp_path / "photo.png")
    again = reread(picture, tmp_path / f"again{suffix}")
    assert again.profile == picture.profile == vips_profile("p3")
    assert np.abs(levels(again).astype(int) - np.asarray(PHOTO)).mean() < 8


def test_converting_to_srgb_shows_the_same_colours(tmp_path: Path) -> None:
    muted = PHOTO.point(lambda level: 96 + level // 4)  # inside of sRGB
    muted.save(tmp_path / "p3.png", icc_profile=vips_profile("p3"))
    converted = reread(read_picture(tmp_path / "p3.png").in_srgb(), tmp_path / "srgb.png")
    assert converted.profile is None
    with Image.open(tmp_path / "p3.png") as before, Image.open(tmp_path / "srgb.png") as after:
        assert np.abs(seen(before) - seen(after)).max() <= 2
        assert np.abs(np.asarray(before, int) - np.asarray(after, int)).max() > 2


@pytest.mark.parametrize("most", [255, 65535])
def test_what_looks_at_photos_sees_srgb(tmp_path: Path, most: int) -> None:
    muted = np.asarray(PHOTO) // 4 + 96
    picture = picture_of((muted.astype(np.uint16) * 257) if most > 255 else muted)
    write_picture(Picture(picture.pixels, profile=vips_profile("p3")), tmp_path / "photo.png")
    expected = Image.fromarray(muted)
    expected.info["icc_profile"] = vips_profile("p3")
    assert np.abs(np.asarray(read_image(tmp_path / "photo.png").image, int) - seen(expected)).max() <= 2


def test_an_srgb_profile_changes_no_level(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    PHOTO.save(tmp_path / "photo.png", icc_profile=profile)
    assert np.array_equal(np.asarray(read_image(tmp_path / "photo.png").image), np.asarray(PHOTO))


@pytest.mark.parametrize("profile", [b"junk" * 100, vips_profile("cmyk")[:2000], vips_profile("srgb")[:40]])
def test_a_profile_that_does_not_fit_is_left_out(tmp_path: Path, profile: bytes) -> None:
    PHOTO.save(tmp_path / "photo.jpg", icc_profile=profile, quality=100, subsampling=0)
    picture = read_picture(tmp_path / "photo.jpg")
    assert picture.profile is None
    assert np.abs(levels(picture).astype(int) - np.asarray(PHOTO)).mean() < 3


def test_inks_with_a_profile_become_the_colours_that_they_print(tmp_path: Path) -> None:
    inks = Image.new("CMYK", (24, 16), (0, 255, 255, 0))
    inks.save(tmp_path / "photo.tif", icc_profile=vips_profile("cmyk"))
    picture = read_picture(tmp_path / "photo.tif")
    red = levels(picture)[8, 8].tolist()
    cmyk, srgb = ImageCms.ImageCmsProfile(BytesIO(vips_profile("cmyk"))), ImageCms.createProfile("sRGB")
    relative = ImageCms.Intent.RELATIVE_COLORIMETRIC
    black_points = ImageCms.Flags.BLACKPOINTCOMPENSATION
    printed = ImageCms.profileToProfile(inks, cmyk, srgb, relative, "RGB", flags=black_points)  # type: ignore[arg-type]
    assert printed is not None
    assert picture.profile is None
    assert np.abs(np.array(red) - printed.getpixel((8, 8))).max() <= 2


# Metadata


def camera_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "Camera"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    return exif


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".avif"])
def test_exif_is_kept_and_the_photo_stays_upright(tmp_path: Path, suffix: str) -> None:
    PHOTO.rotate(90, expand=True).save(tmp_path / "photo.jpg", exif=camera_exif(), quality=95)
    again = reread(read_picture(tmp_path / "photo.jpg"), tmp_path / f"again{suffix}")
    assert again.size == (24, 16)
    with Image.open(tmp_path / f"again{suffix}") as image:
        exif = image.getexif()
    assert exif.get(0x0112, 1) == 1
    assert exif[0x010F] == "Camera"
    assert exif.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"


def test_the_exif_of_types_that_pillow_reads_is_kept(tmp_path: Path) -> None:
    image = PHOTO.copy()
    image.info["exif"] = camera_exif().tobytes()
    write_picture(from_pil(image), tmp_path / "photo.jpg")
    with Image.open(tmp_path / "photo.jpg") as again:
        assert again.getexif()[0x010F] == "Camera"


def test_without_metadata_nothing_is_written(tmp_path: Path) -> None:
    PHOTO.save(tmp_path / "photo.jpg", exif=camera_exif(), icc_profile=vips_profile("p3"))
    picture = read_picture(tmp_path / "photo.jpg")
    write_picture(Picture(picture.pixels, profile=picture.profile), tmp_path / "again.jpg")
    with Image.open(tmp_path / "again.jpg") as image:
        assert "exif" not in image.info
        assert image.info["icc_profile"] == vips_profile("p3")


def test_names_may_end_like_options_of_libvips(tmp_path: Path) -> None:
    file = tmp_path / "photo.png[page=1].png"
    PHOTO.save(file)
    assert read_picture(file).size == (24, 16)


# Files as cameras, scanners and other programs write them


def test_a_gain_map_is_no_animation(tmp_path: Path) -> None:
    linear = pyvips.Image.new_from_array(np.asarray(PHOTO)).copy(interpretation="srgb").colourspace("scrgb")
    (linear * 1.5).copy(interpretation="scrgb").uhdrsave(str(tmp_path / "ultra-hdr.jpg"))
    assert read_picture(tmp_path / "ultra-hdr.jpg").size == PHOTO.size


@pytest.mark.parametrize("mode", ["LAB", "YCbCr"])
@pytest.mark.parametrize("compression", ["raw", "tiff_deflate"])
def test_colours_of_other_spaces_in_tiff(tmp_path: Path, mode: str, compression: str) -> None:
    PHOTO.convert(mode).save(tmp_path / "photo.tif", compression=compression)
    try:
        with Image.open(tmp_path / "photo.tif") as image:
            image.load()
    except OSError:
        pytest.skip("this version of Pillow does not read back what it has written")
    found = np.asarray(read_picture(tmp_path / "photo.tif").to_rgb(), int)
    assert np.abs(found - np.asarray(PHOTO, int)).mean() < 2


@pytest.mark.parametrize("bits", [10, 12])
def test_white_of_fewer_than_16_bits_is_white(tmp_path: Path, bits: int) -> None:
    white = pyvips.Image.new_from_array(np.full((16, 24, 3), 65535, np.uint16)).copy(interpretation="rgb16")
    white.write_to_file(str(tmp_path / "white.avif"), bitdepth=bits, lossless=True)
    assert levels(read_picture(tmp_path / "white.avif")).min() == 65535


def test_white_of_a_heic_file_of_10_bits_is_white(tmp_path: Path) -> None:
    white = np.full((16, 24, 3), 65535, np.uint16)
    heif = pillow_heif.from_bytes("RGB;16", (24, 16), white.tobytes())
    heif.save(tmp_path / "white.heic", quality=-1)
    assert levels(read_picture(tmp_path / "white.heic")).min() == 65535


def test_levels_of_32_bits_are_those_of_8_or_16_bits() -> None:
    gray = PHOTO.convert("L")
    assert np.array_equal(np.asarray(from_pil(gray.convert("I")).to_rgb()), np.asarray(gray.convert("RGB")))
    deep = Image.fromarray(np.asarray(gray).astype(np.int32) * 257)
    assert np.array_equal(levels(from_pil(deep))[..., 0], np.asarray(gray).astype(np.uint16) * 257)
    with pytest.raises(ImageError, match="levels from 0 to 70000: save it with 8 or 16 bits"):
        from_pil(Image.fromarray(np.array([[0, 70000]], np.int32)))
