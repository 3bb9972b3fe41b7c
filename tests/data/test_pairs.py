"""Folders of training pairs: aligned crops, and what a wrong folder is told."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.support import tiny
from xpsr_sdk import Registry, TrainingError
from xpsr_sdk.data.picture import Picture
from xpsr_sdk.data.samples import Batch
from xpsr_sdk.training.config import DataSection
from xpsr_sdk.training.data import TrainingData


def make_pair(folder: Path, name: str = "a", hr: tuple[int, int] = (64, 48), lr: tuple[int, int] = (16, 12)) -> None:
    for part, size in (("HR", hr), ("LR", lr)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        tiny.photo(*size).save(folder / part / f"{name}.png")


def batch(*folders: Path, seed: int = 0, crop: int = 32, hr_as_input: float = 0, keep_in_memory: int = 0) -> Batch:
    section = DataSection(folders=folders, crop=crop, hr_as_input=hr_as_input, keep_in_memory=keep_in_memory)
    data = TrainingData(section, seed, Registry([]))
    return data.batch(range(len(data)))


@given(seed=st.integers(0, 10_000))
def test_crops_of_a_pair_show_the_same_place(pairs: Path, seed: int) -> None:
    found = batch(pairs, seed=seed)
    assert found.hr.shape == found.resized.shape == (4, 3, 32, 32)
    assert found.hr.min() >= -1
    assert found.hr.max() <= 1
    assert found.resized.min() >= 0
    assert found.resized.max() <= 1
    difference = (found.hr + 1) / 2 - found.resized
    assert difference[..., 4:-4, 4:-4].abs().mean() < 0.03  # the LR images are plain bicubic ones


def test_the_generator_alone_says_where(pairs: Path) -> None:
    assert torch.equal(batch(pairs, seed=1).hr, batch(pairs, seed=1).hr)
    assert not torch.equal(batch(pairs, seed=1).hr, batch(pairs, seed=2).hr)


def test_hr_may_be_the_input_with_its_own_words(pairs: Path) -> None:
    found = batch(pairs, hr_as_input=1)
    torch.testing.assert_close(found.resized, (found.hr + 1) / 2, atol=1e-6, rtol=0)
    assert set(found.low).isdisjoint(batch(pairs).low)


def test_words_come_from_their_files(tmp_path: Path) -> None:
    make_pair(tmp_path)
    assert (batch(tmp_path).high, batch(tmp_path).low) == ([""], [""])
    for folder, text in (("highlevel_prompt_GT", " a house\n"), ("lowlevel_prompt_q", "blurry")):
        (tmp_path / "words" / folder).mkdir(parents=True)
        (tmp_path / "words" / folder / "a.txt").write_text(text)
    make_pair(tmp_path / "words")
    found = batch(tmp_path / "words")
    assert (found.high, found.low) == (["a house"], ["blurry"])


def test_lr_may_be_enlarged_already(tmp_path: Path) -> None:
    make_pair(tmp_path, hr=(64, 48), lr=(64, 48))
    found = batch(tmp_path)
    torch.testing.assert_close(found.resized, (found.hr + 1) / 2, atol=1e-6, rtol=0)


def test_images_kept_in_memory_are_the_same(pairs: Path) -> None:
    kept = TrainingData(DataSection(folders=(pairs,), crop=32, hr_as_input=0.5, keep_in_memory=100), 1, Registry([]))
    for _ in range(3):
        found = kept.batch(range(4))
        assert torch.equal(found.resized, batch(pairs, seed=1, hr_as_input=0.5).resized)
        found.resized.zero_()  # whoever changes a batch changes no image


def test_only_crops_are_decoded_into_memory(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, sizes = Picture.window, set()

    def window(picture: Picture, left: int, top: int, width: int, height: int) -> Any:
        sizes.add((width, height))
        return read(picture, left, top, width, height)

    tiny.photo(300, 200).save(tmp_path / "large.png")
    monkeypatch.setattr(Picture, "window", window)
    batch(tmp_path, pairs)
    assert sizes == {(32, 32), (8, 8)}


def test_a_star_stands_for_all_that_match(pairs: Path, tmp_path: Path) -> None:
    for name in ("set_1", "set_2", "other"):
        shutil.copytree(pairs, tmp_path / name)
    assert len(batch(tmp_path / "set_*").hr) == 8
    assert len(batch(tmp_path / "set_1", tmp_path / "other").hr) == 8


@pytest.mark.parametrize(
    ("hr", "lr"),
    [((64, 48), (16, 13)), ((64, 48), (15, 12)), ((63, 48), (16, 12)), ((28, 28), (7, 7)), ((16, 12), (64, 48))],
)
def test_sizes_that_do_not_match_are_named(tmp_path: Path, hr: tuple[int, int], lr: tuple[int, int]) -> None:
    make_pair(tmp_path, hr=hr, lr=lr)
    said = rf"a.png: HR is {hr[0]}x{hr[1]} and LR {lr[0]}x{lr[1]}; HR must be"
    with pytest.warns(UserWarning, match=said), pytest.raises(TrainingError, match=said):
        batch(tmp_path)


def test_a_crop_that_is_no_multiple_of_the_scale_is_named(pairs: Path) -> None:
    with pytest.raises(TrainingError, match="crop"):
        batch(pairs, crop=30)


def test_an_hr_image_without_lr_is_named(tmp_path: Path) -> None:
    make_pair(tmp_path)
    (tmp_path / "LR" / "a.png").unlink()
    with pytest.raises(TrainingError, match=r"HR/a.png has no LR image"):
        batch(tmp_path)


def test_compressed_shards_are_named(tmp_path: Path) -> None:
    (tmp_path / "0.tar.gz").touch()
    with pytest.raises(TrainingError, match=r"holds 0\.tar\.gz, but shards are not compressed"):
        batch(tmp_path)


def test_a_folder_without_pairs_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="HR holds no images: a folder of pairs needs HR/ and LR/"):
        batch(tmp_path)
    with pytest.raises(TrainingError, match=r"There is no folder .*nowhere"):
        batch(tmp_path / "nowhere")
    with pytest.raises(TrainingError, match=r"No folder matches .*nothing_\*"):
        batch(tmp_path / "nothing_*")


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("gt/{}.png", "lq/{}.png"),
        ("hr/{}.png", "LR/{}.png"),
        ("HR/{}_HR.png", "LR/{}_LR4.png"),
        ("HR/{}.png", "LR/{}.bmp"),
        ("HR/{}.png", "LR/{}x4.png"),
    ],
)
def test_pairs_as_people_have_them(tmp_path: Path, hr: str, lr: str) -> None:
    for name in ("a", "b"):
        for path, size in ((hr, (64, 48)), (lr, (16, 12))):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            tiny.photo(*size, seed=ord(name)).save(tmp_path / path.format(name))
    found = batch(tmp_path)
    assert found.hr.shape == (2, 3, 32, 32)
    difference = (found.hr + 1) / 2 - found.resized
    assert difference[..., 4:-4, 4:-4].abs().mean() < 0.15  # each HR image has its own LR image


@pytest.mark.parametrize("names", [("train_HR/a.png", "train_LR_x4/a.png"), ("a_HR.png", "a_LR4.png")])
def test_pairs_are_never_taken_for_sharp_photos(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tiny.photo(64, 48).save(tmp_path / name)
    with pytest.raises(TrainingError, match=r"looks like .*pairs, since there is .*LR"):
        batch(tmp_path)


def put_upscaled(folder: Path, size: tuple[int, int] | None = None) -> None:
    """Give each pair an image that was upscaled ahead: the negative of its HR image, so that none else is taken."""
    (folder / "upscaled").mkdir()
    for hr in (folder / "HR").iterdir():
        with Image.open(hr) as image:
            negative = ImageOps.invert(image.convert("RGB"))
        (negative.resize(size) if size else negative).save(folder / "upscaled" / hr.name)


@given(seed=st.integers(0, 10_000))
def test_an_image_upscaled_ahead_is_cropped_and_flipped_with_hr(
    pairs: Path, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("ahead") / "pairs"
    shutil.copytree(pairs, folder)
    put_upscaled(folder)
    found = batch(folder, seed=seed)
    torch.testing.assert_close(found.upscaled, 1 - (found.hr + 1) / 2, atol=1e-5, rtol=0)
    assert torch.equal(found.resized, batch(pairs, seed=seed).resized)  # it changes nothing else


def test_what_was_not_upscaled_ahead_is_upscaled_now(pairs: Path) -> None:
    found = batch(pairs)
    torch.testing.assert_close(found.upscaled, found.resized, atol=1e-6, rtol=0)


def test_hr_as_the_input_needs_no_upscaler(pairs: Path, tmp_path: Path) -> None:
    shutil.copytree(pairs, tmp_path / "pairs")
    put_upscaled(tmp_path / "pairs")
    found = batch(tmp_path / "pairs", hr_as_input=1)
    torch.testing.assert_close(found.upscaled, (found.hr + 1) / 2, atol=1e-6, rtol=0)


def test_an_upscaled_image_of_another_size_is_named(tmp_path: Path) -> None:
    make_pair(tmp_path)
    put_upscaled(tmp_path, size=(32, 24))
    said = r"a.png: its upscaled image is 32x24; it must be as large as HR"
    with pytest.warns(UserWarning, match=said), pytest.raises(TrainingError, match=said):
        batch(tmp_path)
