"""Shards: what is in them, that they are made once, and what a damaged one is told."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.support import tiny
from xpsr_sdk import ConfigError, Registry, TrainingError
from xpsr_sdk.data.images import read_image
from xpsr_sdk.data.samples import Batch
from xpsr_sdk.files.leftovers import temporary_name
from xpsr_sdk.files.writing import PARTIAL
from xpsr_sdk.preparation.prepare import prepare_shards
from xpsr_sdk.preparation.recipe import Recipe
from xpsr_sdk.training.config import DataSection
from xpsr_sdk.training.data import TrainingData


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos as they come: two good ones, a gray one, one with alpha, a small one, a flat one, and a text."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "trip").mkdir()
    tiny.photo(130, 65).save(folder / "one.2024.png")
    tiny.photo(64, 68, seed=1).save(folder / "trip" / "two.png")
    tiny.photo(64, 64, seed=2).convert("L").save(folder / "gray.png")
    tiny.photo(64, 64, seed=3).convert("RGBA").save(folder / "alpha.png")
    tiny.photo(40, 90).save(folder / "small.png")
    Image.new("RGB", (80, 80), "gray").save(folder / "wall.png")
    (folder / "text.png").write_text("no image")
    return folder


def members(folder: Path) -> dict[str, bytes]:
    found = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found[member.name] = file.read()
    return found


def batch(folder: Path, crop: int = 32, **options: Any) -> Batch:
    data = TrainingData(DataSection(folders=(folder,), crop=crop, **{"hr_as_input": 0, **options}), 0, Registry([]))
    return data.batch(range(len(data)))


def test_samples_are_what_the_form_asks_for(photos: Path, tmp_path: Path) -> None:
    report = prepare_shards(photos, tmp_path, crop=64, variants=2, photos_a_shard=3)
    found = members(tmp_path)
    keys = [f"one-2024__x{x}_y0__v{v}" for x in (0, 64) for v in (0, 1)]
    keys += [f"{name}__x0_y{y}__v{v}" for name, y in (("alpha", 0), ("gray", 0), ("trip__two", 2)) for v in (0, 1)]
    assert sorted(found) == sorted(f"{key}.{kind}" for key in keys for kind in ("hr.png", "lr.png", "json"))
    assert report.samples == len(keys) == 10
    words = json.loads(found["trip__two__x0_y2__v1.json"])
    assert words["sha256"] == read_image(photos / "trip" / "two.png").sha256
    assert words["high"] is None
    assert "blur" in words["low"]
    assert "blur" in words["hr_low"]
    assert words["size"] == [64, 64]
    with Image.open(io.BytesIO(found["trip__two__x0_y2__v1.lr.png"])) as lr:
        assert lr.size == (16, 16)


def test_what_is_left_out_is_counted_and_listed(photos: Path, tmp_path: Path) -> None:
    report = prepare_shards(photos, tmp_path, crop=64)
    assert {photo.name: cause for photo, cause in report.causes.items()} == {
        "small.png": "too small", "text.png": "damaged", "wall.png": "flat"
    }  # fmt: skip
    assert report.failed[photos / "small.png"] == "40x88 is too small: at least 64 pixels in each direction are needed"


def test_flat_crops_are_left_out_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    half = Image.new("RGB", (128, 64), "gray")
    half.paste(tiny.photo(64, 64), (64, 0))
    half.save(tmp_path / "photos" / "half.png")
    report = prepare_shards(tmp_path / "photos", tmp_path / "out", crop=64)
    assert (report.samples, report.flat) == (1, {tmp_path / "photos" / "half.png": 1})


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_them(photos: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    prepare_shards(photos, tmp_path, degradation="bicubic", photos_a_shard=100)
    samples = list(webdataset.WebDataset(str(tmp_path / "shard-00000.tar"), shardshuffle=False))
    assert len(samples) == 4
    assert all({"hr.png", "lr.png", "json"} <= sample.keys() for sample in samples)


def test_workers_and_the_size_of_shards_change_no_sample(photos: Path, tmp_path: Path) -> None:
    prepare_shards(photos, tmp_path / "one", crop=64, crops_a_photo=1)
    prepare_shards(photos, tmp_path / "two", crop=64, crops_a_photo=1, photos_a_shard=2, workers=2)
    assert members(tmp_path / "one") == members(tmp_path / "two")


def test_a_call_that_was_stopped_is_finished_by_the_next(photos: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"degradation": "bicubic", "photos_a_shard": 2}
    report = prepare_shards(photos, tmp_path, **options)
    before = members(tmp_path)
    first, *rest = sorted(tmp_path.glob("*.tar"))
    time = first.stat().st_mtime_ns
    rest[0].unlink()  # killed before the shard got its name
    record = rest[1].with_suffix(".json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"outcomes": []}))  # killed before it was completed
    assert prepare_shards(photos, tmp_path, **options) == report
    assert members(tmp_path) == before
    assert first.stat().st_mtime_ns == time
    (tmp_path / temporary_name(PARTIAL).replace(str(os.getpid()), "4194305", 1)).touch()  # no process has that number
    assert prepare_shards(photos, tmp_path, **options) == report
    assert not list(tmp_path.glob(".*"))


def test_files_of_others_are_neither_deleted_nor_replaced(photos: Path, tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("shard-of-mine.txt", "shard-00077.tar", "shard-00078.json", ".shard-x")]
    for file in others:
        file.write_text("mine")
    prepare_shards(photos, tmp_path, degradation="bicubic", photos_a_shard=1)
    prepare_shards(photos, tmp_path, degradation="bicubic", photos_a_shard=100)  # ours beyond the last go
    assert [file.read_text() for file in others] == ["mine"] * 4
    assert not (tmp_path / "shard-00001.tar").exists()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "shard-00000.tar").write_text("mine")
    with pytest.raises(TrainingError, match="was not made by xpsr data prepare"):
        prepare_shards(photos, tmp_path / "new", degradation="bicubic")
    assert (tmp_path / "new" / "shard-00000.tar").read_text() == "mine"


def test_a_recipe_is_written_as_it_always_was() -> None:
    """Shards that an earlier version made are recognised by it."""
    made = Recipe(degradation=None, prompt_provider={"name": "fixed", "high": "a house"}, crop=64).as_json()
    assert made == {
        "degradation": None, "prompt_provider": {"name": "fixed", "high": "a house"}, "upscaler": None,
        "sharpen": False, "crop": 64, "crops_a_photo": None, "variants": 1, "seed": 0,
    }  # fmt: skip


def test_a_choice_that_is_none_is_told(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"variant: there is no such option\. Did you mean 'variants'"):
        prepare_shards(photos, tmp_path, variant=2)
    with pytest.raises(ConfigError, match="crop: must be at least 16"):
        prepare_shards(photos, tmp_path, crop=4)


def test_another_recipe_needs_another_output(photos: Path, tmp_path: Path) -> None:
    prepare_shards(photos, tmp_path, degradation="bicubic")
    with pytest.raises(TrainingError, match="holds shards that were made with other options"):
        prepare_shards(photos, tmp_path, degradation="bicubic", seed=1)
    with pytest.raises(ConfigError, match="crop is 30: it must be a multiple of the scale, 4"):
        prepare_shards(photos, tmp_path / "other", crop=30)


def test_training_reads_what_was_prepared(photos: Path, tmp_path: Path) -> None:
    provider = {"name": "fixed", "high": "a house", "low": "blurry"}
    prepare_shards(photos, tmp_path, degradation="bicubic", prompt_provider=provider)
    found = batch(tmp_path)
    assert found.hr.shape == found.resized.shape == (4, 3, 32, 32)
    assert (set(found.high), set(found.low)) == ({"a house"}, {"blurry"})
    assert ((found.hr + 1) / 2 - found.resized)[..., 4:-4, 4:-4].abs().mean() < 0.05
    assert set(batch(tmp_path, levels=("low",)).high) == {""}


@pytest.mark.parametrize("form", ["shards", "photos"])
def test_photos_without_lr_are_degraded_as_they_are_drawn(photos: Path, tmp_path: Path, form: str) -> None:
    prepare_shards(photos, tmp_path, degradation=None, crop=64)
    folder = tmp_path if form == "shards" else photos / "trip"
    section = DataSection(folders=(folder,), crop=32, hr_as_input=0)
    data = TrainingData(section, 0, Registry([]))
    first, again, later = data.sample(0), data.sample(0), data.sample(len(data))
    assert torch.equal(first.resized, again.resized)
    assert "blur" in first.low
    assert not torch.equal(data.batch(range(len(data))).resized, data.batch(range(len(data), 2 * len(data))).resized)
    assert later.resized.shape == (3, 32, 32)
    clear = TrainingData(DataSection(folders=(folder,), crop=32, hr_as_input=1), 0, Registry([])).sample(0)
    torch.testing.assert_close(clear.resized, (clear.hr + 1) / 2, atol=1e-6, rtol=0)
    assert clear.low


def test_what_is_too_small_for_the_crop_is_left_out_with_a_warning(photos: Path, tmp_path: Path) -> None:
    prepare_shards(photos, tmp_path, degradation=None)
    with pytest.warns(UserWarning, match=r"1 of 5 images in .* are left out: smaller than 64 pixels"):
        batch(tmp_path, crop=64, degradation="bicubic")
    with pytest.warns(UserWarning, match="2 of 7 photos in .* are left out: damaged, or smaller than 64 pixels"):
        assert len(batch(photos, crop=64, degradation="bicubic").hr) == 5
    with pytest.raises(TrainingError, match="hold no image of at least 512 pixels"):
        batch(tmp_path, crop=512)


def test_a_shard_that_is_cut_off_is_named(photos: Path, tmp_path: Path) -> None:
    prepare_shards(photos, tmp_path, degradation="bicubic")
    (shard,) = tmp_path.glob("*.tar")
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(TrainingError, match=r"shard-00000\.tar is damaged or cut off"):
        batch(tmp_path)
    shard.write_bytes(b"")
    with pytest.raises(TrainingError, match=r"shard-00000\.tar is damaged or cut off"):
        batch(tmp_path)


def test_a_damaged_image_gives_way_to_the_next(photos: Path, tmp_path: Path) -> None:
    prepare_shards(photos, tmp_path, degradation="bicubic")
    (shard,) = tmp_path.glob("*.tar")
    with tarfile.open(shard) as tar:
        member = tar.getmember("gray__v0.hr.png")
        start = member.offset_data + member.size // 2
    content = bytearray(shard.read_bytes())
    content[start : start + 20] = bytes(20)
    shard.write_bytes(content)
    with pytest.warns(UserWarning, match=r"the image gray__v0 is damaged: .* The next image is used instead"):
        assert len(batch(tmp_path).hr) == 4


def test_the_layout_of_img2dataset_is_read_and_folders_with_dots(photos: Path, tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for number in (0, 1):
        tiny.photo(48, 40, seed=number).save(image := io.BytesIO(), "JPEG")
        stem = f"./set.1/00000{number}"
        files |= {
            f"{stem}.jpg": image.getvalue(),
            f"{stem}.txt": b"a house\n",
            f"{stem}.json": b'{"status": "success"}',
        }
    files["./set.1/._000000.jpg"] = b"companion"
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (tmp_path / "._00000.tar").write_bytes(b"companion")
    found = batch(tmp_path)
    assert (len(found.hr), set(found.high)) == (2, {"a house"})


def test_a_png_beside_a_jpg_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for seed, name in enumerate(("a.png", "a.jpg")):
        tiny.photo(64, 64, seed=seed).save(tmp_path / "photos" / name)
    assert prepare_shards(tmp_path / "photos", tmp_path / "shards", crop=64).samples == 2
    assert {name.partition("__")[0] for name in members(tmp_path / "shards")} == {"a-jpg", "a-png"}
