"""Folders against folders: which files belong together, what the report says, what errors say."""

from __future__ import annotations

import json
import math
from io import StringIO
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from tests.support.registries import registry_with
from tests.support.two_hands import TwoHands
from xpsr_sdk import Options, Registry, __version__
from xpsr_sdk.errors import ConfigError, UnknownComponent
from xpsr_sdk.evaluation.choosing import check_choices
from xpsr_sdk.evaluation.matching import match
from xpsr_sdk.evaluation.metrics import psnr
from xpsr_sdk.evaluation.report import ImageScores, Report, evaluate_folders
from xpsr_sdk.evaluation.store import score_key


def save(path, value=100, size=(24, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


@pytest.fixture
def folders(tmp_path):
    for name, value in (("a.png", 100), ("sub/b.png", 120)):
        save(tmp_path / "hr" / name, value)
        save(tmp_path / "pred" / name, value + 5)
    return tmp_path / "pred", tmp_path / "hr"


def test_rows_and_means(folders):
    seen = []
    report = evaluate_folders(*folders, metrics=["ssim", "psnr"], progress=lambda *step: seen.append(step))
    assert [row.name for row in report.rows] == ["a", "sub/b"]
    assert list(report.means) == ["ssim", "psnr"]
    expected = psnr(np.full((20, 24, 3), 100), np.full((20, 24, 3), 105))
    assert report.means["psnr"] == pytest.approx(expected)
    assert seen == [(1, 2), (2, 2)]


def test_the_report_says_how_it_was_measured(folders):
    report = evaluate_folders(*folders, metrics=["psnr", "ssim"], channel="rgb", crop=2)
    console = Console(width=120, record=True, file=StringIO())
    console.print(report.table())
    text = console.export_text()
    content = json.loads(report.to_json())
    for where in (text, content["settings"]["psnr"], content["settings"]["ssim"]):
        assert "RGB" in where
        assert __version__ in where
    assert "11 x 11" in text
    assert "2 pixels" in text
    assert content["crop"] == 2
    assert [image["name"] for image in content["images"]] == ["a", "sub/b"]
    assert content["means"]["psnr"] == pytest.approx(report.means["psnr"])


def test_equal_images_give_valid_json(folders):
    report = evaluate_folders(folders[1], folders[1], metrics=["psnr"])

    def refuse(constant):
        raise AssertionError(constant)

    assert float(json.loads(report.to_json(), parse_constant=refuse)["means"]["psnr"]) == math.inf


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20))
def test_the_mean_is_over_images(scores):
    report = Report(tuple(ImageScores(str(i), {"ssim": score}) for i, score in enumerate(scores)), {"ssim": ""}, 0)
    assert report.means["ssim"] == pytest.approx(sum(scores) / len(scores))


def test_two_files_are_a_pair(folders):
    report = evaluate_folders(folders[0] / "a.png", folders[1] / "sub/b.png", metrics=["psnr"])
    assert [row.name for row in report.rows] == ["a"]


@pytest.mark.parametrize(
    ("pred", "hr"),
    [
        ("x.jpg", "x.png"),
        ("Canon_10_x4.png", "Canon_10_x1.png"),
        ("dx4.png", "d.png"),
        ("sub/e.png", "sub/e-x8.webp"),
    ],
)
def test_names_that_belong_together(tmp_path, pred, hr):
    pair = (save(tmp_path / "pred" / pred), save(tmp_path / "hr" / hr))
    assert [(found.pred, found.hr) for found in match(tmp_path / "pred", tmp_path / "hr")] == [pair]


def test_equal_names_go_before_scales_in_names(tmp_path):
    for name in ("a_x2.png", "a_x4.png"):
        save(tmp_path / "pred" / name)
        save(tmp_path / "hr" / name)
    assert [pair.pred.name == pair.hr.name for pair in match(tmp_path / "pred", tmp_path / "hr")] == [
        True,
        True,
    ]


def test_missing_and_extra_images_are_listed(folders):
    save(folders[0] / "only_here.png")
    (folders[0] / "a.png").unlink()
    save(folders[1] / "lost.png")
    with pytest.raises(ConfigError, match=r"partner in \S*pred: a, lost; without a partner in \S*hr: only_here"):
        match(*folders)


def test_names_that_say_too_little_are_not_guessed(tmp_path):
    for name in ("a_x2.png", "a_x4.png"):
        save(tmp_path / "pred" / name)
    for name in ("a_x1.png", "b.png"):
        save(tmp_path / "hr" / name)
    with pytest.raises(ConfigError, match=r"do not hold the same images: .* --reference"):
        match(tmp_path / "pred", tmp_path / "hr")


def test_one_name_twice_is_an_error(folders):
    save(folders[0] / "a.jpg")
    with pytest.raises(ConfigError, match=r"a\.jpg and \S*a\.png have the same name"):
        match(*folders)


