"""A tiny restoration and a tiny training run that use the part under test."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, lcm
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xpsr_sdk.build import build_pipeline
from xpsr_sdk.contracts import Item
from xpsr_sdk.data.images import to_image, to_tensor, write_image
from xpsr_sdk.pipeline import Pipeline
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.testing.subject import require
from xpsr_sdk.testing.tiny import photo, write_configs
from xpsr_sdk.training.config import TrainConfig
from xpsr_sdk.training.loop import train


def check_restoration(model: Path, registry: Registry, **parts: Any) -> Pipeline:
    """Restore photos with the model of a folder and the given parts. Returns the pipeline."""
    pipeline = build_pipeline(model=str(model), registry=registry, device="cpu", **parts)
    one = Item(photo(23, 17), Path("photos/one.png"))
    other = Item(photo(20, 31, seed=1), Path("photos/other.png"))
    for fidelity in (0.0, 0.6, 1.0):
        settings: dict[str, Any] = {"seed": 1, "scale": 2, "fidelity": fidelity, "num_inference_steps": 3}
        first = pipeline(one, **settings).image
        require(first.size == (46, 34), f"a photo of 23x17 at scale 2 came out as {first.width}x{first.height}")
        pipeline(other, **settings | {"tile": 32, "tile_overlap": 16, "tile_batch": 2})
        again = pipeline(one, **settings).image
        require(pixels_same(first, again), f"the same photo and seed gave two different results at fidelity {fidelity}")
    return pipeline


def check_training(
    folder: Path,
    registry: Registry,
    model: dict[str, Any],
    degrade: Callable[[Any], Any],
    scale: int = 2,
    **options: Any,
) -> Path:
    """Train for two steps in ``folder``. Returns the checkpoint.

    Args:
        folder: Where to write.
        registry: The registry in which components are looked up.
        model: The section ``model`` of the config. Without ``base``, a tiny model is trained from scratch.
        degrade: ``degrade(hr)`` makes the LR image of an HR image, 1 3 H W in [0, 1].
        scale: How many times smaller the LR image is.
        options: Other fields of the config.
    """
    fitting = lcm(8, scale)  # 8: 4 pixels per latent, and the U-Net halves the latents once
    side = fitting * ceil(32 / fitting)
    for i in range(2):
        hr = photo(side, side, seed=i)
        write_image(hr, folder / "pairs" / "HR" / f"{i}.png")
        write_image(to_image(degrade(to_tensor(hr))), folder / "pairs" / "LR" / f"{i}.png")
    if "base" not in model:
        write_configs(folder / "base")
        model = {"base": folder / "base", "backbone": "residual", "from_scratch": True, **model}
    config = TrainConfig.model_validate(
        {
            "output": folder / "run",
            "steps": 2,
            "batch_size": 2,
            "device": "cpu",
            "trackers": (),
            "model": {"conditioning_widths": (4, 8, 8), **model},
            "data": {"folders": (folder / "pairs",), "crop": side},
            **options,
        }
    )
    checkpoint = train(config, registry)
    require((checkpoint / "controlnet" / "config.json").is_file(), "training wrote no checkpoint")
    return checkpoint


def pixels_same(a: Image.Image, b: Image.Image) -> bool:
    """Whether two pictures are equal."""
    return np.array_equal(np.asarray(a), np.asarray(b))
