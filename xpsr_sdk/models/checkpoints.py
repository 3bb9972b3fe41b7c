"""Reads and writes XPSR checkpoints: folders with ``unet/`` and ``controlnet/``, as in the published code.

Both hold ``config.json`` and ``diffusion_pytorch_model.safetensors``. In a file, tensors have the published names
(``attentions_lowlevel.0``, ``attentions_connect.0``); in memory, those of our modules (``fusions.0.lowlevel``, ...).
A file must hold exactly the tensors of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin
from safetensors.torch import save_file
from torch import Tensor

from xpsr_sdk.errors import CheckpointError, XPSRError, told_by_library
from xpsr_sdk.files.reading import read_json as read_json_file
from xpsr_sdk.files.writing import whole_folder
from xpsr_sdk.models.config_files import check_entries, check_network_config
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.file_kinds import kind_by_inputs
from xpsr_sdk.models.fusion import from_published_name, to_published_name
from xpsr_sdk.models.network_files import find_network_files, has_network_files
from xpsr_sdk.models.plugins_file import write_plugins
from xpsr_sdk.models.single_file import is_noted, read_noted
from xpsr_sdk.models.unet import XPSRUNet
from xpsr_sdk.weight_files import read_tensors

DEFAULTS = "defaults.json"
"""What a checkpoint says about itself: the defaults of its model that differ from those of the base model."""
WEIGHTS = "diffusion_pytorch_model.safetensors"
Model = TypeVar("Model", bound=ModelMixin)


def read_checkpoint(
    folder: Path, weights: str | None = None, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> tuple[XPSRUNet, XPSRControlNet]:
    """Read the U-Net and the ControlNet from a checkpoint folder.

    Args:
        folder: ``checkpoint-N/``, or the folder of a complete model.
        weights: File name of the weights in both. None: their safetensors files, see ``xpsr_sdk.models.network_files``.
            The name of a ``.bin`` file allows pickled weights.
        dtype: Precision of the models. None: as stored.
        device: The device to load the weights to.

    Raises:
        CheckpointError: A file is missing, damaged or of another architecture.
    """
    unet = read_model(XPSRUNet, folder / "unet", weights, dtype, device)
    return unet, read_model(XPSRControlNet, folder / "controlnet", weights, dtype, device)


def write_checkpoint(folder: Path, unet: XPSRUNet, controlnet: XPSRControlNet) -> None:
    """Write a checkpoint folder. If it fails, no folder remains."""
    with whole_folder(folder) as partial:
        write_model(unet, partial / "unet")
        write_model(controlnet, partial / "controlnet")
        write_plugins(partial, (unet, controlnet))


def checkpoint_in(folder: Path) -> Path | None:
    """The XPSR checkpoint that the folder of a model holds itself: the folder, or None for a base model."""
    return folder if (folder / "controlnet").is_dir() else None


def with_own_defaults(index: Mapping[str, Any], checkpoint: Path | None) -> dict[str, Any]:
    """The ``model_index.json`` of a base model, with the defaults that a checkpoint has of its own.

    Raises:
        CheckpointError: They are damaged.
    """
    if checkpoint is None or not (checkpoint / DEFAULTS).exists():
        return dict(index)
    return {**index, "defaults": {**(index.get("defaults") or {}), **read_json(checkpoint / DEFAULTS)}}


def check_fit(unet: XPSRUNet, controlnet: XPSRControlNet, backbone: Any, where: str) -> None:
    """Check that networks and backbone belong together, so that the first photo does not fail in the middle.

    Args:
        unet: The U-Net.
        controlnet: The ControlNet.
        backbone: A loaded ``xpsr_sdk.Backbone``.
        where: The beginning of the message.

    Raises:
        CheckpointError: They were made for other latents, or for another text encoder.
    """
    conditioning_stride = 2 ** (len(controlnet.config.conditioning_embedding_out_channels) - 1)
    facts = {
        "channels of the latents": (unet.config.in_channels, backbone.latent_channels),
        "pixels per latent": (conditioning_stride, backbone.stride),
        "channels of the text": (unet.config.cross_attention_dim, backbone.text_width),
    }
    for fact, (made_for, found) in facts.items():
        if made_for != found:
            kind = f", as {kind_by_inputs(made_for)}" if fact.endswith("latents") and found == 4 else ""
            raise CheckpointError(f"{where}: it was made for {made_for} {fact}{kind}, not {found}.")


def read_model(
    cls: type[Model],
    folder: Path,
    weights: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Model:
    """Read a model of class ``cls`` from its folder, and check that all tensors match."""
    model = _empty_model(cls, folder / "config.json")
    if is_noted(folder):
        found, file = read_noted(folder)
    elif weights or not has_network_files(folder):
        file = folder / (weights or WEIGHTS)
        found = _read_tensors(file)
    else:
        files = find_network_files(folder)
        file = files.index or files.files[0]
        found = _unwrapped(files.read())
    # Tensors are copied, since their memory layout changes how kernels round: equal weights must give equal bits,
    # whatever file they come from. The file is memory-mapped, so this is the only copy.
    tensors = {from_published_name(name): x.to(device, dtype or x.dtype, copy=True) for name, x in found.items()}
    _check_same(model.state_dict(), tensors, file)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def write_model(model: ModelMixin, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Write ``config.json`` and the weights, under their published names. ``state`` replaces the model's weights."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_config(folder)
    state = model.state_dict() if state is None else state
    tensors = {to_published_name(name): t.detach().cpu().contiguous() for name, t in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: The file is missing or not a JSON object.
    """
    if not file.exists():
        raise CheckpointError(f"{file} does not exist: a model folder needs it.")
    return read_json_file(file, CheckpointError)


def _empty_model(cls: type[Model], file: Path) -> Model:
    """The model that a config.json describes, on the meta device."""
    config = read_json(file)
    check_network_config(config, file)
    check_entries(cls, config, file)
    try:
        with torch.device("meta"):
            model: Model = cls.from_config(config)
    except XPSRError:
        raise
    except Exception as error:  # diffusers does not check values, so its constructors raise all kinds of errors
        raise CheckpointError(f"{file} does not describe a valid model{told_by_library(error)}.") from error
    return model


def _read_tensors(file: Path) -> dict[str, Tensor]:
    if not file.exists():
        pickled = sorted(p.name for p in file.parent.glob("*.bin"))
        hint = f" There is {pickled[0]}: give its name to load pickled weights." if pickled else ""
        raise CheckpointError(f"{file} does not exist.{hint}")
    return _unwrapped(read_tensors(file))


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the prefix that DistributedDataParallel or torch.compile has put before every name."""
    for prefix in ("module.", "_orig_mod."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            return _unwrapped({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return tensors


def _check_same(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], file: Path) -> None:
    """Check that the file holds every tensor of the model, with its shape, and no other tensor."""
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} is not part of the model" for name in found if name not in expected]
    wrong += [
        f"{name} has shape {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if wrong:
        raise CheckpointError(
            f"{file} does not fit the model that its config.json describes: {wrong[0]}"
            + (f" (and {len(wrong) - 1} more tensors)." if len(wrong) > 1 else ".")
            + " Is it a checkpoint of another architecture or fusion?"
        )
