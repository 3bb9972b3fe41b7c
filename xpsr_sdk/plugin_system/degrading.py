"""The one place where a degradation model is asked, in preparation and in training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xpsr_sdk.contracts import DegradationModel
from xpsr_sdk.plugin_system.answers import blamed_on, checked_tensor


def degraded(model: DegradationModel, hr: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """The LR images of a batch, B 3 H/s W/s in [0, 1].

    Args:
        model: What degrades.
        hr: B 3 H W in [0, 1]; H and W are multiples of s.
        generators: One for each image.

    Raises:
        BrokenPlugin: The model failed, or gave something else than its contract promises.
        NonFiniteResult: It gave NaN or infinity.
    """
    with torch.no_grad(), blamed_on("degradation_model", model):
        lr = model(hr, generators)
    batch, channels, height, width = hr.shape
    shape = (batch, channels, height // model.scale, width // model.scale)
    return checked_tensor(
        "degradation_model", model, lr, "LR images", shape, dtype=hr.dtype, device=hr.device, within=(0, 1)
    )
