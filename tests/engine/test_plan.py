"""Photos are cut so that they fit into memory."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import tiny
from xpsr_sdk import Pipeline, build_pipeline
from xpsr_sdk.engine import plan

PHOTO = tiny.photo(60, 40)


@pytest.fixture
def own(tiny_model: Path) -> Pipeline:
    """A pipeline that the test may change."""
    return build_pipeline(model=str(tiny_model), device="cpu")


def with_free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    libraries = int(plan.LIBRARY_BYTES["cpu"] / plan.RESERVE) + 1
    monkeypatch.setattr(plan, "free_memory", lambda device: libraries + size)


def test_as_many_tiles_a_pass_as_fit(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def batch(free: int) -> Any:
        with_free(monkeypatch, free)
        return pipe.explain(PHOTO, tile=64).settings.tile_batch

    one = pipe.explain(PHOTO, tile=64).feature_bytes // int(pipe.explain(PHOTO, tile=64).settings.tile_batch or 1)
    assert one > 0
    assert [batch(int(share * one / 0.8) + 1) for share in (0, 1, 2.5, 1000)] == [1, 1, 2, 4]
    assert pipe.explain(PHOTO, tile=64, tile_batch=3).settings.tile_batch == 3


def test_the_number_of_tiles_stands_in_the_plan(pipe: Pipeline) -> None:
    first = pipe(PHOTO, tile=64, fidelity=0)
    again = pipe(PHOTO, **first.plan.settings.model_dump(exclude={"seed"}), seed=first.seed)
    assert first.plan.settings.tile_batch == 4
    assert first.image.tobytes() == again.image.tobytes()


def test_when_memory_is_short_the_text_encoder_leaves_until_it_is_needed(
    own: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ["on the device"]
    move = own.text_encoder.to

    def moved(device: Any) -> None:
        move(device)
        where.append(
            "in host memory" if device == "cpu" else "on the device"
        )  # which are one here: by how it is called

    monkeypatch.setattr(own.text_encoder, "to", moved)
    own.text_encoder.register_forward_pre_hook(lambda *_: where.append("encodes"))
    expected = own(PHOTO, tile=64, tile_batch=1, seed=1, prompt="a cat").image
    assert "in host memory" not in where
    with_free(monkeypatch, 0)
    for _ in range(2):
        assert own(PHOTO, tile=64, seed=1, prompt="a cat").image.tobytes() == expected.tobytes()
    once = ["encodes", "in host memory"]
    assert [place for place, _ in groupby(where)] == ["on the device", *once, "on the device", *once]


def test_a_large_image_is_decoded_in_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, checkpoint = str(tiny.SD_TINY / "base"), tiny.SD_TINY / "xpsr"
    pipe = build_pipeline(model=model, checkpoint=checkpoint, device="cpu", dtype="float32")
    options: dict[str, Any] = {"seed": 1, "num_inference_steps": 1, "tile": 128, "color": "none"}
    whole = pipe(PHOTO, **options)
    assert whole.plan.settings.vae_rows is None
    explained = pipe.explain(PHOTO, **options)
    with_free(monkeypatch, explained.decoder_bytes // 2)
    assert "128 rows at a time" in str(pipe.explain(PHOTO, **options))
    in_rows = pipe(PHOTO, **options, tile_batch=whole.plan.settings.tile_batch, vae_rows=32)
    assert in_rows.plan.settings.vae_rows == 32
    assert levels(in_rows.image, whole.image) <= 1


def levels(a: Image.Image, b: Image.Image) -> int:
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


def test_the_explanation_names_what_is_needed(pipe: Pipeline) -> None:
    lines = str(pipe.explain(PHOTO, tile=64, speed="fast", guidance_scale=3)).splitlines()
    names = ["Result", "Upscaler", "Device", "Weights", "Tiles", "Autoencoder", "Steps"]
    assert [line.partition(":")[0] for line in lines] == names
    assert lines[2].startswith("Device:      cpu, float32, ")
    assert "28 of 16 x 16 latents, 4 a pass" in lines[4]
    assert "2, guidance 3 in (0.4, 1.0)" in lines[6]
