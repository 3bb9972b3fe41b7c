"""The error of the decoded estimates as a term of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from xpsr_sdk.contracts import Options, TrainedModel, TrainingStep


class PixelLoss(nn.Module):
    """The error of the estimates that are to have detail. See ``xpsr_sdk.LossTerm`` for the contract."""

    class Config(Options):
        """How the error is measured."""

        error: Literal["mse", "l1"] = Field("mse", description="The mean squared error, or the mean absolute error.")

    def __init__(self, config: Config, model: TrainedModel) -> None:
        super().__init__()
        self.error = config.error

    def forward(self, step: TrainingStep, generators: Sequence[torch.Generator]) -> Tensor:
        """The mean over the images, of pixels in [-1, 1]."""
        difference = 2 * (step.images - step.references)
        each = difference.square() if self.error == "mse" else difference.abs()
        return each.mean(dim=(1, 2, 3)).sum() / len(step.hr)
