"""The fusions. See ``xpsr_sdk.FusionAttention`` for what each method is told and must give."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xpsr_sdk import AttentionSite, Options
from xpsr_sdk.toolkit import transformer_like

Attend = Callable[[Tensor, Tensor], Tensor]


class GatedFusion(nn.Module):
    """``attend(x, high) + tanh(g) * (T(x, low) - x)``.

    ``T`` is a transformer like the site's own. The gate ``g``, one value a channel, is zero at first (as in
    Flamingo, arXiv 2204.14198): a fresh model computes exactly what its base computes.
    """

    class Config(Options):
        """No options."""

    def __init__(self, config: Config | None, site: AttentionSite) -> None:
        super().__init__()
        self.lowlevel = transformer_like(site)
        self.gate = nn.Parameter(torch.zeros(site.channels, 1, 1))

    def forward(self, attend: Attend, x: Tensor, high: Tensor, low: Tensor | None) -> Tensor:
        """B C h w, B T D and B T D give B C h w."""
        content = attend(x, high)
        if low is None:
            return content
        # T adds to its input; what it adds is what the quality has to say.
        quality = self.lowlevel(x, encoder_hidden_states=low, return_dict=False)[0] - x
        fused: Tensor = content + self.gate.tanh().to(x.dtype) * quality
        return fused

    def init_from_attention(self, attention: nn.Module) -> None:
        """Start the transformer with the site's own weights."""
        self.lowlevel.load_state_dict(attention.state_dict())


class SerialFusion(nn.Module):
    """``T(attend(x, high), low)``: the ablation "serial" of XPSR (arXiv 2403.05049)."""

    class Config(Options):
        """No options."""

    def __init__(self, config: Config | None, site: AttentionSite) -> None:
        super().__init__()
        self.lowlevel = transformer_like(site)

    def forward(self, attend: Attend, x: Tensor, high: Tensor, low: Tensor | None) -> Tensor:
        """B C h w, B T D and B T D give B C h w."""
        content = attend(x, high)
        if low is None:
            return content
        fused: Tensor = self.lowlevel(content, encoder_hidden_states=low, return_dict=False)[0]
        return fused

    def init_from_attention(self, attention: nn.Module) -> None:
        """Start the transformer with the site's own weights."""
        self.lowlevel.load_state_dict(attention.state_dict())


class HighOnlyFusion(nn.Module):
    """``attend(x, high)``: the ablation without low-level prompts of XPSR (arXiv 2403.05049)."""

    class Config(Options):
        """No options."""

    def __init__(self, config: Config | None, site: AttentionSite) -> None:
        super().__init__()

    def forward(self, attend: Attend, x: Tensor, high: Tensor, low: Tensor | None) -> Tensor:
        """B C h w and B T D give B C h w."""
        return attend(x, high)

    def init_from_attention(self, attention: nn.Module) -> None:
        """Nothing to do: there are no weights."""
