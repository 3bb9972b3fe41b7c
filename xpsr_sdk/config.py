"""What can be configured: one set of pydantic models for Python, the command line and TOML files.

Everything is frozen and unknown names are errors. Components are given by name, or as a table with ``name`` and the
component's own options. ``None`` always means the default, since TOML has no null.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from xpsr_sdk.contracts import Options
from xpsr_sdk.errors import ConfigError, config_error
from xpsr_sdk.files.reading import read_toml as read_toml_file
from xpsr_sdk.files.remote import place

PRESETS = Path(__file__).parent / "presets"
"""Folder of the models that are shipped with the package."""
Component = str | dict[str, Any]
FileType = Literal["avif", "jpeg", "jpg", "png", "tif", "tiff", "webp"]
Dtype = Literal["float32", "bfloat16", "float16"]
LongPrompts = Literal["cut", "chunks"]
ColorCorrection = Literal["none", "adain", "wavelet", "lab"]
AlphaTreatment = Literal["restore", "resize"]
ProfileTreatment = Literal["keep", "convert"]
MetadataTreatment = Literal["keep", "strip"]
Speed = Literal["exact", "balanced", "fast"]
Compile = Literal["default", "reduce-overhead", "max-autotune"]
Offload = Literal["model", "group"]
Quantization = Literal["int8", "fp8", "nf4"]


def ascending(interval: tuple[float, float]) -> tuple[float, float]:
    """The interval, unless it ends before it begins."""
    if interval[0] > interval[1]:
        raise ValueError(f"it must go from the lower to the higher value, as [{interval[1]:g}, {interval[0]:g}] does")
    return interval


Steps = Annotated[int, Field(ge=1, le=1000)]
Guidance = Annotated[float, Field(ge=0, le=50)]
Share = Annotated[float, Field(ge=0, le=1)]
DEFAULT_SCALE = 4.0
Interval = Annotated[tuple[Share, Share], AfterValidator(ascending)]
Reuse = Annotated[int, Field(ge=1, le=20)]
TileSide = Annotated[int, Field(ge=16)]
TargetSide = Annotated[int, Field(ge=16, le=1_000_000)]
"""The allowed ranges of settings that a call can set and for which a model can have its own defaults."""


class Settings(Options):
    """Base of all configs: as the options of components, and with ``~`` and URLs in paths."""

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_empty_paths(cls, value: Any, info: ValidationInfo) -> Any:
        """An empty text would be taken for the current folder."""
        is_path = "Path" in str(cls.model_fields[str(info.field_name)].annotation)
        if is_path and (value == "" or (isinstance(value, list | tuple) and "" in value)):
            raise ValueError("it is empty, and must name a file or a folder.")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _expand_home(cls, value: Any) -> Any:
        """``~`` at the beginning of a path is the home folder, as in a shell; a URL is a remote path."""
        if isinstance(value, Path):
            return place(os.path.expanduser(value))
        if isinstance(value, tuple) and any(isinstance(part, Path) for part in value):
            return tuple(place(os.path.expanduser(part)) for part in value)
        return value


AnySettings = TypeVar("AnySettings", bound=Settings)


class RestoreConfig(Settings):
    """How photos are restored; each field can also be set for a single call."""

    scale: Annotated[float, Field(ge=1, le=8)] | None = Field(
        None,
        description="How many times larger the result is, in each direction. None: 4, or what width, height, max_side "
        "or megapixels say.",
    )
    width: TargetSide | None = Field(
        None, description="Width of the result in pixels, instead of a scale. With height: the result fits into both."
    )
    height: TargetSide | None = Field(None, description="Height of the result in pixels, instead of a scale.")
    max_side: TargetSide | None = Field(None, description="Longer side of the result in pixels, instead of a scale.")
    megapixels: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None, description="Megapixels of the result, instead of a scale."
    )
    num_inference_steps: Steps | None = Field(
        None,
        title="Steps",
        description="Largest number of model evaluations. A sampler that evaluates the model twice in each step, "
        "such as heun, takes half as many steps. (diffusers counts steps, not evaluations.) None: the default of the "
        "sampler or, if it has none, of the model.",
    )
    guidance_scale: Guidance | None = Field(
        None,
        description="Classifier-free guidance scale; 1 turns guidance off. None: the default of the sampler or, if it "
        "has none, of the model.",
    )
    fidelity: Share | None = Field(
        None, description="1: closest to the input; 0: most realistic. None: the model's default."
    )
    conditioning_scale: float = Field(1.0, ge=0, le=2, description="Strength of the ControlNet.")
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="Seed of the noise. None: a random seed, which the result reports."
    )
    color: ColorCorrection | None = Field(
        None, description="How the result is corrected to the colours of the input. None: the model's default."
    )
    upscaler_tile: int = Field(
        384, ge=32, description="Side of the upscaler's tiles, in pixels of the photo before it is enlarged."
    )
    tile: TileSide | None = Field(
        None,
        description="Side of a tile in output pixels; larger photos are restored in tiles. None: the model's default.",
    )
    tile_overlap: int = Field(32, ge=0, description="Overlap of neighbouring tiles in output pixels.")
    region: int = Field(
        2048,
        ge=256,
        description="Side of a region in output pixels. Larger photos are restored region by region, and only the "
        "regions that are being restored are in memory.",
    )
    region_overlap: int = Field(128, ge=0, description="Overlap of neighbouring regions in output pixels.")
    alpha: AlphaTreatment = Field(
        "restore", description="Whether the model restores transparency too, or it is only resized (bicubic)."
    )
    profile: ProfileTreatment = Field(
        "keep", description="Whether colours keep their ICC profile, or are converted to sRGB."
    )
    metadata: MetadataTreatment = Field(
        "keep", description="Whether EXIF, XMP and IPTC metadata are kept in the result, or left out."
    )
    max_megapixels: float = Field(
        300.0, gt=0, description="Photos with more megapixels are refused, however small their files are."
    )
    max_result_megapixels: float = Field(
        256.0,
        gt=0,
        description="Photos whose result would have more megapixels are refused before any work is done, since they "
        "may take hours: allow more if you mean it.",
    )
    tile_batch: Annotated[int, Field(ge=1)] | None = Field(
        None, description="How many tiles one forward pass restores. None: as many as fit into memory."
    )
    vae_rows: Annotated[int, Field(ge=8, multiple_of=2)] | None = Field(
        None, description="How many rows the autoencoder computes at a time. None: as many as fit into memory."
    )
    speed: Speed | None = Field(
        None,
        description="A preset that trades quality for speed. It sets the defaults of num_inference_steps, "
        "guidance_interval and reuse_interval; values that you set yourself win. None: exact.",
    )
    guidance_interval: Interval | None = Field(
        None,
        description="The part of the noise schedule, from share to share, in which guidance is applied. "
        "None: as the speed preset says.",
    )
    reuse_interval: Reuse | None = Field(
        None,
        description="How many evaluations in a row use the same ControlNet features and deep U-Net features. "
        "1: each computes its own. None: as the speed preset says.",
    )
    prompt: str | None = Field(None, description="What the photo shows. None: ask the prompt provider.")
    low_prompt: str | None = Field(
        None, description="How good or bad the photo's quality is. None: ask the prompt provider."
    )
    positive: str | None = Field(
        None, description="Words that are added to every high-level prompt. None: the model's default."
    )
    long_prompts: LongPrompts = Field(
        "cut",
        description="What happens to a prompt that is longer than the text encoder can read: it is cut, with a "
        "warning, or it is encoded in chunks.",
    )
    prompt_weights: bool = Field(
        False,
        description="Whether (word:1.2) sets a word's weight in the prompts that you write. Descriptions by a prompt "
        "provider never set weights.",
    )
    negative: str | None = Field(None, description="Negative high-level prompt. None: the model's default.")
    low_negative: str | None = Field(None, description="Negative low-level prompt. None: the model's default.")


class OutputConfig(Settings):
    """How results are written."""

    format: FileType | None = Field(
        None, description="Type of the results. None: that of the photo, or PNG if that type cannot be written."
    )
    quality: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="Quality of JPEG, WebP and AVIF files. None: 95, and 90 for AVIF."
    )
    suffix: Annotated[str, Field(pattern=r"^[^/\\]*$")] | None = Field(
        None, description="What is added to the names of the results, before the file extension: _x4 for instance."
    )


class SpeedSet(Settings):
    """The settings that a value of ``speed`` stands for."""

    steps_share: float = Field(1.0, gt=0, le=1, description="Number of evaluations, as a share of the model's default.")
    guidance_interval: Interval = Field(
        (0.0, 1.0), description="The part of the noise schedule in which guidance is applied."
    )
    reuse_interval: Reuse = Field(1, description="How many evaluations in a row use the same deep features.")


SPEEDS: dict[Speed, SpeedSet] = {
    "exact": SpeedSet(),
    "balanced": SpeedSet(guidance_interval=(0.2, 1.0), reuse_interval=2),
    "fast": SpeedSet(steps_share=0.5, guidance_interval=(0.4, 1.0), reuse_interval=2),
}
"""The speed presets, from the slowest to the fastest."""


class ExecutionConfig(Settings):
    """How the networks are executed."""

    compile: Compile | None = Field(
        None,
        description="Mode of torch.compile. None: not compiled. Compiled networks round differently and see photos "
        "padded to multiples of 128 pixels, so the photo changes a little.",
    )
    offload: Offload | None = Field(
        None,
        description="What is kept in host memory and moved to the device only when it is needed: whole models "
        "(model), or groups of their layers (group). None: nothing.",
    )
    quantize: Quantization | None = Field(
        None,
        description="How the weights of the U-Net, the ControlNet and the text encoders are kept: in 8 bits (int8; "
        "fp8 on GPUs) or in 4 bits (nf4; needs the extra bitsandbytes). It saves memory, costs some time, and changes "
        "the photo a little. None: in the precision of the computation.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.compile and self.offload:
            raise ValueError("compile and offload cannot be combined: offloaded weights cannot be compiled.")
        return self


class PipelineConfig(RestoreConfig):
    """What ``xpsr_sdk.build_pipeline`` builds."""

    model: str = Field(
        "nano",
        description="A preset, a folder in the diffusers layout, a file that holds a whole Stable Diffusion, or the "
        "id of a model on the hub. With none, there is no diffusion model, and only the upscaler enlarges the photo.",
    )
    checkpoint: Path | None = Field(
        None,
        description="Folder of a checkpoint, or its id on the hub: its unet/ and controlnet/ replace those of the "
        "model.",
    )
    checkpoint_weights: str | None = Field(
        None,
        description="File name of the checkpoint's weights. Pickled weights are read only if it is a .bin file.",
    )
    vae: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="A folder or a file with another autoencoder (VAE) for the same latents. None: the model's own.",
    )
    lora: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        None,
        description="LoRAs that are merged into the weights, as FILE or FILE:WEIGHT each. A folder with "
        "pytorch_lora_weights.safetensors, or an id on the hub, may stand for the file.",
    )
    embedding: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        None, description="Embeddings (textual inversion): files of which each teaches the word that is its name."
    )
    backbone: Component | None = Field(None, description="Backbone. None: the one that the model names.")
    prompt_provider: Component | None = Field(
        None, description="Prompt provider, which describes the photos. None: 'measured'."
    )
    sampler: Component | None = Field(None, description="Sampler. None: the one that the model names.")
    upscaler: Component | None = Field(
        None,
        description="Upscaler, which brings the photo to the size at which it is restored. None: the one that the "
        "model names.",
    )
    device: str | None = Field(
        None, description="Device to run on. None: the first one available of cuda, xpu, mps and cpu."
    )
    dtype: Dtype | None = Field(
        None,
        description="Precision. None: the model's default; if it has none, bfloat16 where the hardware supports it "
        "natively, else float32.",
    )
    execution: ExecutionConfig = Field(default_factory=ExecutionConfig, description="How the networks are executed.")

    @field_validator("lora", "embedding", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        """One file as a list of one, and paths as text."""
        if isinstance(value, str | os.PathLike):
            value = [value]
        is_list = isinstance(value, Sequence) and not isinstance(value, bytes)
        return [os.fspath(each) if isinstance(each, os.PathLike) else each for each in value] if is_list else value

    @field_validator("vae", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    @field_validator("model", "device", "dtype", mode="before")
    @classmethod
    def _in_words(cls, value: Any) -> Any:
        """A path, a ``torch.device`` or a ``torch.dtype`` as the text that stands for it. A path is never a preset."""
        if type(value).__module__ == "torch":
            return str(value).removeprefix("torch.")
        return os.path.abspath(os.path.expanduser(value)) if isinstance(value, os.PathLike) else value


def load_config(cls: type[AnySettings], values: Mapping[str, Any], where: str) -> AnySettings:
    """Validate values against a config model.

    Args:
        cls: The model to validate with.
        values: What to validate.
        where: What error messages call the values, for instance a file's name.

    Raises:
        ConfigError: A field is unknown or wrong; the message has a line for each.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise config_error(where, error, cls) from None


