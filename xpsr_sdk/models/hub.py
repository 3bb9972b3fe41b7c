"""Folders and files of the hub (huggingface.co), downloaded or, without a connection, as they are in the cache."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xpsr_sdk.errors import ConfigError
from xpsr_sdk.models.network_files import has_network_files
from xpsr_sdk.models.plugins_file import PLUGINS

NETWORKS = ("unet", "controlnet", "vae", "text_encoder", "text_encoder_2")
_SHARD = "-?????-of-?????"


def _weights(part: str, variant: str = "") -> list[str]:
    """The patterns of a network's safetensors files, in one file and in several, of one variant."""
    stem = f"{part}/{'model' if part.startswith('text_encoder') else 'diffusion_pytorch_model'}"
    return [
        f"{stem}{variant}.safetensors",
        f"{stem}.safetensors.index{variant}.json",
        *{f"{stem}{variant}{_SHARD}.safetensors", f"{stem}{_SHARD}{variant}.safetensors"},
    ]


CHECKPOINT_FILES = [
    PLUGINS,
    *("unet/config.json", "controlnet/config.json"),
    *(pattern for part in ("unet", "controlnet") for pattern in _weights(part)),
]
"""The files of a checkpoint that are downloaded."""
HUB_FILES = [
    "model_index.json",
    PLUGINS,
    "*/config.json",
    "scheduler/*.json",
    *("tokenizer/*", "tokenizer_2/*"),
    *(pattern for part in NETWORKS for pattern in _weights(part)),
]
"""The files of a model that are downloaded. Copies in other precisions and formats are left out."""


def folder_on_hub(name: str, patterns: list[str], **options: Any) -> Path:
    """The folder of a repository on the hub, with the files that match ``patterns``.

    Of a network that has no plain weights, those of the variant ``fp16`` are downloaded.

    Args:
        name: ``owner/name``.
        patterns: The files that are needed.
        options: Of ``huggingface_hub.snapshot_download``.

    Raises:
        ConfigError: It is neither on the hub nor in the cache.
    """
    folder = _snapshot(name, patterns, options)
    lacking = [part for part in NETWORKS if (folder / part / "config.json").is_file()]
    lacking = [part for part in lacking if not has_network_files(folder / part)]
    if lacking:
        wanted = [pattern for part in lacking for pattern in _weights(part, ".fp16")]
        folder = _snapshot(name, patterns + wanted, options)
    return folder


def file_on_hub(name: str, **options: Any) -> Path:
    """A file of the hub, ``owner/name/file``.

    Raises:
        ConfigError: It is neither on the hub nor in the cache.
    """
    owner, repository, file = name.split("/", 2)
    return _snapshot(f"{owner}/{repository}", [file], options, name) / file


def is_hub_name(name: str) -> bool:
    """Whether a name may mean a repository on the hub, or a file in one.

    Raises:
        ConfigError: Its owner is a folder here: then it is a misspelt path, and the hub is not asked.
    """
    parts = name.split("/")
    if len(parts) < 2 or not all(parts) or name.startswith((".", "/", "~")) or "\\" in name:
        return False
    if Path(parts[0]).is_dir():
        what = "folder" if len(parts) == 2 else "file"
        raise ConfigError(
            f"The {what} {name} does not exist. The hub is not asked, since there is a folder {parts[0]}/."
        )
    return True


def _snapshot(name: str, patterns: Iterable[str], options: dict[str, Any], shown: str = "") -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), **options))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        # Without a connection, the cache may hold another variant than the one that is asked for first.
        if found := getattr(error, "snapshot_path", None):
            return Path(found)
        raise ConfigError(
            f"{shown or name!r} is not here, and could not be downloaded from the hub: {' '.join(str(error).split())}"
        ) from error
