"""LoRA files (arXiv 2106.09685) in the styles of diffusers, peft and kohya-ss.

They are merged into the weights: then they cost no time at each evaluation, and the model can be saved. diffusers names
the layers of files in kohya-ss's style, and of older files of its own.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from diffusers.utils.state_dict_utils import StateDictType
from torch import Tensor

from xpsr_sdk.errors import CheckpointError, ConfigError, short, told_by_library
from xpsr_sdk.files.reading import parse_json
from xpsr_sdk.models.file_kinds import WEIGHT_FILES, check_kind
from xpsr_sdk.models.hub import file_on_hub, folder_on_hub, is_hub_name
from xpsr_sdk.weight_files import flat_tensors, read_metadata, read_weights

WEIGHTS = "pytorch_lora_weights.safetensors"
"""The name that diffusers gives to a LoRA in a folder."""
_KOHYA = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
_OTHER_FORMS = {
    "hada_w": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "lora_mid": "LoCon with a core tensor",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
}
"""What is in the names of tensors of forms that are not read, and what these are called."""
_OLD = StateDictType.DIFFUSERS_OLD
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
Layers = dict[str, dict[str, Tensor]]
"""The factors of each layer, as ``_DOWN`` and ``_UP``, by its part and name: ``unet.mid_block...to_q``."""


def merge_loras(pipeline: Any, loras: Sequence[str]) -> None:
    """Merge LoRAs into the U-Net and the text encoders of a pipeline.

    Args:
        pipeline: A pipeline of Stable Diffusion 1.x, 2.x or XL.
        loras: ``"FILE"`` or ``"FILE:WEIGHT"`` each; see ``find_lora`` for what else than a file may be named.

    Raises:
        ConfigError: There is no such file, or the weight is no number.
        CheckpointError: A file is damaged, no LoRA, or of another model.
    """
    for text in loras:
        name, weight = parse_lora(text)
        _merge(pipeline, find_lora(name), weight)


def parse_lora(text: str) -> tuple[str, float]:
    """The name and the weight of ``"FILE"`` or ``"FILE:WEIGHT"``; the weight is 1 if there is none."""
    name, _, end = text.rpartition(":")
    try:
        weight = float(end)
    except ValueError:
        if not name.lower().endswith(WEIGHT_FILES):  # a name without a weight, in which there may be a colon
            return text, 1.0
        weight = math.nan
    if not name or not math.isfinite(weight):
        what = "the weight must be a finite number" if name else "it names no file"
        raise ConfigError(f"lora {text!r}: {what}; write FILE or FILE:WEIGHT, as in style.safetensors:0.8.")
    return name, weight


def find_lora(name: str) -> Path:
    """The file of a LoRA.

    The name means a file, a folder with ``pytorch_lora_weights.safetensors``, or such a folder or file on the hub,
    ``owner/name`` or ``owner/name/file.safetensors``.

    Raises:
        ConfigError: There is none.
    """
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        path = path / WEIGHTS
    if path.is_file():
        return path
    if is_hub_name(name) and name.count("/") == 1:
        return folder_on_hub(name, [WEIGHTS]) / WEIGHTS
    if is_hub_name(name) and name.lower().endswith(WEIGHT_FILES):
        return file_on_hub(name)
    hint = " The weight after the colon must be a number." if ":" in path.name else ""
    raise ConfigError(f"lora: {path} does not exist.{hint}")


@torch.no_grad()
def _merge(pipeline: Any, file: Path, weight: float) -> None:
    layers, unknown = _read(file, pipeline.unet.config)
    modules = dict(_modules(pipeline))
    fitting = {name: factors for name, factors in layers.items() if _is_weight(modules.get(name))}
    unknown += sorted(layers.keys() - fitting.keys())
    if not fitting:
        first = short(unknown[0]) if unknown else "none"
        raise CheckpointError(f"{file} is a LoRA for another model: this one has none of its layers, as {first}.")
    for name, factors in fitting.items():
        if min(factors[_DOWN].ndim, factors[_UP].ndim) < 2:
            raise CheckpointError(f"{file} is damaged: the factors of {name} must be matrices.")
        matrix, down, up = modules[name].weight, factors[_DOWN].flatten(1), factors[_UP].flatten(1)
        if (up.shape[0], down.shape[1]) != matrix.flatten(1).shape:
            raise CheckpointError(
                f"{file} is a LoRA for another model: at {name} it makes {up.shape[0]} features of {down.shape[1]}, "
                f"and this model makes {matrix.shape[0]} of {matrix.flatten(1).shape[1]}."
            )
        change = up.to(matrix.device, torch.float32) @ down.to(matrix.device, torch.float32)
        matrix.copy_(matrix.float() + weight * change.reshape(matrix.shape))
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        lacking = "a layer" if len(unknown) == 1 else f"{len(unknown)} layers"
        warnings.warn(f"{file}: the model lacks {lacking} of this LoRA: {shown}", stacklevel=2)


def _read(file: Path, unet_config: Any) -> tuple[Layers, list[str]]:
    """The factors of each layer, with their scale in the second one, and the names of tensors that are none."""
    shapes = check_kind(file, "lora")
    for part, form in _OTHER_FORMS.items():
        if any(part in name for name in shapes):
            raise CheckpointError(f"{file} is a LoRA of the form {form}, which cannot be read.")
    tensors = flat_tensors(read_weights(file))
    if any(name.startswith(_KOHYA) for name in tensors):
        tensors, unknown = _from_kohya(tensors, file, unet_config)
    else:
        unknown = []
    layers: Layers = {}
    for name, tensor in _named_as_in_peft(tensors).items():
        end = next((end for end in (_DOWN, _UP, ".alpha") if name.endswith(end)), None)
        if end:
            layers.setdefault(name.removesuffix(end), {})[end] = tensor
        else:
            unknown.append(name)
    for name in [name for name, factors in layers.items() if not {_DOWN, _UP} <= factors.keys()]:
        unknown += [name + end for end in layers.pop(name)]
    for factors in layers.values():
        if ".alpha" in factors:
            factors[_UP] = factors[_UP] * (factors[".alpha"] / len(factors[_DOWN]))
    if settings := read_metadata(file).get("lora_adapter_metadata"):
        _scale_as_peft(layers, parse_json(settings.encode(), f"{file}, lora_adapter_metadata", CheckpointError))
    return layers, unknown


def _from_kohya(tensors: dict[str, Tensor], file: Path, unet_config: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under diffusers' names, with alpha by rank in the second factor, and the names of other tensors."""
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(_KOHYA)}
    for name in [name for name in own if name.endswith(".alpha")]:  # which diffusers gives back in another form
        layer, alpha = name.removesuffix(".alpha"), float(own.pop(name))
        down, up = own.get(f"{layer}.lora_down.weight"), own.get(f"{layer}.lora_up.weight")
        if down is not None and up is not None:
            own[f"{layer}.lora_up.weight"] = up * (alpha / len(down))
    try:
        named, _ = StableDiffusionXLLoraLoaderMixin.lora_state_dict(own, unet_config=unet_config)
    except (ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"{file} cannot be read as a LoRA{told_by_library(error)}.") from None
    return named, sorted(tensors.keys() - own.keys() - {name for name in tensors if name.startswith(_KOHYA)})


