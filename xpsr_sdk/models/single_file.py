"""A Stable Diffusion that is one file in its original layout, as it is found on the sites for models.

A temporary folder in the diffusers layout stands for the file. It holds configs, tokenizers and, instead of weights, a
note (``single_file.json``) in the folder of each network: which file holds them. They are renamed while they are read.
The configs follow from the file itself; those in a folder of the same name beside it, without the ending, go first:
all of them if it has a ``model_index.json``, else single settings of the noise schedule.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import save_file
from torch import Tensor

from xpsr_sdk.errors import CheckpointError
from xpsr_sdk.files.leftovers import new_temporary_folder
from xpsr_sdk.files.reading import read_json
from xpsr_sdk.models.clip_tokenizer import END, write_clip_tokenizer
from xpsr_sdk.models.file_kinds import check_kind
from xpsr_sdk.models.network_files import STEMS
from xpsr_sdk.models.single_file_configs import TEXT, Config, configs_of, family_of, named_prediction
from xpsr_sdk.weight_files import flat_tensors, read_metadata, read_weights

NOTE = "single_file.json"
SCHEDULE = "scheduler_config.json"
_PIPELINES = {"sd1": "StableDiffusionPipeline", "sd2": "StableDiffusionPipeline", "xl": "StableDiffusionXLPipeline"}
_NEW_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_NEW_NAME = re.compile(rf"\.({'|'.join(_NEW_NAMES)})\.")
"""How diffusers named the layers of attention before version 0.17, and how it names them now."""


def folder_of_single_file(file: Path) -> Path:
    """A temporary folder that stands for the file, until the program ends.

    Raises:
        CheckpointError: The file is damaged, or holds anything but a Stable Diffusion 1.x, 2.x or XL.
    """
    file = file.absolute()
    shapes = check_kind(file, "model")
    family = family_of(shapes, file)
    folder = _temporary_folder() / file.stem  # which messages then name
    folder.mkdir()
    beside = file.with_suffix("")
    if (beside / "model_index.json").is_file():
        shutil.copytree(beside, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
        parts = [name for name in ("unet", "vae", *TEXT[family]) if (folder / name).is_dir()]
    else:
        configs = configs_of(shapes, family, read_metadata(file), file)
        schedule = beside / "scheduler" / SCHEDULE
        own = read_json(schedule, CheckpointError) if schedule.is_file() else {}
        configs["scheduler"] |= own
        if family == "sd2" and "prediction_type" not in own:
            _warn_of_guess(file, shapes, schedule)
        parts = [name for name in configs if name != "scheduler"]
        _write_configs(folder, configs, _PIPELINES[family])
        for i, name in enumerate(TEXT[family]):
            padding = END if family != "sd2" and i == 0 else "!"
            write_clip_tokenizer(folder / name.replace("text_encoder", "tokenizer"), padding)
    for name in parts:
        write_note(folder / name, file)
    return folder


def folder_of_network(file: Path, config: Path) -> Path:
    """A temporary folder for the file of one network. Its config is that in the folder ``config``."""
    folder = _temporary_folder() / config.name
    folder.mkdir()
    shutil.copy(config / "config.json", folder / "config.json")
    write_note(folder, file)
    return folder


def write_note(folder: Path, file: Path) -> None:
    """Note in the folder of a network that its weights are in ``file``."""
    (folder / NOTE).write_text(json.dumps({"file": str(file.absolute())}), encoding="utf-8")


def is_noted(folder: Path) -> bool:
    """Whether the weights of a network's folder are in a single file."""
    return (folder / NOTE).is_file()


def read_noted(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """The tensors of a network's folder, under diffusers' names, and the single file that they are read from.

    Raises:
        CheckpointError: The file is damaged, or does not hold this network.
    """
    file = Path(str(read_json(folder / NOTE, CheckpointError)["file"]))
    config = read_json(folder / "config.json", CheckpointError)
    tensors = _converted(_without_copies(flat_tensors(read_weights(file))), config, folder.name)
    if not tensors:
        what = "autoencoder: name one as vae (--vae)" if folder.name == "vae" else f"{folder.name}"
        raise CheckpointError(f"{file} holds no {what}.")
    return tensors, file


def copy_part(folder: Path, target: Path) -> None:
    """Copy a part of a model's folder, with its weights, wherever they are."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(NOTE))
    if is_noted(folder):
        tensors, _ = read_noted(folder)
        stem = STEMS[1 if folder.name.startswith("text_encoder") else 0]
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, target / f"{stem}.safetensors", {"format": "pt"})


def _converted(tensors: dict[str, Tensor], config: Config, part: str) -> dict[str, Tensor]:
    """Those of the tensors that belong to the network of a config, renamed by diffusers."""
    if config.get("_class_name") == "UNet2DConditionModel":
        return convert_ldm_unet_checkpoint(tensors, config)
    if config.get("_class_name") == "AutoencoderKL":
        if "encoder.down_blocks.0.resnets.0.conv1.weight" in tensors:  # of one network, in the diffusers layout
            return {_NEW_NAME.sub(lambda found: f".{_NEW_NAMES[found[1]]}.", name): x for name, x in tensors.items()}
        return convert_ldm_vae_checkpoint(tensors, config)
    for prefix in (texts[part] for texts in TEXT.values() if part in texts):
        if any(name.startswith(prefix) for name in tensors):
            if prefix.endswith("transformer."):
                return convert_ldm_clip_checkpoint(tensors)
            width = SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"]))
            return convert_open_clip_checkpoint(width, tensors, prefix)
    return {}


def _without_copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the averages (EMA) that some trainers store beside the U-Net."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("model_ema.")}


def _warn_of_guess(file: Path, shapes: Mapping[str, tuple[int, ...]], schedule: Path) -> None:
    """Warn that the file of an SD 2.x does not say what its U-Net predicts: that may be said in ``schedule``."""
    if named_prediction(shapes, read_metadata(file)) is None:
        warnings.warn(
            f"{file} does not say what its U-Net predicts. It is taken to predict v, as Stable Diffusion 2.x for 768 "
            f'pixels does. That for 512 pixels predicts noise: if this is one, write {{"prediction_type": "epsilon"}} '
            f'to {schedule}. To keep v without this warning, write "v_prediction" there.',
            stacklevel=2,
        )


def _write_configs(folder: Path, configs: dict[str, Config], pipeline: str) -> None:
    index: Config = {"_class_name": pipeline}
    for name, config in configs.items():
        (folder / name).mkdir()
        file = folder / name / (SCHEDULE if name == "scheduler" else "config.json")
        file.write_text(json.dumps(config, indent=2), encoding="utf-8")
        is_text = name.startswith("text_encoder")
        cls = config["architectures"][0] if is_text else config["_class_name"]
        index[name] = ["transformers" if is_text else "diffusers", cls]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _temporary_folder() -> Path:
    """A folder that this process removes when it ends; those that it forks leave it."""
    folder, process = new_temporary_folder("xpsr-"), os.getpid()

    def remove() -> None:
        if os.getpid() == process:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
