"""Resolved settings: all defaults are filled in."""

from __future__ import annotations

from types import NoneType
from typing import get_args

import pytest

from xpsr_sdk.config import ModelDefaults, RestoreConfig
from xpsr_sdk.resolved import ResolvedSettings, resolve

DECIDED_LATER = {"prompt", "low_prompt", "tile_batch", "vae_rows"}
"""By the prompt provider, and by the memory plan."""


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
