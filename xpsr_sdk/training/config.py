"""The config of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from xpsr_sdk.config import Component, Settings


class ModelSection(Settings):
    """What is trained."""

    base: Path = Field(description="Base model's folder in the diffusers layout, or a whole XPSR model's folder.")
    checkpoint: Path | None = Field(None, description="Checkpoint to start from. None: fresh XPSR parts on the base.")
    from_scratch: bool = Field(
        False, description="Start U-Net and text encoder from random weights: base then needs their configs only."
    )
    backbone: Component = Field("stable-diffusion", description="Backbone that reads the base folder.")
    fusion: Component | None = Field(None, description="Fusion attention of a fresh ControlNet. None: XPSR's own.")
    conditioning_widths: tuple[int, ...] = Field(
        (16, 32, 96, 256), min_length=2, description="Widths of a fresh conditioning encoder, one a level."
    )
    train: tuple[str, ...] = Field(
        ("controlnet.*", "unet.*pixel_attentions*", "unet.*fusions*"),
        description="Patterns of the parameters to train; all others are frozen.",
    )


class DataSection(Settings):
    """What it is trained on."""

    folders: tuple[Path, ...] = Field(
        min_length=1, description="Folders of pairs, in the published form; * is allowed."
    )
    crop: int = Field(512, ge=16, description="Side of the HR crops, in pixels.")
    hr_as_input: float = Field(0.1, ge=0, le=1, description="Share of images whose input is the HR image itself.")
    prompt_dropout: float = Field(
        0.1, ge=0, le=1, description="Share of empty prompts, a level, for guidance (the published code has none)."
    )
    keep_in_memory: int = Field(0, ge=0, description="How many decoded images to keep in memory.")


ErrorMeasure = Literal["mse", "log-mse"]


class LossSection(Settings):
    """What is minimised: L_D + constraint_weight * L_DFC."""

    error: ErrorMeasure = Field(
        "mse", description="L_D of an image: its mean squared error, or the logarithm of it, which is PSNR's measure."
    )
    constraint_weight: float = Field(0.05, ge=0, description="Lambda of the Degradation-Free Constraint.")
    weighting: Literal["uniform", "min-snr"] = Field(
        "uniform", description="Weight of L_D by timestep: none, or min-SNR (arXiv 2303.09556)."
    )
    snr_gamma: float = Field(5.0, gt=0, description="Gamma of min-SNR.")
    noisiest_timestep: int | None = Field(
        None, ge=0, description="Timesteps are drawn uniformly up to this one. None: the last of the schedule."
    )
    mean_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of images from which the mean is learned: at the schedule's last timestep, from zeros.",
    )
    perceptual_weight: float = Field(
        0.0, ge=0, description="Weight of LPIPS on the clean estimate, except at the schedule's last timestep."
    )
    perceptual_weights: Path | None = Field(
        None, description="Folder with the weights of LPIPS. None: pyiqa downloads them."
    )


class OptimizerSection(Settings):
    """How it is minimised: AdamW."""

    learning_rate: float = Field(5e-5, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    warmup_steps: int = Field(0, ge=0, description="Steps over which the learning rate rises.")
    schedule: Literal["constant", "cosine"] = Field("constant", description="The learning rate after the warm-up.")
    ema_decay: float = Field(0.9999, ge=0, lt=1, description="Decay of the averaged weights, which checkpoints hold.")


class TrainConfig(Settings):
    """A training run: what ``xpsr train FILE`` reads."""

    output: Path = Field(description="Folder for checkpoints and the log.")
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    seed: int = Field(0, ge=0, lt=2**32)
    device: str | None = Field(None, description="None: the first there is of cuda, xpu, mps, cpu.")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="Of the forward pass (autocast).")
    checkpoint_every: int = Field(1000, ge=1)
    keep_checkpoints: int = Field(2, ge=1, description="How many of the newest checkpoints stay.")
    log_every: int = Field(20, ge=1)
    model: ModelSection
    data: DataSection
    loss: LossSection = LossSection()
    optimizer: OptimizerSection = OptimizerSection()
