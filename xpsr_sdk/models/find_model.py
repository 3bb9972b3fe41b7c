"""Finds a model by what people call it: the one rule for inference, training and ``Pipeline.from_pretrained``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xpsr_sdk.config import PRESETS
from xpsr_sdk.errors import ConfigError, did_you_mean
from xpsr_sdk.models.checkpoints import WEIGHTS

HUB_FILES = [
    "model_index.json",
    "*/config.json",
    "scheduler/*.json",
    "tokenizer/*",
    "text_encoder/model.safetensors",
    *(f"{part}/{WEIGHTS}" for part in ("unet", "vae", "controlnet")),
]
"""What is downloaded of a model on the hub: not its copies in other precisions and formats."""


def find_model(name: str | Path, **hub_options: Any) -> Path:
    """The folder of a model.

    The name stands for the first of these that there is:

    1. a preset, which ships with the SDK: ``nano``;
    2. a folder: ``./nano``, ``models/mine``; a ``Path`` always stands for a folder;
    3. a model on the hub, ``owner/name``, which is downloaded at its first use. A name that begins with a folder that
       is here, ``models/sd21`` beside a folder ``models``, is taken for a misspelt path, and the hub is not asked.

    Args:
        name: What the model is called.
        hub_options: For ``huggingface_hub.snapshot_download``, such as ``revision`` and ``token``.

    Raises:
        ConfigError: There is no such model.
    """
    presets = sorted(index.parent.name for index in PRESETS.glob("*/model_index.json"))
    if name in presets:
        return PRESETS / name
    if name != "" and Path(name).is_dir():
        return Path(name)
    if isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        owner, _ = name.split("/")
        if Path(owner).is_dir():
            raise ConfigError(f"The folder {name} does not exist; the hub is not asked, since {owner}/ is here.")
        return _from_hub(name, hub_options)
    hint = did_you_mean(str(name), presets)
    raise ConfigError(f"There is no model {str(name)!r}: neither a folder nor a preset. {hint}")


def _from_hub(name: str, options: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, **options))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ConfigError(
            f"The model {name!r} is not a folder here, and could not be downloaded from the hub: {error}"
        ) from error
