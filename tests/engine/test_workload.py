"""``xpsr_sdk.engine.workload``: when memory runs out, less is computed at once, and nothing done or learnt is lost."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support import tiny
from xpsr_sdk import ImageError, Pipeline, build_pipeline
from xpsr_sdk.data.photo import load_photo

PHOTO = tiny.photo(60, 40)


@pytest.fixture
def own(tiny_model: Path) -> Pipeline:
    """A pipeline that the test may change."""
    return build_pipeline(model=str(tiny_model), device="cpu")


def refuse(pipeline: Pipeline, too_much: Callable[[torch.Tensor], bool]) -> None:
    """Let the U-Net run out of memory with certain latents."""
    forward = pipeline.unet.forward

    def limited(x: torch.Tensor, *rest: Any, **options: Any) -> Any:
        if too_much(x):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(x, *rest, **options)

    pipeline.unet.forward = limited


def test_when_memory_runs_out_less_is_tried_and_nothing_lost(own: Pipeline, pipe: Pipeline) -> None:
    refuse(own, lambda x: len(x) > 1)
    with pytest.warns(UserWarning, match="Out of memory: trying again with") as caught:
        result = own(PHOTO, tile=64, seed=1, fidelity=0)
    assert [str(w.message) for w in caught] == [
        "Out of memory: trying again with tile_batch 2.",
        "Out of memory: trying again with tile_batch 1.",
    ]
    assert result.plan.settings.tile_batch == 1
    assert result.image.tobytes() == pipe(PHOTO, tile=64, seed=1, fidelity=0, tile_batch=1).image.tobytes()


def test_when_decoding_fails_nothing_is_sampled_again() -> None:
    options: dict[str, Any] = {"seed": 1, "num_inference_steps": 2}
    pipe = build_pipeline(tiny.sd_config(), sampler="ddim")
    expected = pipe(PHOTO, **options).image
    evaluated: list[int] = []
    refused: list[int] = []

    def refuse_once(*_: Any) -> None:
        if not refused:
            refused.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")

    pipe.unet.register_forward_pre_hook(lambda *_: evaluated.append(1))
    pipe.vae.decoder.register_forward_pre_hook(refuse_once)
    with pytest.warns(UserWarning, match=r"^Out of memory: trying again with vae_rows 128\.$"):
        result = pipe(PHOTO, **options)
    assert len(evaluated) == 2
    assert np.abs(np.asarray(result.image, int) - np.asarray(expected, int)).mean() < 1  # rows are exact to 1e-3


def test_smaller_tiles_are_the_last_resort(own: Pipeline) -> None:
    refuse(own, lambda x: x.shape[-1] > 32)
    with pytest.warns(UserWarning, match="trying again with tile 128, tile_overlap 32"):
        result = own(PHOTO, tile=256)
    assert result.image.size == (240, 160)
    assert result.plan.settings.tile == 128


def test_what_fits_nowhere_is_told_in_a_sentence(own: Pipeline) -> None:
    refuse(own, lambda x: True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImageError, match=r"the image cannot be restored: memory ran out, .*CUDA") as error:
            own(PHOTO, tile=64)
    assert isinstance(error.value.__cause__, torch.OutOfMemoryError)


def test_a_batch_of_photos_that_does_not_fit_is_split(own: Pipeline, pipe: Pipeline) -> None:
    refuse(own, lambda x: len(x) > 2)
    chosen = [own.resolve({"seed": seed, "tile": 64, "tile_batch": 2, "low_prompt": "blurry"}) for seed in (1, 2)]
    with pytest.warns(UserWarning, match="^Out of memory: trying again with fewer photos at a time.$"):
        results = own.restore([load_photo(PHOTO, chosen[0])] * 2, chosen)
    assert [result.plan.images for result in results] == [1, 1]
    for result, settings in zip(results, chosen, strict=True):
        alone = pipe.restore([load_photo(PHOTO, settings)], [settings])[0]
        assert result.image.tobytes() == alone.image.tobytes()


def test_a_batch_that_cannot_be_decoded_is_split_without_sampling_again() -> None:
    pipe = build_pipeline(tiny.sd_config(), sampler="ddim")
    evaluated: list[int] = []

    def refuse_several(_: Any, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    pipe.unet.register_forward_pre_hook(lambda *_: evaluated.append(1))
    pipe.vae.decoder.register_forward_pre_hook(refuse_several)
    chosen = [pipe.resolve({"seed": seed, "num_inference_steps": 2, "low_prompt": "blurry"}) for seed in (1, 2, 3)]
    with pytest.warns(UserWarning, match="fewer photos at a time"):
        results = pipe.restore([load_photo(tiny.photo(20, 16), each) for each in chosen], chosen)
    assert len(evaluated) == 2
    assert [result.picture.size for result in results] == [(80, 64)] * 3
    assert results[0].plan.images == 1


def test_what_transparency_has_taught_holds_for_the_next_region() -> None:
    pipe = build_pipeline(tiny.sd_config(), sampler="ddim")
    decoded_whole: list[int] = []

    def refuse_later(decoder: torch.nn.Module, _: Any) -> None:
        if "forward" in vars(decoder):  # some rows at a time
            return
        decoded_whole.append(1)
        if len(decoded_whole) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    pipe.vae.decoder.register_forward_pre_hook(refuse_later)
    photo = tiny.photo(90, 50).convert("RGBA")
    photo.putalpha(Image.fromarray(np.tile(np.arange(0, 180, 2, dtype=np.uint8), (50, 1))))
    with pytest.warns(UserWarning, match="Out of memory") as caught:
        result = pipe(photo, seed=1, num_inference_steps=1, region=256, region_overlap=32)
    assert result.plan.regions == 2
    assert [str(w.message) for w in caught] == ["Out of memory: trying again with vae_rows 128."]
    assert result.plan.settings.vae_rows == 128
