"""Finds a model by its name. Inference, training and ``Pipeline.from_pretrained`` all use this rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xpsr_sdk.config import PRESETS
from xpsr_sdk.errors import ConfigError, did_you_mean
from xpsr_sdk.models.checkpoints import WEIGHTS
from xpsr_sdk.models.plugins_file import PLUGINS

HUB_FILES = [
    "model_index.json",
    PLUGINS,
    "*/config.json",
    "scheduler/*.json",
    *("tokenizer/*", "tokenizer_2/*"),
    *("text_encoder/model.safetensors", "text_encoder_2/model.safetensors"),
    *(f"{part}/{WEIGHTS}" for part in ("unet", "vae", "controlnet")),
]
"""The files of a model that are downloaded from the hub. Copies in other precisions and formats are left out."""


def find_model(name: str | Path, **hub_options: Any) -> Path:
    """The folder of a model.

    The name means the first of these that exists:

    1. a preset, which ships with the SDK: ``nano``;
    2. a folder: ``./nano``, ``models/mine``. A ``Path`` always means a folder;
    3. a model on the hub, ``owner/name``, which is downloaded when it is first used. If ``owner`` is a folder in the
       current folder, the name is taken as a misspelt path, and the hub is not asked.

    Args:
        name: The name of the model.
        hub_options: Options of ``huggingface_hub.snapshot_download``, such as ``revision`` and ``token``.

    Raises:
        ConfigError: There is no such model.
    """
    presets = sorted(index.parent.name for index in PRESETS.glob("*/model_index.json"))
    if name in presets:
        return PRESETS / name
    if name != "" and (folder := Path(name).expanduser()).is_dir():
        return folder
    if isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        owner, _ = name.split("/")
        if Path(owner).is_dir():
            raise ConfigError(
                f"The folder {name} does not exist. The hub is not asked, since there is a folder {owner}/."
            )
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