def test_no_folder_and_no_image(folders, tmp_path):
    with pytest.raises(ConfigError, match="nowhere is not a folder"):
        match(tmp_path / "nowhere", folders[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty holds no image"):
        match(folders[0], tmp_path / "empty")


def test_sizes_that_differ_are_named(folders):
    save(folders[0] / "a.png", size=(12, 10))
    report = evaluate_folders(*folders, metrics=["psnr"])
    assert [row.name for row in report.rows] == ["sub/b"]
    assert "pred/a.png has 12 x 10 pixels, but " in report.failures["a"]
    assert report.failures["a"].endswith("hr/a.png has 24 x 20.")


def test_an_unreadable_image_is_named(folders):
    (folders[0] / "a.png").write_text("no picture")
    report = evaluate_folders(*folders, metrics=["psnr"])
    assert "pred/a.png" in report.failures["a"]
    assert list(report.rows[0].scores) == ["psnr"]


def test_an_image_too_small_for_a_metric_is_named(folders):
    report = evaluate_folders(*folders, metrics=["ssim", "psnr"], crop=5)
    assert "a.png: SSIM needs at least 11 x 11 pixels, and this image is 14 x 10." in report.failures["a"]
    assert [list(row.scores) for row in report.rows] == [["psnr"], ["psnr"]]
    assert math.isnan(report.means["ssim"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"metrics": ["pnsr"]},
            r"No plug-in .* metric 'pnsr'. Did you mean 'psnr'\?.* plug-in xpsr-pyiqa",
        ),
        ({"metrics": []}, "No metric"),
        ({"metrics": ["psnr"], "channel": "ycbcr"}, "channel: must be 'y' or 'rgb'"),
        ({"metrics": ["psnr"], "crop": -1}, "crop is -1"),
        ({"metrics": ["psnr"], "device": "cudaa"}, "There is no device 'cudaa'"),
    ],
)
def test_wrong_options_are_named(folders, options, words):
    with pytest.raises((ConfigError, UnknownComponent), match=words):
        evaluate_folders(*folders, **options)


def test_a_crop_of_one_metric_goes_before_that_of_all(folders):
    border = np.full((20, 24, 3), 100, np.uint8)
    border[:2] = 0
    Image.fromarray(border).save(folders[1] / "a.png")
    save(folders[0] / "a.png", 100)
    choices = [{"name": "psnr", "crop": 2}, "psnr", "ssim"]
    report = evaluate_folders(folders[0] / "a.png", folders[1] / "a.png", metrics=choices, crop=1)
    assert report.means["psnr (crop=2)"] == math.inf
    assert report.means["psnr"] < 40
    assert "1 pixels left out" in report.settings["ssim"]


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"name": "psnr", "crop": -1}, "crop is -1"),
        ({"name": "psnr", "chanel": "y"}, "chanel"),
    ],
)
def test_wrong_options_of_a_metric_are_found_before_anything_is_restored(choice, words):
    with pytest.raises(ConfigError, match=words):
        check_choices([choice], Registry([]))


class Mean:
    """A metric without a reference, which counts its calls and refuses dark photos."""

    class Config(Options):
        pass

    needs_reference = False
    lower_is_better = True
    min_side = 1
    details = "mean; version 1"
    calls: ClassVar[list[int]] = []

    def __init__(self, config):
        pass

    def measure(self, images, references):
        assert references is None
        Mean.calls.append(len(images))
        if (images.amax(dim=(1, 2, 3)) < 0.1).any():
            raise ValueError("too dark")
        return images.mean(dim=(1, 2, 3))


class Spread(Mean):
    """A metric of whole folders."""

    needs_reference = True
    details = "difference of means"

    def measure(self, images, references):
        return images.mean(dim=(2, 3))

    def compare(self, features, references):
        return float((features.mean() - references.mean()).abs())


def measured(folders, part=Mean, **options):
    Mean.calls.clear()
    return evaluate_folders(*folders, metrics=["part"], registry=registry_with("metric", part), **options)


def test_a_metric_that_fails_at_a_photo_is_told_and_the_others_are_measured(folders):
    save(folders[0] / "a.png", 3)
    report = measured(folders, batch=2)
    assert "a.png: The metric 'part' of xpsr-test 0 raised ValueError: too dark (" in report.failures["a"]
    assert [row.scores.get("part") for row in report.rows] == [None, pytest.approx(125 / 255)]
    assert report.problems() == [f"a: {report.failures['a']}"]


def test_batches_hold_photos_of_one_size_and_change_no_figure(folders):
    for name in ("c", "d", "e"):
        save(folders[0] / f"{name}.png", 50, size=(30, 30) if name == "d" else (24, 20))
        save(folders[1] / f"{name}.png", 50, size=(30, 30) if name == "d" else (24, 20))
    alone = measured(folders)
    assert Mean.calls == [1] * 5
    assert measured(folders, batch=8).rows == alone.rows
    assert Mean.calls == [2, 1, 2]


