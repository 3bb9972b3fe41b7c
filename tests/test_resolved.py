"""Resolved settings: all defaults are filled in."""

from __future__ import annotations

from types import NoneType
from typing import get_args

import pytest

from tests.support import tiny
from xpsr_sdk import ConfigError, ImageError
from xpsr_sdk.config import ModelDefaults, RestoreConfig
from xpsr_sdk.data.photo import load_photo
from xpsr_sdk.resolved import SIZES, ResolvedSettings, resolve

DECIDED_LATER = {"prompt", "low_prompt", "tile_batch", "vae_rows", *SIZES}
"""By the prompt provider, by the memory plan, and for each photo."""


def test_only_what_is_decided_later_may_be_none() -> None:
    fields = ResolvedSettings.model_fields
    assert fields.keys() == RestoreConfig.model_fields.keys()
    assert {name for name, field in fields.items() if NoneType in get_args(field.annotation)} == DECIDED_LATER


def test_the_call_goes_before_the_pipeline_and_the_pipeline_before_the_model() -> None:
    own = RestoreConfig(guidance_scale=2, num_inference_steps=7)
    chosen = resolve(own, {"num_inference_steps": 3, "scale": None}, ModelDefaults(fidelity=0.25))
    assert (chosen.num_inference_steps, chosen.guidance_scale, chosen.fidelity, chosen.scale) == (3, 2, 0.25, 4)


@pytest.mark.parametrize(("given", "steps"), [({}, 20), ({"speed": "fast"}, 10), ({"num_inference_steps": 8}, 8)])
def test_a_speed_takes_its_share_of_the_models_steps(given: dict[str, object], steps: int) -> None:
    assert resolve(RestoreConfig(), given, ModelDefaults()).num_inference_steps == steps


def test_a_seed_is_drawn_unless_it_is_given() -> None:
    seeds = {resolve(RestoreConfig(), {}, ModelDefaults()).seed for _ in range(5)}
    assert len(seeds) == 5
    assert resolve(RestoreConfig(seed=3), {}, ModelDefaults()).seed == 3


def test_what_was_resolved_resolves_to_itself() -> None:
    first = resolve(RestoreConfig(), {"speed": "balanced", "fidelity": 0.5}, ModelDefaults())
    assert resolve(RestoreConfig(), first.model_dump(), ModelDefaults(num_inference_steps=3)) == first


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({}, (160, 120)),
        ({"scale": 2}, (80, 60)),
        ({"width": 100}, (100, 75)),
        ({"height": 75}, (100, 75)),
        ({"width": 100, "height": 100}, (100, 75)),
        ({"max_side": 30}, (30, 22)),
        ({"megapixels": 0.012}, (126, 95)),
    ],
)
def test_a_photo_is_enlarged_to_the_size_that_is_asked_for(given: dict[str, object], size: tuple[int, int]) -> None:
    photo = load_photo(tiny.photo(40, 30), RestoreConfig())
    assert photo.target_size(resolve(RestoreConfig(**given), {}, ModelDefaults())) == size
    # The size of a call takes the place of that of the pipeline.
    assert photo.target_size(resolve(RestoreConfig(max_side=50), given or {"scale": 4}, ModelDefaults())) == size


def test_several_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^scale and width each say how large the result is: give one of them"):
        resolve(RestoreConfig(), {"scale": 2, "width": 100}, ModelDefaults())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max_side": 400}, r"10\.0 times as large, and 8 times is the most"),
        ({"max_side": 17}, "would be 17x13: it needs"),
    ],
)
def test_a_size_that_a_photo_cannot_have(given: dict[str, object], words: str) -> None:
    photo = load_photo(tiny.photo(40, 30), RestoreConfig())
    with pytest.raises(ImageError, match=words):
        photo.target_size(resolve(RestoreConfig(), given, ModelDefaults()))
