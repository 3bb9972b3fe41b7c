"""The contract of fusion attentions, which join the attention of a model with the low-level prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class AttentionSite:
    """The place of a fusion module in its model, and what the module may need to know to build its layers.

    Attributes:
        place: The name of the site's own attention in its model, for instance ``"down_blocks.0.attentions.1"``.
        channels: C of the feature map.
        heads: Attention heads of the site's own attention.
        head_dim: Channels of each head.
        text_width: D of the text embeddings.
        depth: Transformer layers of the site's own attention.
        norm_groups: Groups of its group norm.
        linear_projection: Whether its projections are linear layers (SD 2.x) or 1x1 convolutions (SD 1.x).
        upcast_attention: Whether attention scores are computed in float32.
    """

    place: str
    channels: int
    heads: int
    head_dim: int
    text_width: int
    depth: int
    norm_groups: int
    linear_projection: bool
    upcast_attention: bool


class FusionAttention(Protocol):
    """Joins a site's own attention with the low-level prompt: a ``torch.nn.Module``, one for each site.

    Built as ``Class(config, site)``. Its weights are part of the model's state dict. The site's own attention
    belongs to the base model and stays in its place under its own name, so that LoRA files find it; each call hands
    it to the fusion as ``attend``.

    Models are read from files, and their memory is planned, on torch's meta device: ``__init__`` and the call must work
    where tensors have shapes, but no values.
    """

    def __call__(
        self,
        attend: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        x: torch.Tensor,
        high: torch.Tensor,
        low: torch.Tensor | None,
    ) -> torch.Tensor:
        """Attend to both prompts.

        Args:
            attend: The site's own attention: ``attend(x, text)`` gives B C h w.
            x: Features, B C h w.
            high: Content embeddings, B T D.
            low: Quality embeddings, B T D, or ``None`` when there is no low-level prompt.

        Returns:
            Features, B C h w, in the dtype of ``x``. No branch may depend on a tensor's value.
        """
        ...

    def init_from_attention(self, attention: torch.nn.Module) -> None:
        """Take initial weights from the site's own attention; called once, on a freshly built model."""
        ...
