"""The configs of a Stable Diffusion that is one file in its original layout, from the shapes of its tensors.

Such a file says neither how many attention heads its U-Net has, nor how its schedule is: these are as in the published
models of its family. SD 1.x has 8 heads; SD 2.x and SDXL have heads of 64 channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from xpsr_sdk.errors import CheckpointError
from xpsr_sdk.models.clip_tokenizer import VOCABULARY
from xpsr_sdk.models.file_kinds import UNET, Shapes

Family = Literal["sd1", "sd2", "xl"]
Config = dict[str, Any]
VAE = "first_stage_model."
TEXT: dict[Family, dict[str, str]] = {
    "sd1": {"text_encoder": "cond_stage_model.transformer."},
    "sd2": {"text_encoder": "cond_stage_model.model."},
    "xl": {"text_encoder": "conditioner.embedders.0.transformer.", "text_encoder_2": "conditioner.embedders.1.model."},
}
"""The text encoders of each family, and what the names of their tensors begin with."""
_GROUPS = 32
"""Groups of the normalisations in the U-Net and the autoencoder."""
_HEAD = 64
"""Channels of an attention head, in the U-Net of SD 2.x and SDXL, and in the text encoders."""


def family_of(shapes: Shapes, file: Path) -> Family:
    """The family of a single file, by its text encoders.

    Raises:
        CheckpointError: It has none, or is of another family.
    """
    if "edm_mean" in shapes:
        raise CheckpointError(f"{file} is a Playground 2.5, whose noise schedule (EDM) is not supported.")
    for family in ("xl", "sd2", "sd1"):
        if all(any(name.startswith(prefix) for name in shapes) for prefix in TEXT[family].values()):
            return family
    raise CheckpointError(f"{file} holds a U-Net without its text encoder: name a file or a folder of a whole model.")


def configs_of(shapes: Shapes, family: Family, metadata: Mapping[str, str], file: Path) -> dict[str, Config]:
    """The config of each network, and of the noise schedule, by the name of its folder.

    Args:
        shapes: The shapes of the file's tensors.
        family: Its family.
        metadata: What is in its header.
        file: The file, for messages.

    Raises:
        CheckpointError: The file is incomplete, or of another architecture.
    """
    try:
        texts = {name: _text_encoder(shapes, prefix) for name, prefix in TEXT[family].items()}
        configs = {"unet": _unet(shapes, family, texts), "vae": _vae(shapes, family), **texts}
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(f"{file} is incomplete, or no Stable Diffusion: it lacks {error}.") from None
    widths = [*configs["unet"]["block_out_channels"], *configs["vae"]["block_out_channels"]]
    if any(width % _GROUPS for width in widths) or any(text["vocab_size"] != VOCABULARY for text in texts.values()):
        raise CheckpointError(
            f"{file} is of another size than the published models, so that its heads, groups or tokens are unknown: "
            f"put a folder {file.stem}/ beside it, in the diffusers layout, with its configs and tokenizer."
        )
    return configs | {"scheduler": _schedule(shapes, family, metadata)}


def _unet(shapes: Shapes, family: Family, texts: Mapping[str, Config]) -> Config:
    def shape(name: str) -> tuple[int, ...]:
        return shapes[f"{UNET}{name}.weight"]

    count = _count(shapes, f"{UNET}input_blocks.")
    levels: list[list[int]] = [[]]  # the input blocks of each level
    for i in range(1, count):
        if f"{UNET}input_blocks.{i}.0.op.weight" in shapes:
            levels.append([])
        else:
            levels[-1].append(i)
    widths = [shape(f"input_blocks.{level[0]}.0.in_layers.2")[0] for level in levels]
    depths = [_count(shapes, f"{UNET}input_blocks.{level[0]}.1.transformer_blocks.") for level in levels]
    attention = shape("middle_block.1.proj_in")
    config = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": shape("input_blocks.0.0")[1],
        "out_channels": shape("out.2")[0],
        "block_out_channels": widths,
        "layers_per_block": len(levels[0]),
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "cross_attention_dim": shape("middle_block.1.transformer_blocks.0.attn2.to_k")[1],
        "attention_head_dim": 8 if family == "sd1" else [max(1, width // _HEAD) for width in widths],
        "use_linear_projection": len(attention) == 2,
        "upcast_attention": family == "sd2",
        "sample_size": {"sd1": 64, "sd2": 96, "xl": 128}[family],
    }
    if any(depth > 1 for depth in depths):
        config["transformer_layers_per_block"] = [max(1, depth) for depth in depths]
    if family == "xl":
        added, pooled = shape("label_emb.0.0")[1], texts["text_encoder_2"]["projection_dim"]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (added - pooled) // 6,  # for each of the six numbers of sizes and crop
            "projection_class_embeddings_input_dim": added,
        }
    return config


def _vae(shapes: Shapes, family: Family) -> Config:
    prefix = f"{VAE}encoder.down."
    if not any(name.startswith(VAE) for name in shapes):  # those of the published models; its weights must be named
        widths, layers, latents, pixels = [128, 256, 512, 512], 2, 4, 3
    else:
        count = _count(shapes, prefix)
        widths = [shapes[f"{prefix}{i}.block.0.conv2.weight"][0] for i in range(count)]
        layers = _count(shapes, f"{prefix}0.block.")
        latents = shapes[f"{VAE}decoder.conv_in.weight"][1]
        pixels = shapes[f"{VAE}encoder.conv_in.weight"][1]
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": pixels,
        "out_channels": pixels,
        "latent_channels": latents,
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "sample_size": {"sd1": 512, "sd2": 768, "xl": 1024}[family],
        "scaling_factor": 0.13025 if family == "xl" else 0.18215,
        "force_upcast": True,
    }


def _text_encoder(shapes: Shapes, prefix: str) -> Config:
    """That of CLIP, or of OpenCLIP, whose last layer SD 2.x leaves out."""
    is_open = not prefix.endswith("transformer.")
    if is_open:
        vocabulary, width = shapes[f"{prefix}token_embedding.weight"]
        positions = shapes[f"{prefix}positional_embedding"][0]
        layers = _count(shapes, f"{prefix}transformer.resblocks.")
        inner = shapes[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"][0]
    else:
        embeddings = f"{prefix}text_model.embeddings."
        vocabulary, width = shapes[f"{embeddings}token_embedding.weight"]
        positions = shapes[f"{embeddings}position_embedding.weight"][0]
        layers = _count(shapes, f"{prefix}text_model.encoder.layers.")
        inner = shapes[f"{prefix}text_model.encoder.layers.0.mlp.fc1.weight"][0]
    is_second = prefix == TEXT["xl"]["text_encoder_2"]
    return {
        "architectures": ["CLIPTextModelWithProjection" if is_second else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "max_position_embeddings": positions,
        "num_hidden_layers": layers if is_second or not is_open else min(layers, 23),
        "num_attention_heads": max(1, width // _HEAD),
        "hidden_act": "gelu" if is_open else "quick_gelu",
        "projection_dim": shapes[f"{prefix}text_projection"][1] if is_second else width,
        # These three are as in the published models:
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def _schedule(shapes: Shapes, family: Family, metadata: Mapping[str, str]) -> Config:
    """The schedule of the published models of the family, with what the file says about its predictions."""
    config = {
        "_class_name": "EulerDiscreteScheduler" if family == "xl" else "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "prediction_type": named_prediction(shapes, metadata) or ("v_prediction" if family == "sd2" else "epsilon"),
    }
    if "ztsnr" in shapes:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return config if family == "xl" else config | {"clip_sample": False, "set_alpha_to_one": False}


def named_prediction(shapes: Shapes, metadata: Mapping[str, str]) -> str | None:
    """What the U-Net predicts, ``"epsilon"`` or ``"v_prediction"``; None: the file does not say so.

    Newer files say so, in their header (https://github.com/Stability-AI/ModelSpec) or by an empty tensor ``v_pred``.
    For others of SD 2.x, it is taken to be as in the published model of 768 pixels, of which most are made.
    """
    if named := metadata.get("modelspec.prediction_type"):
        return "v_prediction" if named.startswith("v") else "epsilon"
    if "v_pred" in shapes:
        return "v_prediction"
    architecture = metadata.get("modelspec.architecture", "")
    of_sd2 = {"stable-diffusion-v2-512": "epsilon", "stable-diffusion-v2-768-v": "v_prediction"}
    return of_sd2.get(architecture)


def _count(shapes: Shapes, prefix: str) -> int:
    """How many parts there are, which are numbered after ``prefix``."""
    numbers = {name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)}
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)
