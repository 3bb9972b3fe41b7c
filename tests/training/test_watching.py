"""What a run tells about itself: its log, trackers, and looks at held-out images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from tests.training.runs import config, log_of
from xpsr_sdk import ConfigError, TrainingError, build_pipeline
from xpsr_sdk.evaluation.metrics import psnr
from xpsr_sdk.training.loop import TrainingRun, train

LOOKS: dict[str, Any] = {"every": 1, "images": 3, "shown": 2, "crop": 64, "settings": {"num_inference_steps": 1}}


def figures_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "validation.jsonl").read_text().splitlines()]


def test_each_line_says_what_a_researcher_watches(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    train(config(tmp_path, pairs, tiny_model))
    for line in log_of(tmp_path):
        groups = {name for name in line if name.startswith("grad_norm/")}
        assert groups == {f"grad_norm/controlnet{part}" for part in ("", ".fusion", ".heads")} | {
            "grad_norm/unet.pixel_attention"
        }
        assert line["grad_norm"] == pytest.approx(sum(line[group] ** 2 for group in groups) ** 0.5, rel=1e-4)
        assert line["images_per_second"] > 0
        assert line["peak_memory"] > 0
        assert line["data_wait"] >= 0


def test_tensorboard_is_told(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    looks = {"folders": [pairs], **LOOKS}
    train(config(tmp_path, pairs, tiny_model, steps=2, trackers=None, validation=looks))
    events = EventAccumulator(str(tmp_path / "trackers" / "xpsr"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss_diffusion")] == [1, 2]
    assert "validation/psnr" in events.Tags()["scalars"]
    assert events.Images("validation")


def test_held_out_images_are_looked_at(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    looks = {"folders": [pairs], **LOOKS}
    last = train(config(tmp_path, pairs, tiny_model, steps=2, validation=looks))
    found = figures_of(tmp_path)
    assert [line["step"] for line in found] == [0, 1, 2]
    assert {"psnr", "ssim"} < found[0].keys()
    assert found[0]["psnr"] != found[2]["psnr"]
    with Image.open(tmp_path / "validation" / "step-2.png") as grid:
        assert grid.size == (4 * 64, 16 + 2 * 64)
        restored, hr = (grid.crop((x, 16, x + 64, 80)) for x in (128, 192))
        lr = grid.crop((0, 16, 64, 80)).resize((16, 16), Image.Resampling.NEAREST)
    # The same as a user gets from the checkpoint.
    low = (pairs / "lowlevel_prompt_q" / "0__v0.txt").read_text()
    pipe = build_pipeline(model=str(tiny_model), checkpoint=last, device="cpu")
    image = pipe(lr, seed=0, prompt="", low_prompt=low, num_inference_steps=1).image
    assert psnr(*map(np.asarray, (image, restored))) > 45
    assert psnr(*map(np.asarray, (image, hr))) < 45


def test_looking_changes_nothing(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    looks = {"folders": [pairs], **LOOKS}
    train(config(tmp_path / "one", pairs, tiny_model))
    train(config(tmp_path / "two", pairs, tiny_model, validation=looks))
    assert [line["loss"] for line in log_of(tmp_path / "one")] == [line["loss"] for line in log_of(tmp_path / "two")]


def test_compiled_networks_are_looked_at_and_stay_compiled(
    tmp_path: Path, pairs: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[torch.nn.Module] = []

    def count_calls(network: Any) -> None:  # in place of the compiler, which takes minutes
        network._compiled_call_impl = lambda *args, **kwargs: (
            calls.append(network) or network._call_impl(*args, **kwargs)
        )

    monkeypatch.setattr(torch.nn.Module, "compile", count_calls)
    options: dict[str, Any] = {"steps": 2, "validation": {"folders": [pairs], **LOOKS}}
    train(config(tmp_path / "compiled", pairs, tiny_model, compile=True, **options))
    train(config(tmp_path / "plain", pairs, tiny_model, **options))
    assert figures_of(tmp_path / "compiled") == figures_of(tmp_path / "plain")
    assert len(calls) == 2 * options["steps"]  # of two networks, and none of them for a look


def test_the_best_checkpoint_is_kept(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    looks = {"folders": [pairs], **LOOKS}
    options: dict[str, Any] = {"checkpoint_every": 1, "keep_checkpoints": 1, "validation": looks}
    train(config(tmp_path, pairs, tiny_model, steps=4, optimizer__learning_rate=0.3, **options))
    found = {line["step"]: line["psnr"] for line in figures_of(tmp_path) if line["step"]}
    best = max(found, key=lambda step: found[step])
    kept = {int(p.name.removeprefix("checkpoint-")) for p in tmp_path.glob("checkpoint-*")}
    assert kept == {best, 4}


def test_photos_are_degraded_for_a_look(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    (tmp_path / "photos").mkdir()
    for seed in range(2):
        tiny.photo(66, 70, seed).save(tmp_path / "photos" / f"{seed}.png")
    looks = {"folders": [tmp_path / "photos"], **LOOKS}
    validation = TrainingRun(config(tmp_path, pairs, tiny_model, validation=looks)).validation
    assert validation is not None
    assert [(image.lr.size, image.hr.size) for image in validation.held_out] == [((16, 16), (64, 64))] * 2
    assert all("blur" in image.low for image in validation.held_out)


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
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        TrainingRun(config(tmp_path, pairs, tiny_model, validation={"folders": [pairs], **LOOKS, **change}))


@pytest.mark.parametrize(
    ("name", "message"), [("tensorbord", "Did you mean 'tensorboard'"), ("dvclive", "dvclive is not installed: pip")]
)
def test_trackers_that_cannot_be_had_are_named(
    tmp_path: Path, pairs: Path, tiny_model: Path, name: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingRun(config(tmp_path, pairs, tiny_model, trackers=[name]))


def test_a_crop_that_is_too_small_to_restore_is_named(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    with pytest.raises(TrainingError, match=r"a held-out crop of 32 pixels is too small at scale 4: at least 64"):
        TrainingRun(config(tmp_path, pairs, tiny_model, validation={"folders": [pairs], **LOOKS, "crop": 32}))