def _named_as_in_peft(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as ``part.layer.lora_A.weight`` and ``part.layer.lora_B.weight``. Without a part, it is the U-Net."""
    parts: dict[str, dict[str, Tensor]] = {"unet": {}, "text_encoder": {}, "text_encoder_2": {}}
    for name, tensor in tensors.items():
        name = name.removeprefix("base_model.model.")
        part, _, layer = name.partition(".")
        if part in parts:
            parts[part][layer.removeprefix("text_model.")] = tensor
        else:
            parts["unet"][name] = tensor
    for part, own in parts.items():
        is_unet = part == "unet"
        named = convert_unet_state_dict_to_peft(own) if is_unet else convert_state_dict_to_peft(own, _OLD)
        parts[part] = {f"{part}.{name}": tensor for name, tensor in named.items()}
    return {name: tensor for own in parts.values() for name, tensor in own.items()}


def _scale_as_peft(layers: Layers, settings: dict[str, Any]) -> None:
    """Multiply by the scale of each layer: alpha by rank, as peft's settings in a file of diffusers say."""
    for name, factors in layers.items():
        part, _, layer = name.partition(".")

        def setting(field: str, default: Any, part: str = part) -> Any:
            return settings.get(f"{part}.{field}", settings.get(field, default))

        rank = factors[_DOWN].shape[0]
        alpha = setting("lora_alpha", rank)
        for pattern, of_layer in (setting("alpha_pattern", None) or {}).items():
            if re.fullmatch(rf"(.*\.)?{re.escape(pattern)}", layer):
                alpha = of_layer
        factors[_UP] = factors[_UP] * (alpha / (math.sqrt(rank) if setting("use_rslora", False) else rank))


def _modules(pipeline: Any) -> Iterator[tuple[str, Any]]:
    """The modules that a LoRA may change, by part and name."""
    for part in ("unet", "text_encoder", "text_encoder_2"):
        if (network := getattr(pipeline, part, None)) is not None:
            yield from ((f"{part}.{name.removeprefix('text_model.')}", each) for name, each in network.named_modules())


def _is_weight(module: Any) -> bool:
    return isinstance(getattr(module, "weight", None), Tensor)
