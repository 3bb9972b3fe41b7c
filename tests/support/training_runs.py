"""Short training runs of tiny models, and what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.support import tiny
from xpsr_sdk.config import load_config
from xpsr_sdk.models.checkpoints import WEIGHTS
from xpsr_sdk.training.config import TrainConfig

VALIDATION: dict[str, Any] = {"every": 1, "images": 3, "shown": 2, "crop": 64, "settings": {"num_inference_steps": 1}}


def config(output: Path, pairs: Path, base: Path, **changes: Any) -> TrainConfig:
    """A run of three steps; ``section__field`` changes a section's field."""
    values: dict[str, Any] = {
        "output": output,
        "steps": 3,
        "batch_size": 2,
        "device": "cpu",
        "log_every": 1,
        "trackers": [],
        "model": {"base": base},
        "data": {"folders": [pairs], "crop": 32, "hr_as_input": 0.2},
        "optimizer": {"learning_rate": 1e-3, "ema_decay": 0.5},
    }
    if not (base / "controlnet").is_dir():
        values["model"]["conditioning_widths"] = tiny.CONDITIONING_WIDTHS
    for name, value in changes.items():
        section, _, field = name.rpartition("__")
        (values.setdefault(section, {}) if section else values)[field] = value
    return load_config(TrainConfig, values, "the test")


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    found = {}
    for part in ("unet", "controlnet"):
        found |= {f"{part}.{name}": tensor for name, tensor in load_file(checkpoint / part / WEIGHTS).items()}
    return found


def log_of(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def validations_of(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "validation.jsonl").read_text().splitlines()]
