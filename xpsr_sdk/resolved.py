"""The settings of one call, with everything filled in that the call leaves to the pipeline or to the model."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from math import ceil
from typing import Annotated, Any

from pydantic import Field

from xpsr_sdk.config import (
    SPEEDS,
    ColorCorrection,
    Guidance,
    ModelDefaults,
    RestoreConfig,
    Reuse,
    Share,
    Speed,
    Steps,
    TileSide,
    load_config,
)
from xpsr_sdk.errors import ConfigError


class ResolvedSettings(RestoreConfig):
    """The settings of one call. No field waits for a default any more.

    Four fields may still be None. ``prompt`` and ``low_prompt``: the prompt provider is asked. ``tile_batch`` and
    ``vae_rows``: the memory plan decides.
    """

    num_inference_steps: Steps
    guidance_scale: Guidance
    fidelity: Share
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    color: ColorCorrection
    tile: TileSide
    speed: Speed
    guidance_interval: tuple[Share, Share]
    reuse_interval: Reuse
    positive: str
    negative: str
    low_negative: str


def resolve(own: RestoreConfig, given: Mapping[str, Any], defaults: ModelDefaults) -> ResolvedSettings:
    """The settings of a call: what is given for it, else the pipeline's own, else the model's. A seed is drawn here.

    Args:
        own: The pipeline's.
        given: The call's; None counts as not given.
        defaults: The model's.

    Raises:
        ConfigError: A setting is unknown, out of range, or does not go with another one.
    """
    of_call = {name: value for name, value in given.items() if value is not None}
    merged = load_config(RestoreConfig, {**own.model_dump(), **of_call}, "The call")
    speed = merged.speed or "exact"
    of_model = defaults.model_dump() | {
        "num_inference_steps": ceil(defaults.num_inference_steps * SPEEDS[speed].steps_share),
        "guidance_interval": SPEEDS[speed].guidance_interval,
        "reuse_interval": SPEEDS[speed].reuse_interval,
        "speed": speed,
        "seed": secrets.randbelow(2**31),
    }
    chosen = merged.model_dump()
    filled = {name: of_model.get(name) if value is None else value for name, value in chosen.items()}
    resolved = ResolvedSettings(**filled)
    if resolved.tile_overlap >= resolved.tile:
        raise ConfigError(f"tile_overlap is {resolved.tile_overlap}: it must be less than tile, {resolved.tile}.")
    if 2 * resolved.region_overlap >= resolved.region:
        raise ConfigError(
            f"region_overlap is {resolved.region_overlap}: it must be less than half of region, {resolved.region}."
        )
    return resolved
