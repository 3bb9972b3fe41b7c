"""The config of a training run."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from xpsr_sdk.config import Component, Dtype, Settings
from xpsr_sdk.contracts import PromptLevel


class ModelSection(Settings):
    """What is trained."""

    base: str | Path = Field(
        description="Base model: a preset (nano), a folder in the diffusers layout (a whole XPSR model is allowed), a "
        "file that holds a whole Stable Diffusion, or the id of a model on the hub."
    )
    checkpoint: Path | None = Field(
        None,
        description="Checkpoint to start from: a folder, or its id on the hub. None: fresh XPSR parts on the base.",
    )
    from_scratch: bool = Field(
        False,
        description="Whether the U-Net and the text encoder start from random weights. The base then only needs their "
        "configs.",
    )
    backbone: Component | None = Field(
        None, description="Backbone that reads the base folder. None: the one that the base names."
    )
    upscaler: Component | None = Field(
        None, description="Upscaler, which enlarges the photos before the model restores them. None: the base's own."
    )
    fusion: Component | None = Field(None, description="Fusion attention of a fresh ControlNet. None: XPSR's own.")
    conditioning_widths: tuple[Annotated[int, Field(ge=1, le=2048)], ...] = Field(
        (16, 32, 96, 256),
        min_length=2,
        max_length=8,
        description="Widths of a fresh conditioning encoder, one for each level. A latent that stands for 8 x 8 pixels "
        "needs 4 levels, one for 4 x 4 pixels needs 3.",
    )
    conditioning_channels: Literal[3, 6] = Field(
        3, description="Input of a fresh ControlNet: only the upscaled image (3), or also the photo itself (6)."
    )
    pixel_attention: tuple[bool, ...] | None = Field(
        None, description="Which decoder blocks of a fresh U-Net have pixel attention, deepest first. None: all."
    )
    train: tuple[str, ...] = Field(
        ("controlnet.*", "unet.*pixel_attentions*", "unet.*fusions*"),
        description="Patterns of the parameters to train; all others are frozen.",
    )
    lora_rank: int = Field(
        0, ge=0, le=1024, description="Rank of the LoRA that is trained on the base U-Net's own attention. 0: none."
    )
    frozen_in_half: bool = Field(
        False,
        description="Store frozen weights in the precision of the forward pass. This saves memory and trains the same.",
    )
    shard_frozen: bool = Field(
        False, description="Shard the frozen layers of the U-Net over the processes (FSDP), if there are several."
    )

    @cached_property
    def base_folder(self) -> Path:
        """The folder of the base model, which is looked for when this is read first: see ``find_model``."""
        from xpsr_sdk.models.find_model import find_model  # here, since it loads torch

        return find_model(self.base)


class DataSection(Settings):
    """What it is trained on."""

    folders: tuple[Path, ...] = Field(
        min_length=1,
        description="Folders of shards, of pairs in the published form, or of photos; * is allowed.",
    )
    degradation: Component = Field(
        "realesrgan", description="Degradation model that makes the LR images of photos that have none."
    )
    prompt_provider: Component = Field(
        "measured", description="Prompt provider that describes the quality of those LR images."
    )
    levels: tuple[PromptLevel, ...] = Field(
        ("high", "low"), description="Which prompts are used; a level that is left out is empty text."
    )
    crop: int = Field(512, ge=16, description="Side of the HR crops, in pixels.")
    hr_as_input: float = Field(0.1, ge=0, le=1, description="Share of images whose input is the HR image itself.")
    prompt_dropout: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of prompts, at each level, that are replaced by empty text, which classifier-free guidance "
        "needs. (The published code has no prompt dropout.)",
    )
    max_failed: float = Field(
        0.05,
        ge=0,
        le=1,
        description="The run stops when more than this share of its images could not be used, or has no low-level "
        "prompt because the prompt provider failed.",
    )
    keep_in_memory: int = Field(0, ge=0, description="How many decoded images each worker keeps in memory.")
    workers: int = Field(
        0, ge=0, le=256, description="Processes that read and degrade images beside each training process. 0: none."
    )


Beta = Annotated[float, Field(ge=0, lt=1)]
TermLabel = Annotated[str, Field(pattern=r"^[a-z0-9]+([_-][a-z0-9]+)*$")]
"""What a term is called in the log and in checkpoints."""


class WeightedTerm(Settings):
    """A term of the loss: its weight, and its own options beside it."""

    model_config = ConfigDict(extra="allow")

    weight: float = Field(1.0, ge=0, description="Factor of the term. 0: the term is left out.")
    name: str | None = Field(None, description="Which loss term it is. None: the one with the name of the table.")

    def choice(self, label: str) -> dict[str, Any]:
        """The component that is chosen, by its name and options. ``label`` is the name of the table."""
        return {"name": self.name or label, **(self.model_extra or {})}


class LossSection(Settings):
    """What is minimised: the weighted sum of the terms. And how noise is added to the latents."""

    terms: dict[TermLabel, WeightedTerm] = Field(
        {"diffusion": WeightedTerm(), "constraint": WeightedTerm(weight=0.05)},
        description="The terms, each a table with a weight and the options of the loss term. Those that are not named "
        "are not computed.",
    )
    noisiest_timestep: int | None = Field(
        None, ge=0, description="Timesteps are drawn uniformly up to this one. None: the last of the schedule."
    )
    mean_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of images on which the model learns to estimate the mean: their noisy latents are those of "
        "the input itself, at the last timestep of the schedule.",
    )
    estimate_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of images for which noise is added to the model's own estimate of the mean instead of the HR"
        " latents, as in sampling that starts from this estimate. The target is still the HR latents.",
    )


class OneStepSection(Settings):
    """Distillation to one step: the model learns to restore a photo in one evaluation, from its own latents."""

    timestep: int | None = Field(
        None, ge=0, description="The timestep at which the model is evaluated. None: the last of the schedule."
    )

    def defaults(self, last: int) -> dict[str, Any]:
        """The defaults of the model that such a run makes. ``last`` is the last timestep of the schedule."""
        share = (min(last if self.timestep is None else self.timestep, last) + 1) / (last + 1)
        return {"start": "photo", "noisiest_start": share, "fidelity": 0.0, "sampler": "one-step"} | {
            "num_inference_steps": 1, "guidance_scale": 1.0,
        }  # fmt: skip


class OptimizerSection(Settings):
    """How it is minimised."""

    name: Literal["adamw", "adamw-8bit"] = Field(
        "adamw", description="AdamW, or bitsandbytes' AdamW that holds its state in 8 bits (arXiv 2110.02861)."
    )
    learning_rate: float = Field(5e-5, gt=0, le=10)
    weight_decay: float = Field(1e-2, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    warmup_steps: int = Field(0, ge=0, description="Steps over which the learning rate rises.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="The learning rate after the warm-up: the same, or falling to zero at the last step."
    )
    ema_decay: float = Field(
        0.9999, ge=0, lt=1, description="Decay of the EMA weights, which checkpoints hold. 0: no EMA weights."
    )
    divergence: float = Field(
        50.0,
        gt=0,
        description="The run stops when a loss is this many standard deviations above the mean of the last 100 losses.",
    )


class ValidationSection(Settings):
    """Validation: held-out images are restored with the EMA weights, measured and shown."""

    folders: tuple[Path, ...] = Field(min_length=1, description="Held-out images, in any form that training reads.")
    every: int = Field(1000, ge=1, description="Steps between two validations.")
    images: int = Field(16, ge=1, description="How many images are measured; each metric is their mean.")
    shown: int = Field(4, ge=1, description="How many of them are shown in the grid: LR, bicubic, restored, HR.")
    keep: bool = Field(False, description="Write all restored images, to validation/step-N/ of the output.")
    crop: int | None = Field(None, ge=16, description="Side of the crop from the middle, in pixels. None: data.crop.")
    metrics: tuple[Component, ...] = Field(
        ("psnr", "ssim"), min_length=1, description="Metrics to measure, as xpsr evaluate and xpsr compare take them."
    )
    weights: Path | None = Field(None, description="Folder with the weights of the metrics. None: they are downloaded.")
    best: str | None = Field(
        None, description="The checkpoint that is best by this metric is always kept. None: the first of metrics."
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="Seed of degradations and noise, which are the same at every validation."
    )
    sampler: Component | None = Field(
        None, description="Sampler of the restoration. None: the one that the base names."
    )
    settings: dict[str, Any] = Field({}, description="Settings of the restoration, for instance num_inference_steps.")


class TrainConfig(Settings):
    """A training run: what ``xpsr train FILE`` reads."""

    output: Path = Field(description="Folder for checkpoints and the log.")
    steps: int = Field(ge=1, description="How many times the weights are updated.")
    batch_size: int = Field(
        ge=1, le=2**20, description="Images in each step, over all processes and all parts of gradient accumulation."
    )
    gradient_accumulation: int = Field(
        1, ge=1, description="Number of parts in which the images of a step are computed in turn, to save memory."
    )
    gradient_checkpointing: bool = Field(
        False, description="Whether features are computed again in the backward pass, to save memory."
    )
    compile: bool = Field(False, description="Whether the networks are compiled with torch.compile.")
    seed: int = Field(0, ge=0, lt=2**32)
    device: str | None = Field(
        None, description="Device to train on. None: the first one available of cuda, xpu, mps and cpu."
    )
    precision: Dtype = Field("float32", description="Precision of the forward pass (autocast); float16 needs a GPU.")
    checkpoint_every: int = Field(1000, ge=1)
    keep_checkpoints: int = Field(
        2, ge=1, description="How many of the newest checkpoints are kept, in addition to the best one."
    )
    log_every: int = Field(20, ge=1)
    trackers: tuple[str, ...] | None = Field(
        None, description="Experiment trackers, by accelerate's names for them. None: tensorboard, if it is installed."
    )
    model: ModelSection
    data: DataSection
    loss: LossSection = LossSection()
    one_step: OneStepSection | None = Field(
        None, description="Distillation to one step. None: the model learns to remove noise in several."
    )
    optimizer: OptimizerSection = OptimizerSection()
    validation: ValidationSection | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        idle = self.loss.model_fields_set & {"noisiest_timestep", "mean_share", "estimate_share"}
        if self.one_step and idle:
            raise ValueError(f"loss.{sorted(idle)[0]} is about noise, and one_step adds none: leave one of them out.")
        return self
