"""Validation: restores held-out images with the current model, each time with the same inputs and noise."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from xpsr_sdk.config import RestoreConfig, load_config
from xpsr_sdk.contracts import Item, Prompts, parts_of
from xpsr_sdk.data.images import to_image, to_tensor
from xpsr_sdk.data.photo import SMALLEST_SIDE
from xpsr_sdk.data.samples import Example, crop_of, scale_of
from xpsr_sdk.data.seeds import generator_for
from xpsr_sdk.errors import ConfigError, NonFiniteResult, PluginError, TrainingError, did_you_mean
from xpsr_sdk.evaluation.choosing import needed_metrics
from xpsr_sdk.evaluation.chosen import ChosenMetric
from xpsr_sdk.evaluation.scoring import mean_figures
from xpsr_sdk.library_internals import compilation_kept
from xpsr_sdk.models.checkpoints import read_json
from xpsr_sdk.models.schedule import NoiseSchedule
from xpsr_sdk.pipeline import Pipeline
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.training.config import TrainConfig
from xpsr_sdk.training.data import open_sources
from xpsr_sdk.training.models import trained_backbone, trained_upscaler
from xpsr_sdk.training.online_degradation import OnlineDegrader

COLUMNS = ("LR", "bicubic", "restored", "HR")
LABEL_HEIGHT = 16


@dataclass(frozen=True)
class ValidationImage:
    """A held-out image: its degraded input, the original, and the prompts."""

    lr: Image.Image
    hr: Image.Image
    high: str
    low: str


class Validation:
    """Restores held-out images as ``xpsr upscale`` would, and measures them as ``xpsr evaluate`` would.

    Args:
        config: The config of the run, which must have a validation section.
        backbone: The backbone of the run, with its weights loaded.
        registry: The registry in which components are looked up.

    Raises:
        ConfigError: A setting is unknown, or a metric's option is wrong.
        CheckpointError: The weights of a metric are missing.
        PluginError: A metric is unknown, or its plug-in is broken.
        TrainingError: A folder is missing, empty or damaged.
    """

    def __init__(self, config: TrainConfig, backbone: Any, registry: Registry) -> None:
        assert config.validation is not None
        self._config, self._section = config, config.validation
        self._backbone, self._registry = backbone, registry
        section = self._section
        self._settings = load_config(RestoreConfig, section.settings, "validation.settings")
        self.metrics = needed_metrics(section.metrics, registry, channel="y", weights=section.weights)
        names = [chosen.name for chosen in self.metrics]
        if section.best is not None and section.best not in names:
            raise ConfigError(f"validation.best: {section.best!r} is not measured. {did_you_mean(section.best, names)}")
        self._defaults = read_json(config.model.base_folder / "model_index.json").get("defaults") or {}
        if config.one_step:
            self._defaults = self._defaults | config.one_step.defaults(NoiseSchedule(backbone.scheduler).last)
        self.images = self._held_out_images()

    @property
    def best(self) -> ChosenMetric:
        """The metric by which checkpoints are compared."""
        wanted = self._section.best or self.metrics[0].name
        return next(chosen for chosen in self.metrics if chosen.name == wanted)

    @torch.no_grad()
    def run(
        self, unet: torch.nn.Module, controlnet: torch.nn.Module, autocast: AbstractContextManager[Any]
    ) -> tuple[dict[str, float], Image.Image, list[Image.Image]]:
        """The mean of each metric, a picture of some images, and all restored images."""
        networks = unet, controlnet
        modes = [network.training for network in networks]
        unet.eval(), controlnet.eval()
        with compilation_kept(*networks), autocast:
            pipeline = self._pipeline(unet, controlnet)  # it runs the networks without compilation
            restored = [self._restore(pipeline, image) for image in self.images]
        for network, mode in zip(networks, modes, strict=True):
            network.train(mode)
        rows = [
            [image.lr.resize(image.hr.size, Image.Resampling.NEAREST), _bicubic(image), result, image.hr]
            for image, result in islice(zip(self.images, restored, strict=True), self._section.shown)
        ]
        return self._metrics(restored), sheet(COLUMNS, rows), restored

    def bicubic(self) -> tuple[dict[str, float], list[Image.Image]]:
        """The mean of each metric for bicubic enlargement, and the images."""
        enlarged = [_bicubic(image) for image in self.images]
        return self._metrics(enlarged), enlarged

    def _metrics(self, restored: Sequence[Image.Image]) -> dict[str, float]:
        pairs = [(np.asarray(a), np.asarray(image.hr)) for a, image in zip(restored, self.images, strict=True)]
        return mean_figures(self.metrics, pairs)

    def _pipeline(self, unet: torch.nn.Module, controlnet: torch.nn.Module) -> Pipeline:
        parts = self._backbone
        pipeline = Pipeline(
            **parts_of(parts), unet=unet, controlnet=controlnet,
            backbone=trained_backbone(self._config.model), defaults=self._defaults,
        )  # fmt: skip
        pipeline.configure(
            backbone=parts,
            prompt_provider=self._registry.create("prompt_provider", "fixed"),
            sampler=self._registry.create("sampler", self._section.sampler or pipeline.defaults.sampler),
            upscaler=self._registry.create("upscaler", trained_upscaler(self._config.model)),
            settings=self._settings,
        )
        return pipeline

    def _restore(self, pipeline: Pipeline, image: ValidationImage) -> Image.Image:
        scale = image.hr.width / image.lr.width
        words: dict[str, Any] = {"prompt": image.high, "low_prompt": image.low}
        result = pipeline(Item(image.lr), scale=scale, seed=self._section.seed, **words)
        restored: Image.Image = result.image
        return restored

    def _held_out_images(self) -> list[ValidationImage]:
        """The first images of the folders, each with a crop from its middle."""
        section, data = self._section, self._config.data
        degrader = OnlineDegrader(
            self._registry.create("degradation_model", data.degradation),
            self._registry.create("prompt_provider", data.prompt_provider),
        )
        crop = section.crop or data.crop
        found: list[ValidationImage] = []
        failed: TrainingError | None = None
        for source in open_sources(section.folders, crop):
            for index in range(len(source)):
                if len(found) == section.images:
                    return found
                try:
                    found.append(self._image(source.example(index, False), len(found), crop, degrader))
                except TrainingError as error:
                    failed = error
                    warnings.warn(f"A held-out image is left out. {error}", stacklevel=2)
        if not found and failed is not None:
            raise failed
        return found

    def _image(self, example: Example, number: int, crop: int, degrader: OnlineDegrader) -> ValidationImage:
        size = example.hr.size
        scale = degrader.degradation.scale if example.lr is None else scale_of(example)
        # The pipeline would pad other sizes to whole latents, which should not influence the metrics.
        grain = math.lcm(scale, int(self._backbone.stride))
        side = min(crop, *size) // grain * grain or min(size) // scale * scale
        if side // scale < SMALLEST_SIDE:
            raise TrainingError(
                f"{example.name}: a held-out crop of {side} pixels is too small at scale {scale}: at least"
                f" {SMALLEST_SIDE * scale} are needed (validation.crop)."
            )
        left, top = ((length - side) // 2 // scale * scale for length in size)
        hr = crop_of(example.hr, left, top, side, side)
        if example.lr is None:
            generator = generator_for(self._section.seed, "held-out", number)
            try:
                lr = to_image(degrader.degrade(to_tensor(hr), generator))
            except (PluginError, NonFiniteResult) as error:
                raise TrainingError(f"{example.name}: {error}") from error
        else:
            lr = crop_of(example.lr, left // scale, top // scale, side // scale, side // scale)
        said = degrader.quality(to_tensor(lr)) if example.low is None else Prompts(low=example.low)
        levels = self._config.data.levels
        if said.errors and "low" in levels:
            warnings.warn(f"{example.name} is validated without a low-level prompt: {said.errors['low']}", stacklevel=2)
        high, low = example.high if "high" in levels else "", (said.low or "") if "low" in levels else ""
        return ValidationImage(lr, hr, high, low)


def sheet(columns: Sequence[str], rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Pictures in rows and columns, with the names of the columns above."""
    width, height = (max(picture.size[axis] for row in rows for picture in row) for axis in (0, 1))
    whole = Image.new("RGB", (width * len(columns), LABEL_HEIGHT + height * len(rows)), "white")
    draw = ImageDraw.Draw(whole)
    for x, name in enumerate(columns):
        draw.text((x * width + 3, 2), name, fill="black")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            whole.paste(picture, (x * width, LABEL_HEIGHT + y * height))
    return whole


def _bicubic(image: ValidationImage) -> Image.Image:
    return image.lr.resize(image.hr.size, Image.Resampling.BICUBIC)
