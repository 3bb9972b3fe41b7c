"""Semantic-Fusion Attention, XPSR's own (arXiv 2403.05049, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable

from diffusers import Transformer2DModel
from torch import Tensor, nn

from xpsr_sdk.contracts import AttentionSite, Options


class SemanticFusionAttention(nn.Module):
    """``x' = CA_f(CA_h(x, high), CA_l(x, low))``.

    ``CA_h`` is the site's own attention; ``CA_l`` (``lowlevel``) and ``CA_f`` (``connect``) are transformers like it.
    The queries of ``CA_f`` come from the high-level result, its keys and values from the low-level one.
    Without a low-level prompt the site's own attention acts alone.
    """

    class Config(Options):
        """No options."""

    def __init__(self, config: Config | None, site: AttentionSite) -> None:
        super().__init__()
        self.lowlevel = _like(site, text_width=site.text_width)
        self.connect = _like(site, text_width=site.channels)

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
        """Copy the site's attention into both transformers wherever name and shape coincide."""
        source = attention.state_dict()
        for branch in (self.lowlevel, self.connect):
            own = branch.state_dict()
            branch.load_state_dict({k: v if v.shape != source[k].shape else source[k] for k, v in own.items()})


def _like(site: AttentionSite, text_width: int) -> Transformer2DModel:
    return Transformer2DModel(
        num_attention_heads=site.heads,
        attention_head_dim=site.head_dim,
        in_channels=site.channels,
        num_layers=site.depth,
        cross_attention_dim=text_width,
        norm_num_groups=site.norm_groups,
        use_linear_projection=site.linear_projection,
        upcast_attention=site.upcast_attention,
    )
