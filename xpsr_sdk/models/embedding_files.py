"""Embeddings (textual inversion, arXiv 2208.01618): files that teach the text encoders a new word.

The word is the name of the file, without its ending, as in other programs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from xpsr_sdk.errors import CheckpointError, ConfigError
from xpsr_sdk.models.file_kinds import check_kind
from xpsr_sdk.weight_files import flat_tensors, read_weights

_OF_ENCODER = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
"""The tensor for each text encoder, in files for SDXL."""


def add_embeddings(pipeline: Any, files: Sequence[str]) -> None:
    """Teach the text encoders of a pipeline the words of embeddings.

    Args:
        pipeline: A pipeline of diffusers that can load textual inversions.
        files: The files.

    Raises:
        ConfigError: There is no such file, or its word is known already.
        CheckpointError: A file is damaged, no embedding, or of another model.
    """
    for file in (Path(os.path.expanduser(name)) for name in files):
        if not file.is_file():
            raise ConfigError(f"embedding: {file} does not exist.")
        check_kind(file, "embedding")
        for name, vectors in _of_each_encoder(pipeline, file).items():
            tokenizer = getattr(pipeline, name.replace("text_encoder", "tokenizer"))
            if file.stem in tokenizer.get_vocab():
                raise ConfigError(f"embedding: the text encoder knows the word {file.stem!r} already: rename {file}.")
            encoder = getattr(pipeline, name)
            pipeline.load_textual_inversion(
                {file.stem: vectors.to(encoder.dtype)}, token=file.stem, tokenizer=tokenizer, text_encoder=encoder
            )


def _of_each_encoder(pipeline: Any, file: Path) -> dict[str, Tensor]:
    """The vectors for each text encoder, N D."""
    tensors = flat_tensors(read_weights(file))
    found: dict[str, Tensor] = {}
    for name, key in _OF_ENCODER.items():
        encoder = getattr(pipeline, name, None)
        if encoder is None:
            continue
        vectors = tensors.get(key) if key in tensors else _only(tensors)
        width = encoder.config.hidden_size
        if vectors is None:
            raise CheckpointError(f"{file} holds {len(tensors)} tensors, not the vectors of one word for {name}.")
        if not vectors.numel():
            raise CheckpointError(f"{file} is damaged: it is an embedding without a vector.")
        if vectors.ndim == 0 or vectors.shape[-1] != width:
            made_for = sorted({tensor.shape[-1] for tensor in tensors.values() if tensor.ndim})
            widths = " and ".join(map(str, made_for))
            raise CheckpointError(
                f"{file} is an embedding for another model: its vectors have {widths} channels, and {name} has {width}."
            )
        found[name] = vectors.detach().reshape(-1, width)
    return found


def _only(tensors: dict[str, Tensor]) -> Tensor | None:
    """The vectors in a file for models with one text encoder."""
    several = [tensor for tensor in tensors.values() if tensor.is_floating_point()]
    return several[0] if len(several) == 1 else None
