"""What a run reports: its log, its trackers, and which checkpoint was the best."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.training_runs import VALIDATION, config, log_of, validations_of
from xpsr_sdk import ConfigError, TrainingError
from xpsr_sdk.training.loop import TrainingRun, train
from xpsr_sdk.training.run_log import read_lines


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

    validation = {"folders": [pairs], **VALIDATION}
    train(config(tmp_path, pairs, tiny_model, steps=2, trackers=None, validation=validation))
    events = EventAccumulator(str(tmp_path / "trackers" / "xpsr"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss_diffusion")] == [1, 2]
    assert "validation/psnr" in events.Tags()["scalars"]
    assert events.Images("validation")


def test_the_best_checkpoint_is_kept(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    validation = {"folders": [pairs], **VALIDATION}
    options: dict[str, Any] = {"checkpoint_every": 1, "keep_checkpoints": 1, "validation": validation}
    train(config(tmp_path, pairs, tiny_model, steps=4, optimizer__learning_rate=0.1, **options))
    found = {line["step"]: line["psnr"] for line in validations_of(tmp_path) if line["step"]}
    best = max(found, key=lambda step: found[step])
    kept = {int(p.name.removeprefix("checkpoint-")) for p in tmp_path.glob("checkpoint-*")}
    assert kept == {best, 4}


@pytest.mark.parametrize(
    ("name", "message"), [("tensorbord", "Did you mean 'tensorboard'"), ("dvclive", "dvclive is not installed: pip")]
)
def test_trackers_that_cannot_be_had_are_named(
    tmp_path: Path, pairs: Path, tiny_model: Path, name: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingRun(config(tmp_path, pairs, tiny_model, trackers=[name]))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_lines_of_a_log_that_are_none_are_left_out_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    deep = "[" * 100_000
    others = ["[]", "{", '{"step": "1"}', '{"step": -1}', '{"step": true}', "\x00", deep, '{"loss": 1}']
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(['{"step": 1, "loss": Infinity}', *others, '{"step": 2, "loss": 0.5}', '{"step": 3, "lo']))
    assert read_lines(log) == [{"step": 1, "loss": float("inf")}, {"step": 2, "loss": 0.5}]
    log.unlink()
    os.mkfifo(log)
    with pytest.raises(TrainingError, match="it is a device or a pipe"):
        read_lines(log)
