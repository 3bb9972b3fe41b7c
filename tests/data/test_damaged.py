"""Damaged images: whatever a decoder raises, it is one sentence about that file, and costs the others nothing.

tests/fixtures/damaged holds small files at which Pillow and libvips raise TypeError, UnicodeDecodeError and others.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.support import tiny
from tests.support.training_runs import VALIDATION, config
from xpsr_sdk import ImageError, Pipeline
from xpsr_sdk.cli.main import xpsr
from xpsr_sdk.data.images import read_image
from xpsr_sdk.training.loop import train

DAMAGED = Path("tests/fixtures/damaged")
NAMES = ["c0379_flip_deflate.tif", "c0504_insert_g4.tif", "eps_named.png", "odd_100000_14.tif"]


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_image_is_one_sentence(name: str) -> None:
    with pytest.raises(ImageError, match=name) as error:
        read_image(DAMAGED / name)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 250
    assert "Ghostscript" not in text


def test_a_damaged_profile_costs_the_profile_alone() -> None:
    assert min(read_image(DAMAGED / "odd_100026_206.webp").image.size) > 0


def test_types_that_start_other_programs_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    with pytest.raises(ImageError, match="not an image, or of a type that is not supported"):
        read_image(DAMAGED / "eps_named.png")


@pytest.mark.parametrize("error", [TypeError("x"), EOFError(), OverflowError("big"), MemoryError(), SystemError("c")])
def test_whatever_a_decoder_raises(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    tiny.photo(24, 16).save(tmp_path / "a.bmp")
    monkeypatch.setattr("PIL.BmpImagePlugin.BmpImageFile.load", fail)
    with pytest.raises(ImageError, match=r"a\.bmp"):
        read_image(tmp_path / "a.bmp")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A sharp photo, a damaged one, and one whose end is missing."""
    folder = tmp_path / "photos"
    folder.mkdir()
    tiny.photo(96, 96).save(folder / "good.png")
    shutil.copy(DAMAGED / "odd_100000_14.tif", folder / "odd.tif")
    content = (folder / "good.png").read_bytes()
    (folder / "a-short.png").write_bytes(content[: len(content) // 2])
    return folder


def test_a_folder_is_captioned_but_for_them(photos: Path) -> None:
    result = CliRunner().invoke(xpsr, ["caption", str(photos), "--level", "low"])
    assert result.exit_code == 1
    assert "odd.tif" in result.stderr
    assert "a-short.png" in result.stderr
    assert "Traceback" not in result.stderr


def test_training_data_are_made_but_for_them(photos: Path, tmp_path: Path) -> None:
    arguments = ["data", "prepare", str(photos), "-o", str(tmp_path / "out"), "--degradation", "bicubic"]
    result = CliRunner().invoke(xpsr, arguments)
    assert result.exit_code == 1
    assert "1 samples" in result.stdout
    assert "odd.tif" in result.stderr
    assert "a-short.png" in result.stderr


def test_folders_are_measured_but_for_them(photos: Path, tmp_path: Path) -> None:
    originals = tmp_path / "originals"
    shutil.copytree(photos, originals)
    for file in originals.iterdir():
        Image.open(photos / "good.png").save(file)
    Image.new("RGB", (95, 96)).save(photos / "cut.png")
    Image.new("RGB", (96, 96)).save(originals / "cut.png")
    result = CliRunner().invoke(xpsr, ["evaluate", str(photos), str(originals), "--metrics", "psnr"])
    assert result.exit_code == 1
    assert "good" in result.stdout
    for name in ("odd.tif", "a-short.png", "cut.png"):
        assert name in result.stderr


def test_a_run_is_trained_and_validated_but_for_them(photos: Path, tiny_model: Path, tmp_path: Path) -> None:
    held_out = VALIDATION | {"folders": [photos], "images": 2}
    run = config(tmp_path / "out", photos, tiny_model, steps=1, checkpoint_every=1, validation=held_out)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        train(run)
    text = "\n".join(str(warning.message) for warning in told)
    assert re.search(r"A held-out image is left out.*a-short\.png", text)
    assert "1 of 3 photos" in text


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, pipe: Pipeline) -> None:
    (tmp_path / "in").mkdir()
    bomb = Path(shutil.copy(DAMAGED / "bomb_17000_cmyk.jpg", tmp_path / "in"))
    began = time.monotonic()
    for command in (["caption"], ["data", "prepare", "-o", str(tmp_path / "out")]):
        result = CliRunner().invoke(xpsr, [*command, str(tmp_path / "in")])
        assert result.exit_code == 1
        assert "17000x17000 is 289.0 megapixels, and the limit is 100 (max_megapixels)" in result.stderr
    for scale, size in ((4, "68000x68000"), (1, "17000x17000")):
        with pytest.raises(ImageError, match=rf"{size}, .* the limit is 256: .* \(max_result_megapixels\)"):
            pipe(bomb, scale=scale)
    assert time.monotonic() - began < 20


def test_names_do_nothing_to_the_terminal(tmp_path: Path) -> None:
    name = "a\x1b]0;title\x07\x9b31m\nFailed: none.png"
    (tmp_path / name).write_bytes(b"no image")
    for command in (["caption"], ["data", "prepare", "-o", str(tmp_path / "out")]):
        result = CliRunner().invoke(xpsr, [*command, str(tmp_path)])
        assert result.exit_code == 1
        assert result.output.replace("\n", "").isprintable()
        assert not any(line.startswith("Failed: none") for line in result.output.splitlines())


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif", "bmp", "avif", "webp"])
def test_what_is_cut_off_is_told_in_our_words(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a.{suffix}"
    tiny.photo(96, 96).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"is damaged: (its end is missing|it cannot be decoded)\.$"):
        read_image(file)


@pytest.mark.parametrize("seed", range(5))
def test_a_photo_without_its_end_is_told_as_that(tmp_path: Path, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (60, 60), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:900])
    with pytest.raises(ImageError, match=r"cut\.jpg is damaged: its end is missing\.$"):
        read_image(tmp_path / "cut.jpg")


@pytest.mark.skipif(sys.platform == "win32", reason="links need a permission")
def test_a_broken_link_costs_the_others_nothing(photos: Path, tmp_path: Path) -> None:
    (photos / "link.png").symlink_to("nowhere.png")
    prepared = ["data", "prepare", str(photos), "-o", str(tmp_path / "out"), "--degradation", "bicubic"]
    for command in (["caption", str(photos), "--level", "low"], prepared):
        result = CliRunner().invoke(xpsr, command)
        assert "link.png is a link to nowhere.png, which does not exist." in result.stderr
        assert "Unexpected" not in result.stderr
