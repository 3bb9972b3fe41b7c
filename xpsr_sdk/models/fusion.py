"""Adds a fusion module to each attention site of a model.

The fusion of a model is stored in its ``config.json`` as ``{"name": ..., <options>}``. If the entry is missing, it is
XPSR's own. When a saved model is loaded, its fusion is built by the registry in force, see ``create_part``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from diffusers import Transformer2DModel
from torch import Tensor, nn

from xpsr_sdk.contracts import AttentionSite
from xpsr_sdk.errors import BrokenPlugin
from xpsr_sdk.library_internals import DiffusersLoading
from xpsr_sdk.plugin_system.marks import name_of
from xpsr_sdk.plugin_system.scope import create_part

FusionConfig = Mapping[str, Any] | str | None

_PUBLISHED = re.compile(r"\.attentions_(lowlevel|connect)\.(\d+)\.")
_OURS = re.compile(r"\.fusions\.(\d+)\.(lowlevel|connect)\.")


def describe_site(attention: Transformer2DModel, place: str) -> AttentionSite:
    """Describe the site of ``attention`` for a fusion. ``place`` is the name of the attention in its model."""
    config = attention.config
    return AttentionSite(
        place=place,
        channels=config.in_channels,
        heads=config.num_attention_heads,
        head_dim=config.attention_head_dim,
        text_width=config.cross_attention_dim,
        depth=config.num_layers,
        norm_groups=config.norm_num_groups,
        linear_projection=config.use_linear_projection,
        upcast_attention=config.upcast_attention,
    )


def transformer_like(site: AttentionSite, text_width: int | None = None) -> Transformer2DModel:
    """A fresh transformer of the same shape as a site's own attention, for use in fusions.

    Args:
        site: The site.
        text_width: Channels of the tokens that it attends to. None: those of the site's text.

    Returns:
        For features B C h w and tokens B T D, ``transformer(x, tokens, return_dict=False)[0]`` is B C h w.
    """
    return Transformer2DModel(
        num_attention_heads=site.heads,
        attention_head_dim=site.head_dim,
        in_channels=site.channels,
        num_layers=site.depth,
        cross_attention_dim=text_width or site.text_width,
        norm_num_groups=site.norm_groups,
        use_linear_projection=site.linear_projection,
        upcast_attention=site.upcast_attention,
    )


def add_fusions(block: Any, name: str, fusion: FusionConfig) -> None:
    """Add a list ``fusions`` to ``block``, called ``name`` in its model: one fusion for each of its ``attentions``."""
    attentions = getattr(block, "attentions", None)
    if attentions is None:
        return
    sites = (describe_site(attention, f"{name}.attentions.{i}") for i, attention in enumerate(attentions))
    chosen = fusion or "xpsr"
    block.fusions = nn.ModuleList(create_part("fusion_attention", chosen, site) for site in sites)


def init_fusions(model: nn.Module) -> None:
    """Initialise every fusion of a fresh ``model`` from the attention of its site."""
    blocks: Any = model.modules()  # diffusers' blocks are untyped
    for block in blocks:
        if hasattr(block, "fusions"):
            for fusion, attention in zip(block.fusions, block.attentions, strict=True):
                fusion.init_from_attention(attention)


def attend(block: Any, index: int, x: Tensor, high: Tensor, low: Tensor | None) -> Tensor:
    """Compute the attention site ``index`` of ``block``, with its fusion if it has one."""
    attention = block.attentions[index]

    def own_attention(x: Tensor, text: Tensor) -> Tensor:
        out: Tensor = attention(x, encoder_hidden_states=text, return_dict=False)[0]
        return out

    if hasattr(block, "fusions"):
        fusion = block.fusions[index]
        fused: Tensor = fusion(own_attention, x, high, low)
        if not isinstance(fused, Tensor) or fused.shape != x.shape:
            found = f"of shape {tuple(fused.shape)}" if isinstance(fused, Tensor) else f"a {type(fused).__name__}"
            raise BrokenPlugin(
                f"The {name_of('fusion_attention', fusion)} gave features {found}, not of shape {tuple(x.shape)}."
            )
        return fused
    return own_attention(x, high)


def from_published_name(key: str) -> str:
    """The name of a tensor in our models, given its name in a published checkpoint."""
    return _PUBLISHED.sub(r".fusions.\2.\1.", key)


def to_published_name(key: str) -> str:
    """The name of a tensor in a published checkpoint, given its name in our models."""
    return _OURS.sub(r".attentions_\2.\1.", key)


class LoadsFusions(DiffusersLoading):
    """Lets diffusers load a model with fusions. It must come before the diffusers class in the list of base classes."""

    @staticmethod
    def name_in_model(name: str) -> str:
        """The name of a tensor in our models, given its name in a published checkpoint."""
        return from_published_name(name)
