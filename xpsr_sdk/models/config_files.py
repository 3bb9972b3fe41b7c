"""What the config.json of a network, and of a noise schedule, may say: within limits that no real model reaches.

A config may ask for a network of any size, which would be made before any weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from xpsr_sdk.errors import CheckpointError
from xpsr_sdk.files.reading import validated

Layers = Annotated[int, Field(strict=True, ge=0, le=64)]
Width = Annotated[int, Field(strict=True, ge=1, le=2**17)]
Number = Annotated[int, Field(strict=True, ge=0, le=2**26)]

LayersEach = Annotated[list[Layers | list[Layers]], Field(min_length=1, max_length=10)]
WidthEach = Annotated[list[Width], Field(min_length=1, max_length=10)]
"""One for each level of the network."""


class NetworkConfig(BaseModel):
    """The fields that say how large a network, or a schedule, is; others are left to its class."""

    model_config = ConfigDict(extra="allow")

    layers_per_block: Layers | LayersEach | None = None
    transformer_layers_per_block: Layers | LayersEach | None = None
    block_out_channels: WidthEach | None = None
    conditioning_embedding_out_channels: WidthEach | None = None
    attention_head_dim: Width | WidthEach | None = None
    cross_attention_dim: Width | WidthEach | None = None
    in_channels: Width | None = None
    out_channels: Width | None = None
    latent_channels: Width | None = None
    norm_num_groups: Width | None = None
    num_hidden_layers: Annotated[int, Field(strict=True, ge=1, le=512)] | None = None
    num_attention_heads: Width | WidthEach | None = None
    addition_time_embed_dim: Width | None = None
    projection_class_embeddings_input_dim: Width | None = None
    hidden_size: Width | None = None
    projection_dim: Width | None = None
    intermediate_size: Width | None = None
    max_position_embeddings: Number | None = None
    vocab_size: Number | None = None
    num_train_timesteps: Annotated[int, Field(strict=True, ge=1, le=100_000)] | None = None


def check_network_config(config: Mapping[str, Any], file: Path) -> None:
    """Raise ``CheckpointError`` if a config asks for too much, or for code that is not installed.

    transformers takes a name with a slash, where a way to compute attention is named, for code on the hub.
    """
    validated(NetworkConfig, dict(config), str(file), CheckpointError)
    _refuse_code(config, file)


def _refuse_code(value: object, file: Path) -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            text = str(inner)
            if str(name).endswith(("_implementation", "_implementation_internal")) and ("/" in text or ":" in text):
                raise CheckpointError(f"{file} is refused: {name} = {text[:80]!r} names code that would be downloaded.")
            _refuse_code(inner, file)
    elif isinstance(value, list):
        for inner in value:
            _refuse_code(inner, file)
