"""Mixes the attention to the high-level prompt with that to the low-level prompt, by one weight for each channel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn

from xpsr_sdk import AttentionSite, Options


class MyPluginFusion(nn.Module):
    """``(1 - w) attend(x, high) + w attend(x, low)``. See ``xpsr_sdk.FusionAttention`` for the contract."""

    class Config(Options):
        """The options: stored with the model, and shown by ``xpsr plugins show``."""

        start: float = Field(0.0, ge=0, le=1, description="The weights at the start; 0: the base model's own output.")

    def __init__(self, config: Config | None, site: AttentionSite) -> None:
        super().__init__()
        self.config = config or self.Config()
        # A parameter is trained, and saved with the model. ``site`` has all sizes.
        self.weight = nn.Parameter(torch.full((site.channels, 1, 1), self.config.start))

    def init_from_attention(self, attention: nn.Module) -> None:
        """Called once on a fresh model, to copy initial weights from the site's attention. This fusion copies none."""

    def forward(
        self, attend: Callable[[Tensor, Tensor], Tensor], x: Tensor, high: Tensor, low: Tensor | None
    ) -> Tensor:
        """Fuse both prompts. ``x`` is B C h w, ``high`` and ``low`` are B T D. Returns B C h w."""
        content = attend(x, high)
        if low is None:  # there is no low-level prompt
            return content
        return torch.lerp(content, attend(x, low), self.weight.to(content.dtype).expand_as(content))
