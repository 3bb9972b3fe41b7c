"""Validation: held-out images are restored as a user would, and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support import tiny
from tests.support.training_runs import VALIDATION, config, log_of, validations_of
from xpsr_sdk import ConfigError, TrainingError, UnknownComponent, build_pipeline
from xpsr_sdk.evaluation.metrics import psnr
from xpsr_sdk.training.loop import TrainingRun, train


def test_held_out_images_are_measured_and_shown(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    metrics = ["psnr", "ssim", {"name": "psnr", "channel": "rgb", "crop": 4}]
    validation = {"folders": [pairs], **VALIDATION, "metrics": metrics, "keep": True}
    last = train(config(tmp_path, pairs, tiny_model, steps=2, validation=validation))
    found = validations_of(tmp_path)
    assert [line["step"] for line in found] == [0, 1, 2]
    assert {"psnr", "ssim", "psnr (channel=rgb, crop=4)"} < found[0].keys()
    kept_files = sorted((tmp_path / "validation" / "step-2").iterdir())
    assert [file.name for file in kept_files] == ["0000.png", "0001.png", "0002.png"]
    assert found[0]["psnr"] != found[2]["psnr"]
    with Image.open(tmp_path / "validation" / "step-2.png") as grid:
        assert grid.size == (4 * 64, 16 + 2 * 64)
        restored, hr = (grid.crop((x, 16, x + 64, 80)) for x in (128, 192))
        lr = grid.crop((0, 16, 64, 80)).resize((16, 16), Image.Resampling.NEAREST)
    with Image.open(tmp_path / "validation" / "step-2" / "0000.png") as kept:
        assert np.array_equal(kept, restored)
    # The same as a user gets from the checkpoint.
    low = (pairs / "lowlevel_prompt_q" / "0__v0.txt").read_text()
    pipe = build_pipeline(model=str(tiny_model), checkpoint=last, device="cpu")
    image = pipe(lr, seed=0, prompt="", low_prompt=low, num_inference_steps=1).image
    assert psnr(*map(np.asarray, (image, restored))) > 45
    assert psnr(*map(np.asarray, (image, hr))) < 45


def test_validation_changes_nothing(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    validation = {"folders": [pairs], **VALIDATION}
    train(config(tmp_path / "one", pairs, tiny_model))
    train(config(tmp_path / "two", pairs, tiny_model, validation=validation))
    assert [line["loss"] for line in log_of(tmp_path / "one")] == [line["loss"] for line in log_of(tmp_path / "two")]


def test_compiled_networks_are_validated_and_stay_compiled(
    tmp_path: Path, pairs: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[torch.nn.Module] = []

    def count_calls(network: Any) -> None:  # in place of the compiler, which takes minutes
        network._compiled_call_impl = lambda *args, **kwargs: (
            calls.append(network) or network._call_impl(*args, **kwargs)
        )

    monkeypatch.setattr(torch.nn.Module, "compile", count_calls)
    options: dict[str, Any] = {"steps": 2, "validation": {"folders": [pairs], **VALIDATION}}
    train(config(tmp_path / "compiled", pairs, tiny_model, compile=True, **options))
    train(config(tmp_path / "plain", pairs, tiny_model, **options))
    assert validations_of(tmp_path / "compiled") == validations_of(tmp_path / "plain")
    assert len(calls) == 2 * options["steps"]  # of two networks, and none of them for validation


def test_photos_are_degraded_for_validation(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    (tmp_path / "photos").mkdir()
    for seed in range(2):
        tiny.photo(66, 70, seed).save(tmp_path / "photos" / f"{seed}.png")
    validation = {"folders": [tmp_path / "photos"], **VALIDATION}
    run = TrainingRun(config(tmp_path, pairs, tiny_model, validation=validation))
    assert run.validation is not None
    assert [(image.lr.size, image.hr.size) for image in run.validation.images] == [((16, 16), (64, 64))] * 2
    assert all("blur" in image.low for image in run.validation.images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": ["psnrr"]}, "Did you mean 'psnr'?"),
        ({"best": "dists"}, "validation.best: 'dists' is not measured"),
        ({"settings": {"stepps": 3}}, "stepps: there is no such option"),
    ],
)
def test_mistakes_are_found_before_training(
    tmp_path: Path, pairs: Path, tiny_model: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, UnknownComponent), match=message.replace("?", r"\?")):
        TrainingRun(config(tmp_path, pairs, tiny_model, validation={"folders": [pairs], **VALIDATION, **change}))


@pytest.mark.filterwarnings("ignore:A held-out image is left out")
def test_a_crop_that_is_too_small_to_restore_is_named(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    with pytest.raises(TrainingError, match=r"a held-out crop of 32 pixels is too small at scale 4: at least 64"):
        TrainingRun(config(tmp_path, pairs, tiny_model, validation={"folders": [pairs], **VALIDATION, "crop": 32}))
