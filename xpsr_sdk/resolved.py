"""The settings of one call, completed with the defaults of the pipeline and of the model."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from math import ceil
from typing import Annotated, Any

from pydantic import Field

from xpsr_sdk.config import (
    DEFAULT_SCALE,
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

SIZES = ("scale", "width", "height", "max_side", "megapixels")
"""The settings that say how large the result is. One of them does, or width and height together."""


class ResolvedSettings(RestoreConfig):
    """The settings of one call, with all defaults filled in.

    Some fields may still be None. For ``prompt`` and ``low_prompt``, None means that the prompt provider is asked. For
    ``tile_batch`` and ``vae_rows``, it means that the memory plan decides. Of the settings in ``SIZES``, all are None
    but those that say how large the result is.
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


def resolve(
    own: RestoreConfig,
    given: Mapping[str, Any],
    defaults: ModelDefaults,
    of_sampler: Mapping[str, Any] | None = None,
) -> ResolvedSettings:
    """Complete the settings of a call. If no seed is given, a random one is drawn here.

    A setting of the call comes first, then one of the pipeline, then the sampler's default, then the model's.

    Args:
        own: The settings of the pipeline.
        given: The settings of the call; None counts as not given.
        defaults: The defaults of the model.
        of_sampler: The defaults of the sampler, if it has any.

    Raises:
        ConfigError: A setting is unknown, out of range, or conflicts with another one.
    """
    of_call = {name: value for name, value in given.items() if value is not None}
    of_pipeline = own.model_dump()
    if any(name in of_call for name in SIZES):  # a size replaces another one
        of_pipeline |= dict.fromkeys(SIZES)
    merged = load_config(RestoreConfig, {**of_pipeline, **of_call}, "The call")
    speed = merged.speed or "exact"
    checked = load_config(RestoreConfig, of_sampler or {}, "The table 'defaults' of the sampler")
    default = defaults.model_dump() | checked.model_dump(exclude_unset=True)
    default |= {
        "num_inference_steps": ceil(default["num_inference_steps"] * SPEEDS[speed].steps_share),
        "guidance_interval": SPEEDS[speed].guidance_interval,
        "reuse_interval": SPEEDS[speed].reuse_interval,
        "speed": speed,
        "seed": secrets.randbelow(2**31),
    }
    chosen = merged.model_dump()
    if _sizes(chosen) == []:
        chosen["scale"] = DEFAULT_SCALE
    filled = {name: default.get(name) if value is None else value for name, value in chosen.items()}
    resolved = ResolvedSettings(**filled)
    if resolved.tile_overlap >= resolved.tile:
        raise ConfigError(f"tile_overlap is {resolved.tile_overlap}: it must be less than tile, {resolved.tile}.")
    if 2 * resolved.region_overlap >= resolved.region:
        raise ConfigError(
            f"region_overlap is {resolved.region_overlap}: it must be less than half of region, {resolved.region}."
        )
    return resolved


def _sizes(given: Mapping[str, Any]) -> list[str]:
    """Which settings say how large the result is.

    Raises:
        ConfigError: Several do.
    """
    sizes = [name for name in SIZES if given[name] is not None]
    if len(sizes) > 1 and sizes != ["width", "height"]:
        raise ConfigError(
            f"{' and '.join(sizes)} each say how large the result is: give one of them, or width and height together."
        )
    return sizes
