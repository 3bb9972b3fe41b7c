"""Semantic-Fusion Attention, XPSR's own (arXiv 2403.05049, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from xpsr_sdk.contracts import AttentionSite, Options
from xpsr_sdk.models.fusion import transformer_like


class SemanticFusionAttention(nn.Module):
    """``x' = CA_f(CA_h(x, high), CA_l(x, low))``.

    ``CA_h`` is the site's own attention; ``CA_l`` (``lowlevel``) and ``CA_f`` (``connect``) are transformers like it,
    of the same depth or of another.
    The queries of ``CA_f`` come from the high-level result, its keys and values from the low-level result.
    Without a low-level prompt, only the site's own attention is computed.
    """

    class Config(Options):
        """How deep its transformers are."""

        depth: Annotated[int, Field(ge=1, le=64)] | None = Field(
            None,
            description="Layers of each of its two transformers. None: as many as the site's own attention has: up to "
            "10 in SDXL.",
        )

    def __init__(self, config: Config | None, site: AttentionSite) -> None:
        super().__init__()
        if config is not None and config.depth is not None:
            site = replace(site, depth=config.depth)
        self.lowlevel = transformer_like(site)
        self.connect = transformer_like(site, text_width=site.channels)

    def forward(
        self, attend: Callable[[Tensor, Tensor], Tensor], x: Tensor, high: Tensor, low: Tensor | None
    ) -> Tensor:
        """See ``xpsr_sdk.FusionAttention``."""
        content = attend(x, high)
        if low is None:
            return content
        quality = self.lowlevel(x, encoder_hidden_states=low, return_dict=False)[0]
        tokens = quality.flatten(2).transpose(1, 2)
        fused: Tensor = self.connect(content, encoder_hidden_states=tokens, return_dict=False)[0]
        return fused

    def init_from_attention(self, attention: nn.Module) -> None:
        """Copy the weights of the site's attention into both transformers, where names and shapes agree."""
        source = attention.state_dict()
        for branch in (self.lowlevel, self.connect):
            own = branch.state_dict()
            branch.load_state_dict(
                {k: source[k] if k in source and source[k].shape == v.shape else v for k, v in own.items()}
            )
