"""The mean difference of gradients, which is large where edges are blurred or moved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from xpsr_sdk import Options, TrainedModel, TrainingStep


class MyPluginLoss(nn.Module):
    """See ``xpsr_sdk.LossTerm`` for the contract."""

    class Config(Options):
        """The options: checked before the class is built, and shown by ``xpsr plugins show``."""

        step: int = Field(1, ge=1, le=8, description="Distance of the two pixels of a gradient.")

    def __init__(self, config: Config, model: TrainedModel) -> None:
        super().__init__()
        # Networks that are made here are trained with the model, unless requires_grad_(False) freezes them.
        self.config = config

    def forward(self, step: TrainingStep, generators: Sequence[torch.Generator]) -> Tensor:
        """Compare the decoded estimates, N 3 H W in [0, 1], with the sharp photos. Returns the mean over the images."""
        difference = step.images - step.references
        away = self.config.step
        down = (difference[..., away:, :] - difference[..., :-away, :]).abs().mean(dim=(1, 2, 3))
        across = (difference[..., away:] - difference[..., :-away]).abs().mean(dim=(1, 2, 3))
        return (down + across).sum() / len(step.hr)