def test_a_metric_of_folders_has_one_figure(folders):
    report = measured(folders, Spread)
    assert report.means == {"part": pytest.approx(5 / 255)}
    assert [dict(row.scores) for row in report.rows] == [{}, {}]


def test_figures_that_were_stored_are_not_computed_again(folders, tmp_path, monkeypatch):
    store = tmp_path / "new" / "scores.jsonl"
    first = measured(folders, scores=store)
    assert measured(folders, scores=store).rows == first.rows
    assert Mean.calls == []
    save(folders[0] / "a.png", 200)
    assert measured(folders, scores=store).means != first.means
    assert Mean.calls == [1]
    measured(folders, scores=store, crop=1)
    assert Mean.calls == [1, 1]
    monkeypatch.setattr(Mean, "details", "mean; version 2")
    measured(folders, scores=store)
    assert Mean.calls == [1, 1]


def test_a_store_that_was_cut_off_by_a_kill_is_used_as_far_as_it_goes(folders, tmp_path):
    store = tmp_path / "scores.jsonl"
    measured(folders, scores=store)
    store.write_bytes(store.read_bytes()[:-20])
    measured(folders, scores=store)
    assert Mean.calls == [1]
    measured(folders, scores=store)
    assert Mean.calls == []


def test_a_preset_takes_what_there_is(folders):
    report = evaluate_folders(*folders, metrics=["paper-seesr"], registry=Registry([]))
    assert list(report.settings) == ["psnr (crop=4)", "ssim-pyiqa (crop=4)", "niqe (crop=4)"]
    assert "; 4 pixels left out at each side" in report.settings["psnr (crop=4)"]
    assert "plug-in xpsr-pyiqa" in report.skipped["lpips"]
    assert "NIQE (CROP=4) needs at least 96 x 96 pixels" in report.failures["a"]


class Short(Spread):
    """A metric of folders that runs out of memory at dark photos, and has no numbers for bright ones."""

    def measure(self, images, references):
        features = super().measure(images, references)
        if (features < 0.1).any():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return features.where(features < 0.7, math.inf)


@pytest.mark.parametrize(("value", "words"), [(12, "out of memory"), (200, "no finite features")])
def test_too_little_memory_and_infinite_features_are_errors_of_the_photo(folders, value, words):
    save(folders[0] / "a.png", value)
    report = measured(folders, Short)
    assert words in report.failures["a"]
    assert report.means == {"part": pytest.approx(5 / 255)}


def test_memory_for_one_photo_but_not_for_a_batch(folders, monkeypatch):
    def measure(self, images, references):
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images.mean(dim=(1, 2, 3))

    monkeypatch.setattr(Mean, "measure", measure)
    report = measured(folders, batch=2)
    assert not report.failures
    assert len(report.rows) == 2


def test_a_metric_that_is_chosen_twice_is_built_once(folders, monkeypatch):
    built = []
    monkeypatch.setattr(Mean, "__init__", lambda self, config: built.append(self))
    evaluate_folders(*folders, metrics=["part", "part"], registry=registry_with("metric", Mean))
    assert len(built) == 1


def test_figures_of_unknown_weights_are_not_stored(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(Mean, "storable", False, raising=False)
    measured(folders, scores=tmp_path / "scores.jsonl")
    measured(folders, scores=tmp_path / "scores.jsonl")
    assert Mean.calls == [1, 1]
    assert (tmp_path / "scores.jsonl").read_text() == ""


def test_the_plug_in_is_part_of_the_key_of_a_stored_figure():
    keys = {score_key(f"metric 'm' of {source}", "d", 0, "a", "b") for source in ("one 1.0", "one 1.1", "two 1.0")}
    assert len(keys) == 3


class Sleepy(Mean):
    """Runs out of memory the first time that it sees a photo, and always at dark ones."""

    seen: ClassVar[set[float]] = set()

    def measure(self, images, references):
        bright = float(images.amax())
        if bright < 0.1 or bright not in self.seen:
            self.seen.add(bright)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images.mean(dim=(1, 2, 3))


def test_what_fails_is_measured_by_another_worker_or_told(folders):
    Sleepy.seen.clear()
    dark = save(folders[0] / "c.png", 12)
    save(folders[1] / "c.png", 12)
    told = []
    report = measured(folders, Sleepy, runner=TwoHands(), on_failure=lambda photo, reason: told.append((photo, reason)))
    assert [row.name for row in report.rows if row.scores] == ["a", "sub/b"]
    assert list(report.failures) == ["c"]
    assert told == [(dark, f"{dark}: PART failed: OutOfMemoryError: CUDA out of memory")]