def with_settings(config: PipelineConfig | None, settings: Mapping[str, Any], where: str) -> PipelineConfig:
    """A copy of the config in which the settings that are not None replace its own. See ``load_config``."""
    given = config.model_dump(exclude_unset=True) if config else {}
    given |= {name: value for name, value in settings.items() if value is not None}
    return load_config(PipelineConfig, given, where)


def read_toml(cls: type[AnySettings], file: Path, overrides: Sequence[str] = ()) -> AnySettings:
    """A config from a TOML file, with ``"section.field=value"`` overrides.

    Raises:
        ConfigError: The file is missing, is not TOML, or a field is wrong.
    """
    values = read_toml_file(file, ConfigError)
    for override in overrides:
        set_override(values, override, cls)
    return load_config(cls, values, str(file))


def set_override(values: dict[str, Any], override: str, schema: type[BaseModel] | None = None) -> None:
    """Set ``"section.field=value"`` in a tree of tables; the value is TOML, or a bare word.

    A component that is chosen by name, there or by the default of the schema, becomes a table that takes options:
    ``"data.degradation.scale=2"``.

    Raises:
        ConfigError: The override has another form, or names something as a section that is not one.
    """
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"{override!r} is not an override: write section.field=value.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text  # a bare word is a string, as people write it in a shell
    *sections, field = name.split(".")
    for section in sections:
        field_info = schema.model_fields.get(section) if schema else None
        own = values.get(section, field_info.default if field_info else None)
        if isinstance(own, str) and field_info and field_info.annotation in (Component, Component | None):
            values[section] = {"name": own}
        elif isinstance(own, dict):  # tables by name, such as the terms of a loss: those of the default are kept
            dumped = {k: v.model_dump(exclude_unset=True) if isinstance(v, BaseModel) else v for k, v in own.items()}
            values[section] = dumped
        schema = _section_of(field_info)
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{override!r}: {section} is not a section.")
    values[field] = value


