"""What networks take besides the text embeddings, such as the pooled text and the sizes of SDXL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

Added = Mapping[str, Tensor]
"""``xpsr_sdk.Conditioning.added`` of a batch."""


def with_added(network: Any, temb: Tensor, text: Tensor, added: Added | None) -> Tensor:
    """The embedding of the timestep, B E, plus the embedding of what a network takes besides the text.

    Args:
        network: A U-Net or a ControlNet of diffusers; its ``addition_embed_type`` says what it takes.
        temb: The embedding of the timestep.
        text: Text embeddings, B T D.
        added: What it takes, B and more dimensions each.
    """
    # A ControlNet has the same layers as a U-Net, but no method that runs them.
    embedding = UNet2DConditionModel.get_aug_embed(network, temb, text, dict(added or {}))
    return temb if embedding is None else temb + embedding


def empty_added(network: Any, batch: int) -> dict[str, Tensor]:
    """Tensors on the meta device that a network takes besides the text, to count the memory that it needs."""
    config = network.config
    if config.addition_embed_type != "text_time":
        return {}
    # The network joins the pooled text with an embedding of each number: only the width of both together counts.
    pooled = config.projection_class_embeddings_input_dim - config.addition_time_embed_dim
    shapes = {"text_embeds": (batch, pooled), "time_ids": (batch, 1)}
    return {name: torch.empty(shape, device="meta", dtype=network.dtype) for name, shape in shapes.items()}
