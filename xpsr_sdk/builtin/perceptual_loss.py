"""The perceptual term of the loss: any metric that compares a photo with its reference and passes gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from xpsr_sdk.contracts import FolderMetric, Options, TrainedModel, TrainingStep
from xpsr_sdk.errors import ConfigError, UnknownComponent
from xpsr_sdk.plugin_system.marks import name_of
from xpsr_sdk.plugin_system.scope import create_part


class PerceptualLoss(nn.Module):
    """A metric of the decoded estimates that are to have detail. See ``xpsr_sdk.LossTerm`` for the contract.

    Raises:
        ConfigError: The metric compares no photo with its reference.
        PluginError: There is no such metric.
        CheckpointError: Its weights are missing.
    """

    class Config(Options):
        """The metric."""

        metric: str | dict[str, Any] = Field(
            "lpips",
            description="A metric that compares with a reference: its name, or a table with name and options. lpips "
            "uses AlexNet, lpips-vgg VGG16 (slower, fewer patterns); both come with the plug-in xpsr-pyiqa.",
        )

    def __init__(self, config: Config, model: TrainedModel) -> None:
        super().__init__()
        try:
            metric = create_part("metric", config.metric)
        except UnknownComponent as error:
            raise UnknownComponent(f"{error} Most others are in the plug-in xpsr-pyiqa.") from None
        self.name = name_of("metric", metric)
        if isinstance(metric, FolderMetric) or not metric.needs_reference:
            raise ConfigError(f"The {self.name} cannot be a loss: it does not compare a photo with its reference.")
        if isinstance(metric, nn.Module):
            metric.requires_grad_(False)
        self.metric = metric

    def forward(self, step: TrainingStep, generators: Sequence[torch.Generator]) -> Tensor:
        """The mean over the images; those whose estimate is to be the mean of all sharp images count as zero."""
        if not len(step.images):
            return step.clean.new_zeros(())
        sign = 1 if self.metric.lower_is_better else -1
        distances = sign * self.metric.measure(step.images, step.references)
        if step.images.requires_grad and not distances.requires_grad:
            raise ConfigError(f"The {self.name} cannot be a loss: it gives no gradients.")
        return distances.sum() / len(step.hr)