def _section_of(field_info: FieldInfo | None) -> type[BaseModel] | None:
    """The model of a field that is a section."""
    kinds = (field_info.annotation, *get_args(field_info.annotation)) if field_info else ()
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


class RunnerConfig(Settings):
    """Where a work on many photos is done. The results are the same everywhere."""

    runner: str = Field("local", description="local: this machine; ray: a cluster, with the plug-in xpsr-ray.")
    workers: Annotated[int, Field(ge=1, le=10_000)] | Literal["gpus"] = Field(
        1,
        description="Processes that work, each with its own models, and its own GPU if there are several. gpus: as many"
        " as there are GPUs.",
    )
    address: str | None = Field(
        None, description="Address of the cluster, for a runner that has one: auto, ray://HOST:PORT."
    )
    worker_gpus: Annotated[float, Field(ge=0)] | None = Field(
        None, description="GPUs of a worker on a cluster; 0.5: two workers share one. None: one if there are any."
    )
    worker_timeout: Annotated[float, Field(gt=0, le=1_000_000)] | None = Field(
        None, description="Seconds after which a worker that is busy with one photo or batch is ended. None: no limit."
    )


class ModelDefaults(Settings):
    """The default settings of a model, from ``defaults`` in its ``model_index.json``.

    What is missing there has the value that XPSR uses.
    """

    num_inference_steps: Steps = Field(20, description="Largest number of model evaluations.")
    guidance_scale: Guidance = Field(5.0, description="Classifier-free guidance scale; 1 turns guidance off.")
    fidelity: Share = Field(0.0, description="1: closest to the input; 0: most realistic.")
    start: Literal["lr", "mean", "photo"] = Field(
        "lr",
        description="The latents to which noise is added before sampling. lr: those of the upscaled input; the higher"
        " the fidelity, the less noise. mean: the model's estimate of the mean of all sharp photos that fit the input;"
        " fidelity then says how much of this estimate is blended into the result. photo: those of the photo itself,"
        " enlarged bicubically, to which no noise is added; for models that were distilled to one step. fidelity then"
        " says how much of the photo is blended into the result.",
    )
    photo_share: Share = Field(
        0.0,
        description="With start = mean: how much of the photo itself, enlarged bicubically, is in the estimate that"
        " fidelity blends in. Cameras sharpen their photos to a degree that no model can know, and a mean of the two"
        " is closer to most originals than either.",
    )
    noisiest_start: Share = Field(
        1.0, description="Where in the noise schedule sampling starts at fidelity 0, as a share of the schedule."
    )
    color: ColorCorrection = Field("adain", description="How the result is corrected to the colours of the input.")
    tile: TileSide = Field(512, description="Side of a tile in output pixels; larger photos are restored in tiles.")
    sampler: Component = Field("unipc", description="Sampler.")
    upscaler: Component = Field(
        "bicubic", description="Upscaler, which brings the photo to the size at which it is restored."
    )
    dtype: Dtype | None = Field(
        None, description="Precision. None: bfloat16 where the hardware supports it natively, else float32."
    )
    positive: str = Field(
        "clean, high-resolution, 8k, high quality, clear text.",
        description="Words that are added to every high-level prompt.",
    )
    negative: str = Field(
        "blurry, dotted, noise, raster lines, unclear, lowres, over-smoothed.",
        description="Negative high-level prompt.",
    )
    low_negative: str = Field("high resolution, best quality, clear", description="Negative low-level prompt.")


def backbone_of(index: Mapping[str, Any]) -> Component:
    """The backbone that a ``model_index.json`` names, or else the one for its pipeline of diffusers."""
    named: Component | None = index.get("backbone")
    is_xl = str(index.get("_class_name")).startswith("StableDiffusionXL")
    return named or ("stable-diffusion-xl" if is_xl else "stable-diffusion")


def read_defaults(index: Mapping[str, Any]) -> ModelDefaults:
    """The defaults in a ``model_index.json``."""
    return load_config(ModelDefaults, index.get("defaults") or {}, "model_index.json, defaults")
