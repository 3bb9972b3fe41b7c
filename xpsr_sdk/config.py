"""What can be configured: one set of pydantic models for Python, the command line and TOML files.

Everything is frozen and unknown names are errors. Components are given by name, or as a table with ``name`` and the
component's own options. ``None`` always means the default, since TOML has no null.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from xpsr_sdk.errors import ConfigError, config_error

PRESETS = Path(__file__).parent / "presets"
"""Models that are shipped with the package."""
Component = str | dict[str, Any]
Dtype = Literal["float32", "bfloat16", "float16"]
LongPrompts = Literal["cut", "chunks"]
ColorCorrection = Literal["none", "adain", "wavelet", "lab"]
AlphaTreatment = Literal["restore", "resize"]
ProfileTreatment = Literal["keep", "convert"]
MetadataTreatment = Literal["keep", "strip"]
Speed = Literal["exact", "balanced", "fast"]
Compile = Literal["default", "reduce-overhead", "max-autotune"]
Offload = Literal["model", "group"]
Steps = Annotated[int, Field(ge=1, le=1000)]
Guidance = Annotated[float, Field(ge=0, le=50)]
Share = Annotated[float, Field(ge=0, le=1)]
Reuse = Annotated[int, Field(ge=1, le=20)]
TileSide = Annotated[int, Field(ge=16)]
"""Ranges of what can be set for a call, and by a model as its default."""


class Settings(BaseModel):
    """Base of all configs: frozen, unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


AnySettings = TypeVar("AnySettings", bound=Settings)


class RestoreConfig(Settings):
    """How photos are restored; each field can also be set for a single call."""

    scale: float = Field(4.0, ge=1, le=8, description="How many times larger the result is, in each direction.")
    num_inference_steps: Steps | None = Field(
        None,
        description="How many times the model is evaluated, at most. A sampler that evaluates it twice a step, such as "
        "heun, takes half as many steps; diffusers counts steps. None: the model's.",
    )
    guidance_scale: Guidance | None = Field(None, description="Classifier-free guidance; 1 is none. None: the model's.")
    fidelity: Share | None = Field(None, description="1: closest to the input; 0: most realistic. None: the model's.")
    conditioning_scale: float = Field(1.0, ge=0, le=2, description="Strength of the ControlNet.")
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="Seed of the noise. None: drawn, and told in the result."
    )
    color: ColorCorrection | None = Field(None, description="How the colours of the input are kept. None: the model's.")
    upscaler_tile: int = Field(
        384, ge=32, description="Side of the upscaler's tiles, in pixels of the photo before it is enlarged."
    )
    tile: TileSide | None = Field(
        None, description="Side of a tile in output pixels; larger photos are restored in tiles. None: the model's."
    )
    tile_overlap: int = Field(32, ge=0, description="Overlap of neighbouring tiles in output pixels.")
    region: int = Field(
        2048,
        ge=256,
        description="Side of a region in output pixels; larger photos are restored region by region, of which only "
        "those in flight are in memory.",
    )
    region_overlap: int = Field(128, ge=0, description="Overlap of neighbouring regions in output pixels.")
    alpha: AlphaTreatment = Field(
        "restore", description="Transparency is restored by the model, or only resized (bicubic)."
    )
    profile: ProfileTreatment = Field("keep", description="Colours keep their ICC profile, or are converted to sRGB.")
    metadata: MetadataTreatment = Field("keep", description="EXIF, XMP and IPTC are kept in the result, or left out.")
    max_megapixels: float = Field(300.0, gt=0, description="Larger photos are refused, whatever their file's size.")
    tile_batch: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Tiles a forward pass. None: as many as fit into memory."
    )
    vae_rows: Annotated[int, Field(ge=8, multiple_of=2)] | None = Field(
        None, description="Rows that the autoencoder computes at a time. None: all where they fit, else some."
    )
    speed: Speed | None = Field(
        None, description="A set of approximations, which hold where nothing else is said. None: exact."
    )
    guidance_interval: tuple[Share, Share] | None = Field(
        None, description="Shares of the noise schedule between which there is guidance. None: that of speed."
    )
    reuse_interval: Reuse | None = Field(
        None, description="Evaluations that share the ControlNet's and the deep features. None: that of speed."
    )
    prompt: str | None = Field(None, description="What the photo shows. None: ask the prompt provider.")
    low_prompt: str | None = Field(None, description="How good the photo is. None: ask the prompt provider.")
    positive: str | None = Field(None, description="Words added to every high-level prompt. None: the model's.")
    long_prompts: LongPrompts = Field(
        "cut",
        description="What becomes of a prompt that is longer than the text encoder reads: cut, with a warning, or read "
        "in chunks, one after the other.",
    )
    prompt_weights: bool = Field(
        False, description="Whether (word:1.2) in prompts that are written here sets weights; in descriptions, never."
    )
    negative: str | None = Field(None, description="Negative high-level prompt. None: the model's.")
    low_negative: str | None = Field(None, description="Negative low-level prompt. None: the model's.")


class SpeedSet(Settings):
    """What a ``speed`` stands for."""

    steps_share: float = Field(1.0, gt=0, le=1, description="Share of the model's own number of steps.")
    guidance_interval: tuple[Share, Share] = Field((0.0, 1.0), description="Where there is guidance.")
    reuse_interval: Reuse = Field(1, description="Evaluations that share deep features.")


SPEEDS: dict[Speed, SpeedSet] = {
    "exact": SpeedSet(),
    "balanced": SpeedSet(guidance_interval=(0.2, 1.0), reuse_interval=2),
    "fast": SpeedSet(steps_share=0.5, guidance_interval=(0.4, 1.0), reuse_interval=2),
}
"""The sets of approximations, from the slowest to the fastest."""


