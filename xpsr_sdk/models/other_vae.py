"""Another autoencoder (VAE) than a model's own: a folder, a file in either layout, or one on the hub."""

from __future__ import annotations

import os
from pathlib import Path

from xpsr_sdk.errors import CheckpointError, ConfigError
from xpsr_sdk.models.checkpoints import WEIGHTS, read_json
from xpsr_sdk.models.file_kinds import check_kind
from xpsr_sdk.models.hub import folder_on_hub, is_hub_name
from xpsr_sdk.models.single_file import folder_of_network


def folder_of_vae(name: str, own: Path) -> Path:
    """The folder of an autoencoder, from which ``load_network`` reads it.

    Args:
        name: A folder with ``config.json``, the folder of a model with ``vae/``, a file, or ``owner/name`` on the hub.
        own: The folder of the model's own autoencoder. Its config is also that of a file, which has none.

    Raises:
        ConfigError: There is no such autoencoder.
        CheckpointError: It is something else, or its latents are not those of the model.
    """
    path = Path(os.path.expanduser(name))
    if path.is_file():
        check_kind(path, "vae")
        return folder_of_network(path, own)
    if not path.is_dir():
        if not (is_hub_name(name) and name.count("/") == 1):
            raise ConfigError(f"vae: {path} does not exist.")
        path = folder_on_hub(name, ["config.json", WEIGHTS])
    folder = path / "vae" if (path / "vae" / "config.json").is_file() else path
    ours, theirs = read_json(own / "config.json"), read_json(folder / "config.json")
    for field in ("latent_channels", "scaling_factor"):
        if ours.get(field) != theirs.get(field):
            raise CheckpointError(
                f"{folder} is an autoencoder for other latents: its {field} is {theirs.get(field)}, and that of the "
                f"model's own is {ours.get(field)}."
            )
    return folder
