"""What the config.json of a network, and of a noise schedule, may say: within limits that no real model reaches.

A config may ask for a network of any size, which would be made before any weight is read.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from xpsr_sdk.errors import CheckpointError, short
from xpsr_sdk.files.reading import read_json, validated

Layers = Annotated[int, Field(strict=True, ge=0, le=64)]
Width = Annotated[int, Field(strict=True, ge=1, le=2**17)]
Number = Annotated[int, Field(strict=True, ge=0, le=2**26)]
Timesteps = Annotated[int, Field(strict=True, ge=1, le=100_000)]

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
    stride: Annotated[int, Field(strict=True, ge=1, le=64)] | None = None
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
    num_train_timesteps: Timesteps | None = None
    original_inference_steps: Timesteps | None = None


def check_network_config(config: Mapping[str, Any], file: Path) -> None:
    """Raise ``CheckpointError`` if a config asks for too much, or for code that is not installed.

    transformers takes a name with a slash, where a way to compute attention is named, for code on the hub.
    """
    validated(NetworkConfig, dict(config), str(file), CheckpointError)
    _refuse_code(config, file)


def check_json_files(folder: Path) -> None:
    """Raise ``CheckpointError`` about the first JSON file of a model that is damaged.

    To be asked where a library failed: it rarely names the file.
    """
    for file in sorted(folder.glob("*/*.json")):
        read_json(file, CheckpointError)


def check_entries(cls: type, config: Mapping[str, Any], file: Path) -> None:
    """Raise ``CheckpointError`` if an entry of a config is of another type than a class of diffusers says.

    Diffusers itself checks no types: its networks stumble when they are made, or only when they compute.
    """
    for name, annotation in _arguments(cls).items():
        if name in config and not _fits(config[name], annotation):
            kinds = " or ".join(dict.fromkeys(_words(kind) for kind in _alternatives(annotation)))
            raise CheckpointError(
                f"{file} does not describe a valid {cls.__name__}: {name} must be {kinds}, not {short(config[name])}."
            )


def _arguments(cls: type) -> dict[str, Any]:
    """The annotations of the arguments of a class's constructor, and of those of its parents."""
    found: dict[str, Any] = {}
    constructors: list[Any] = [vars(each)["__init__"] for each in cls.__mro__ if "__init__" in vars(each)]
    for constructor in reversed(constructors):
        parameters = inspect.signature(constructor, eval_str=True).parameters.values()
        found |= {parameter.name: parameter.annotation for parameter in parameters}
    return found


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
"""The types that a config can hold, as messages call them."""


def _alternatives(annotation: Any) -> list[Any]:
    """The types that an annotation allows, beside None: those of ``_WORDS``, ``Literal``, or something else."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return [kind for each in get_args(annotation) for kind in _alternatives(each)]
    return [] if annotation in (NoneType, np.ndarray) else [annotation]  # a file holds no arrays


def _is_list(kind: Any) -> bool:
    return (get_origin(kind) or kind) in (list, tuple, Sequence)


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if _is_list(kind):
        inner = (*get_args(kind), None)[0]
        return f"a list, with {_WORDS[inner]} in each place" if inner in _WORDS else "a list"
    return _WORDS[kind]


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value is of an annotated type. None fits, and so does everything where other types are meant.

    The length of a list does not count: diffusers writes ``tuple[int]`` where there may be several.
    """
    kinds = _alternatives(annotation)
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    lists = [kind for kind in kinds if _is_list(kind)]
    if value is None or not all(kind in _WORDS or kind in lists or get_origin(kind) is Literal for kind in kinds):
        return True
    if isinstance(value, list | tuple):
        inner = [(*get_args(kind), Any)[0] for kind in lists]
        return bool(inner) and all(any(_fits(part, kind) for kind in inner) for part in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int in kinds or float in kinds
    return type(value) in kinds or (isinstance(value, str) and value in choices)


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