class ExecutionConfig(Settings):
    """How the networks are executed."""

    compile: Compile | None = Field(
        None,
        description="Mode of torch.compile. None: not compiled. Compiled networks round differently and see photos "
        "padded to multiples of 128 pixels, so the photo changes a little.",
    )
    offload: Offload | None = Field(
        None,
        description="What waits in host memory until it is needed: whole models (model), or their layers (group). "
        "None: nothing.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.compile and self.offload:
            raise ValueError("compile and offload exclude each other: weights that come and go cannot be compiled in.")
        return self


class PipelineConfig(RestoreConfig):
    """What ``xpsr_sdk.build_pipeline`` builds."""

    model: str = Field(
        "nano",
        description="A preset, a folder in the diffusers layout, or the id of a model on the hub; none: the upscaler"
        " alone enlarges.",
    )
    checkpoint: Path | None = Field(None, description="Folder with unet/ and controlnet/ that replace the model's.")
    checkpoint_weights: str | None = Field(
        None, description="File name of the checkpoint's weights; name a .bin to allow pickled ones."
    )
    backbone: Component | None = Field(None, description="Backbone. None: the one that the model names.")
    prompt_provider: Component | None = Field(None, description="Who describes the photos. None: 'measured'.")
    sampler: Component | None = Field(None, description="Sampler. None: the one that the model names.")
    upscaler: Component | None = Field(
        None, description="What brings the photo to the size at which it is restored. None: what the model names."
    )
    device: str | None = Field(None, description="Where it runs. None: the first there is of cuda, xpu, mps, cpu.")
    dtype: Dtype | None = Field(
        None,
        description="Precision. None: the model's, else bfloat16 where the hardware multiplies in it, else float32.",
    )
    execution: ExecutionConfig = Field(default_factory=ExecutionConfig, description="How the networks are executed.")


def load_config(cls: type[AnySettings], values: Mapping[str, Any], where: str) -> AnySettings:
    """Validate.

    Args:
        cls: The model to validate with.
        values: What to validate.
        where: What to call it in messages, for instance a file's name.

    Raises:
        ConfigError: A field is unknown or wrong; the message has a line for each.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise config_error(where, error, cls) from None


def with_settings(config: PipelineConfig | None, settings: Mapping[str, Any], where: str) -> PipelineConfig:
    """The config, with those settings that are not None in place of its own. See ``load_config``."""
    given = config.model_dump(exclude_unset=True) if config else {}
    given |= {name: value for name, value in settings.items() if value is not None}
    return load_config(PipelineConfig, given, where)


def read_toml(cls: type[AnySettings], file: Path, overrides: Sequence[str] = ()) -> AnySettings:
    """A config from a TOML file, with ``"section.field=value"`` overrides.

    Raises:
        ConfigError: The file is missing, is not TOML, or a field is wrong.
    """
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} is not a TOML file that can be read: {error}.") from None
    for override in overrides:
        set_override(values, override)
    return load_config(cls, values, str(file))


def set_override(values: dict[str, Any], override: str) -> None:
    """Set ``"section.field=value"`` in a tree of tables; the value is TOML, or a bare word.

    Raises:
        ConfigError: It is written otherwise, or what it calls a section is none.
    """
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"{override!r} is no override: write section.field=value.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string, as people write it in a shell
    *sections, field = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{override!r}: {section} is not a section.")
    values[field] = value


class ModelDefaults(Settings):
    """What a model was made for; stands in its ``model_index.json`` under ``defaults``. Its own defaults are XPSR's."""

    num_inference_steps: Steps = Field(20, description="How many times the model is evaluated, at most.")
    guidance_scale: Guidance = Field(5.0, description="Classifier-free guidance; 1 is none.")
    fidelity: Share = Field(0.0, description="1: closest to the input; 0: most realistic.")
    start: Literal["lr", "mean"] = Field(
        "lr",
        description="What noise is added to before sampling: the input's latents (lr), the less of it the higher the"
        " fidelity; or the model's estimate of the mean of all sharp photos (mean), with which the result is then"
        " blended as fidelity says.",
    )
    noisiest_start: Share = Field(
        1.0, description="Share of the noise schedule at which sampling starts, for fidelity 0."
    )
    color: ColorCorrection = Field("adain", description="How the colours of the input are kept.")
    tile: TileSide = Field(512, description="Side of a tile in output pixels; larger photos are restored in tiles.")
    sampler: Component = Field("unipc", description="Sampler.")
    upscaler: Component = Field("bicubic", description="What brings the photo to the size at which it is restored.")
    dtype: Dtype | None = Field(
        None, description="Precision. None: bfloat16 where matrices are multiplied in it, else float32."
    )
    positive: str = Field(
        "clean, high-resolution, 8k, high quality, clear text.", description="Words added to every high-level prompt."
    )
    negative: str = Field(
        "blurry, dotted, noise, raster lines, unclear, lowres, over-smoothed.",
        description="Negative high-level prompt.",
    )
    low_negative: str = Field("high resolution, best quality, clear", description="Negative low-level prompt.")


def backbone_of(index: Mapping[str, Any]) -> Component:
    """The backbone that a ``model_index.json`` names."""
    return index.get("backbone") or "stable-diffusion"


def read_defaults(index: Mapping[str, Any]) -> ModelDefaults:
    """The defaults in a ``model_index.json``."""
    return load_config(ModelDefaults, index.get("defaults") or {}, "model_index.json, defaults")
