"""The settings of a call as typed keywords, for type checkers and editors: the fields of the configs, all optional.

Tests compare them with ``xpsr_sdk.RestoreConfig`` and ``xpsr_sdk.PipelineConfig``, which say what each one means.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, TypedDict

from xpsr_sdk.config import (
    AlphaTreatment,
    ColorCorrection,
    Dtype,
    ExecutionConfig,
    LongPrompts,
    MetadataTreatment,
    ProfileTreatment,
    Speed,
)

if TYPE_CHECKING:
    import torch


class RestoreSettings(TypedDict, total=False):
    """What can be set for a single photo: the fields of ``xpsr_sdk.RestoreConfig``."""

    scale: float | None
    width: int | None
    height: int | None
    max_side: int | None
    megapixels: float | None
    num_inference_steps: int | None
    guidance_scale: float | None
    fidelity: float | None
    conditioning_scale: float
    seed: int | None
    color: ColorCorrection | None
    upscaler_tile: int
    tile: int | None
    tile_overlap: int
    region: int
    region_overlap: int
    alpha: AlphaTreatment
    profile: ProfileTreatment
    metadata: MetadataTreatment
    max_megapixels: float
    max_result_megapixels: float
    tile_batch: int | None
    vae_rows: int | None
    speed: Speed | None
    guidance_interval: tuple[float, float] | None
    reuse_interval: int | None
    prompt: str | None
    low_prompt: str | None
    positive: str | None
    long_prompts: LongPrompts
    prompt_weights: bool
    negative: str | None
    low_negative: str | None


class PipelineSettings(RestoreSettings, total=False):
    """What can be set for a pipeline: the fields of ``xpsr_sdk.PipelineConfig``, except its parts."""

    model: str | PathLike[str]
    checkpoint: str | PathLike[str] | None
    checkpoint_weights: str | None
    vae: str | PathLike[str] | None
    lora: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    embedding: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    device: str | torch.device | None
    dtype: Dtype | torch.dtype | None
    execution: ExecutionConfig | dict[str, Any]
