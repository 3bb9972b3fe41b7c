"""Finds a model, or a checkpoint, by its name. Inference, training and ``Pipeline.from_pretrained`` use these rules."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from xpsr_sdk.config import PRESETS
from xpsr_sdk.errors import CheckpointError, ConfigError, did_you_mean
from xpsr_sdk.models.file_kinds import WEIGHT_FILES, kind_of, wrong_kind
from xpsr_sdk.models.hub import CHECKPOINT_FILES, HUB_FILES, file_on_hub, folder_on_hub, is_hub_name
from xpsr_sdk.models.single_file import folder_of_single_file
from xpsr_sdk.weight_files import read_shapes


def find_model(name: str | Path, **hub_options: Any) -> Path:
    """The folder of a model.

    The name means the first of these that exists:

    1. a preset, which ships with the SDK: ``nano``;
    2. a folder: ``./nano``, ``models/mine``. A ``Path`` is never a preset;
    3. a file that holds a whole Stable Diffusion in its original layout: ``mine.safetensors``. A temporary folder,
       which is removed when the program ends, then stands for it. The weights stay in the file;
    4. a model on the hub, ``owner/name``, or such a file there, ``owner/name/file.safetensors``, which is downloaded
       when it is first used. If ``owner`` is a folder in the current folder, the name is taken as a misspelt path,
       and the hub is not asked.

    Args:
        name: The name of the model.
        hub_options: Options of ``huggingface_hub.snapshot_download``, such as ``revision`` and ``token``.

    Raises:
        ConfigError: There is no such model.
        CheckpointError: The file, or the folder, holds something else, such as a LoRA.
    """
    presets = sorted(index.parent.name for index in PRESETS.glob("*/model_index.json"))
    if name in presets:
        return PRESETS / name
    if name != "" and (found := Path(os.path.expanduser(name))).is_dir():
        _check_folder(found)
        return found
    if name != "" and found.is_file():
        return folder_of_single_file(found)
    if isinstance(name, str) and is_hub_name(name):
        if name.count("/") == 1:
            return folder_on_hub(name, HUB_FILES, **hub_options)
        if name.lower().endswith(WEIGHT_FILES):
            return folder_of_single_file(file_on_hub(name, **hub_options))
    hint = did_you_mean(str(name), presets)
    raise ConfigError(f"There is no model {str(name)!r}: neither a folder or file nor a preset. {hint}")


def find_checkpoint(name: Path) -> Path:
    """The folder of an XPSR checkpoint: a folder here, or ``owner/name`` on the hub.

    Raises:
        ConfigError: It is neither here nor on the hub.
        CheckpointError: It is a file, or a folder within or above a checkpoint.
    """
    if name.is_file():
        raise CheckpointError(wrong_kind(name, "a folder with unet/ and controlnet/, as a checkpoint is"))
    if (name / "config.json").is_file():
        raise CheckpointError(f"{name} is the folder of one network: name that of the checkpoint, {name.parent}.")
    saved = sorted(name.glob("checkpoint-*/unet"), key=lambda unet: unet.stat().st_mtime)
    if saved and not (name / "unet").is_dir():
        raise CheckpointError(
            f"{name} is the folder of a run: name one of its checkpoints, such as {saved[-1].parent}."
        )
    posix = name.as_posix()
    if not name.exists() and posix.count("/") == 1 and is_hub_name(posix):
        return folder_on_hub(posix, CHECKPOINT_FILES)
    return name


def _check_folder(folder: Path) -> None:
    """Raise ``CheckpointError`` if a folder holds files of weights instead of a model."""
    files = sorted(folder.glob("*.safetensors"))
    if (folder / "model_index.json").exists() or not files:
        return
    if kind_of(read_shapes(files[0])) == "model":
        names = ", ".join(file.name for file in files[:5]) + (", ..." if len(files) > 5 else "")
        raise CheckpointError(f"{folder} is no model, but holds files: name one of them ({names}).")
    raise CheckpointError(wrong_kind(files[0], "the folder of a whole model"))
