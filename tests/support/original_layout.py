"""Tiny Stable Diffusions with random weights, and the same in one file, as the original code stored them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from xpsr_sdk import Registry
from xpsr_sdk.models.checkpoints import write_checkpoint
from xpsr_sdk.models.clip_tokenizer import END, write_clip_tokenizer
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.unet import XPSRUNet
from xpsr_sdk.testing.tiny import write_json

Tensors = dict[str, Tensor]


def tiny_networks(family: str, **unet: Any) -> dict[str, Any]:
    """The networks of a tiny model of ``sd1``, ``sd2`` or ``xl``, by their names in diffusers."""
    torch.manual_seed(0)
    first = _text(64, "quick_gelu" if family != "sd2" else "gelu")
    networks: dict[str, Any] = {"text_encoder": CLIPTextModel(first)}
    text_width = 64
    if family == "xl":
        networks["text_encoder_2"] = CLIPTextModelWithProjection(_text(64, "gelu"))
        text_width = 128
    levels = ("DownBlock2D", "CrossAttnDownBlock2D") if family == "xl" else ("CrossAttnDownBlock2D", "DownBlock2D")
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 16,
        "projection_class_embeddings_input_dim": 64 + 6 * 16,
        "transformer_layers_per_block": [1, 2],
    }
    config = {
        "block_out_channels": (32, 64),
        "layers_per_block": 2,
        "down_block_types": levels,
        "up_block_types": tuple(level.replace("Down", "Up") for level in reversed(levels)),
        "cross_attention_dim": text_width,
        "attention_head_dim": 8 if family == "sd1" else [1, 1],
        "use_linear_projection": family != "sd1",
        "upcast_attention": family == "sd2",
        **(added if family == "xl" else {}),
    }
    networks["unet"] = UNet2DConditionModel(**config | unet)
    networks["vae"] = AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        scaling_factor=0.13025 if family == "xl" else 0.18215,
    )
    return networks


def full_size_networks(family: str, unet: dict[str, Any], texts: dict[str, dict[str, int]]) -> dict[str, Any]:
    """Networks of other sizes, without weights, on the meta device."""
    depths = len(unet["block_out_channels"])
    crosses = [False, True, True] if family == "xl" else [True] * (depths - 1) + [False]
    down = tuple("CrossAttnDownBlock2D" if crosses_text else "DownBlock2D" for crosses_text in crosses)
    up = tuple(level.replace("Down", "Up") for level in reversed(down))
    with torch.device("meta"):
        networks: dict[str, Any] = {
            "unet": UNet2DConditionModel(**unet, down_block_types=down, up_block_types=up),
            "vae": AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
            ),
        }
        for name, sizes in texts.items():
            activation = "quick_gelu" if name == "text_encoder" and family != "sd2" else "gelu"
            config = CLIPTextConfig(
                vocab_size=49408, hidden_act=activation, projection_dim=sizes["hidden_size"], **sizes
            )
            networks[name] = (CLIPTextModel if name == "text_encoder" else CLIPTextModelWithProjection)(config)
    return networks


def write_folder(folder: Path, family: str, networks: dict[str, Any], **options: Any) -> None:
    """Write a model in the diffusers layout. ``options`` are those of ``save_pretrained``."""
    index: dict[str, Any] = {"_class_name": f"StableDiffusion{'XL' if family == 'xl' else ''}Pipeline"}
    for name, network in networks.items():
        network.save_pretrained(folder / name, **options)
        library = "transformers" if name.startswith("text") else "diffusers"
        index[name] = [library, type(network).__name__]
        if name.startswith("text"):
            padding = END if family != "sd2" and name == "text_encoder" else "!"
            write_clip_tokenizer(folder / name.replace("text_encoder", "tokenizer"), padding)
    schedule: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    schedule |= {"steps_offset": 1, "timestep_spacing": "leading"}
    schedule |= {"prediction_type": "v_prediction" if family == "sd2" else "epsilon"}
    of_sd: Any = {"clip_sample": False, "set_alpha_to_one": False}
    scheduler: Any = EulerDiscreteScheduler(**schedule) if family == "xl" else DDIMScheduler(**schedule, **of_sd)
    scheduler.save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", index)


def write_whole(folder: Path, family: str) -> tuple[Path, Path]:
    """Write a tiny model as a folder and as a file (``file.safetensors``), and a checkpoint for it.

    Returns:
        The folder, and the checkpoint.
    """
    networks = tiny_networks(family)
    write_folder(folder / "folder", family, networks)
    write_file(folder / "file.safetensors", networks)
    with Registry([]).in_force():
        controlnet = XPSRControlNet.from_unet(networks["unet"], (8, 16), None, 3)
        write_checkpoint(folder / "checkpoint", XPSRUNet.from_base(networks["unet"]), controlnet)
    return folder / "folder", folder / "checkpoint"


def write_file(file: Path, networks: dict[str, Any], **metadata: str) -> None:
    """Write a model as one file."""
    save_file(original_tensors(networks), file, {"format": "pt", **metadata})


def original_tensors(networks: dict[str, Any]) -> Tensors:
    """The tensors of a model, as the original code named them."""
    tensors = unet_tensors(networks["unet"]) | vae_tensors(networks["vae"])
    first, second = networks["text_encoder"], networks.get("text_encoder_2")
    if second is not None:
        tensors |= _clip(first, "conditioner.embedders.0.transformer.")
        tensors |= _open_clip(second, "conditioner.embedders.1.model.")
    elif first.config.hidden_act == "gelu":
        tensors |= _open_clip(first, "cond_stage_model.model.")
    else:
        tensors |= _clip(first, "cond_stage_model.transformer.")
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}


def unet_tensors(unet: Any) -> Tensors:
    """The tensors of a U-Net."""
    layers = unet.config.layers_per_block
    per_level = layers + 1
    resnet = {
        **{"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"},
        **{"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"},
    }
    outside = {
        **{"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"},
        **{"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"},
        **{"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"},
    }

    def renamed(name: str) -> str:
        for ours, theirs in outside.items():
            if name.startswith(f"{ours}."):
                return name.replace(ours, theirs)
        where, _, rest = name.partition(".resnets." if ".resnets." in name else ".attentions.")
        is_resnet = ".resnets." in name
        if match := re.match(r"(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.conv\.(.*)", name):
            level = int(match[2])
            if match[1] == "down":
                return f"input_blocks.{per_level * (level + 1)}.0.op.{match[3]}"
            has_attention = "CrossAttn" in unet.config.up_block_types[level]
            return f"output_blocks.{per_level * level + layers}.{2 if has_attention else 1}.conv.{match[3]}"
        number, _, rest = rest.partition(".")
        if is_resnet:
            part, _, end = rest.partition(".")
            rest = f"{resnet[part]}.{end}"
        if where == "mid_block":
            return f"middle_block.{2 * int(number) if is_resnet else 1}.{rest}"
        level = int(where.split(".")[1])
        if where.startswith("down"):
            return f"input_blocks.{per_level * level + int(number) + 1}.{0 if is_resnet else 1}.{rest}"
        return f"output_blocks.{per_level * level + int(number)}.{0 if is_resnet else 1}.{rest}"

    return {f"model.diffusion_model.{renamed(name)}": tensor for name, tensor in unet.state_dict().items()}


def vae_tensors(vae: Any, prefix: str = "first_stage_model.") -> Tensors:
    """The tensors of an autoencoder."""
    last = len(vae.config.block_out_channels) - 1
    found: Tensors = {}
    for name, tensor in vae.state_dict().items():
        new = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
        new = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{last - int(m[1])}.block.{m[2]}", new)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        new = new.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if "mid_block.attentions.0" in new:
            new = new.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            new = new.replace("to_out.0", "proj_out").replace("to_", "")
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor  # they were convolutions of one pixel
        found[prefix + new] = tensor
    return found


def _text(width: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=1,
        hidden_act=activation,
        projection_dim=64,
        vocab_size=49408,
        **{"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1},
    )


def _clip(encoder: Any, prefix: str) -> Tensors:
    state = encoder.state_dict().items()
    return {f"{prefix}text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in state}


def _open_clip(encoder: Any, prefix: str) -> Tensors:
    state = {name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}
    new = {
        f"{prefix}positional_embedding": state.pop("embeddings.position_embedding.weight"),
        f"{prefix}token_embedding.weight": state.pop("embeddings.token_embedding.weight"),
    }
    if "text_projection.weight" in state:
        new[f"{prefix}text_projection"] = state.pop("text_projection.weight").T
    for i in range(encoder.config.num_hidden_layers):
        for kind in ("weight", "bias"):
            each = [state.pop(f"encoder.layers.{i}.self_attn.{x}_proj.{kind}") for x in "qkv"]
            new[f"{prefix}transformer.resblocks.{i}.attn.in_proj_{kind}"] = torch.cat(each)
    names = {
        **{"encoder.layers": "transformer.resblocks", "final_layer_norm": "ln_final", "self_attn": "attn"},
        **{"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"},
    }
    for name, tensor in state.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        new[prefix + name] = tensor
    return new
