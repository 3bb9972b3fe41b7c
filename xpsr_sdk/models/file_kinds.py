"""What a file of weights holds, by the names and shapes of its tensors, whatever the file is called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from xpsr_sdk.errors import CheckpointError, short, visible
from xpsr_sdk.weight_files import read_shapes

Kind = Literal[
    "model", "lora", "embedding", "vae", "unet", "text-encoder", "controlnet", "refiner", "transformer", "upscaler", ""
]
Shapes = Mapping[str, tuple[int, ...]]
WEIGHT_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
UNET = "model.diffusion_model."
"""What the names of the U-Net's tensors begin with in the original layout."""

_LORA = (".lora_", ".lora.", "_lora.", "lora_linear_layer", ".hada_w", ".lokr_", ".oft_")
_TRANSFORMER = ("joint_blocks.", "double_blocks.", "double_layers.", "single_transformer_blocks.", "x_embedder.")
_PHRASES: dict[Kind, tuple[str, str]] = {
    "model": ("a whole model in one file", "name it as model (--model)"),
    "lora": ("a LoRA", "name it as lora (--lora), beside a model"),
    "embedding": ("an embedding (textual inversion)", "name it as embedding (--embedding), beside a model"),
    "vae": ("an autoencoder (VAE) alone", "name it as vae (--vae), beside a model"),
    "unet": ("a U-Net alone", "name the folder, or the file, of its whole model"),
    "text-encoder": ("a text encoder alone", "name the folder, or the file, of its whole model"),
    "controlnet": ("a ControlNet of another method", "XPSR needs one that was trained for it, as a checkpoint"),
    "refiner": ("the refiner of SDXL", "name the base model"),
    "transformer": ("a diffusion transformer, such as SD 3 or Flux", "models made by flow matching are not supported"),
    "upscaler": ("an upscaler", "name it as upscaler, {name = 'spandrel', path = ...}"),
}
"""What each kind is called, and where a file of this kind belongs."""


def kind_of(shapes: Shapes) -> Kind:
    """The kind of file that holds tensors of these names and shapes, or ``""`` for none that is known."""

    def named(*parts: str) -> bool:
        return any(part in name for name in shapes for part in parts)

    def begins(*parts: str) -> bool:
        return any(name.startswith(parts) for name in shapes)

    if named(*_LORA):
        return "lora"
    if named("control_model.", "controlnet_cond_embedding.", "controlnet_down_blocks.", "input_hint_block."):
        return "controlnet"
    if named(*_TRANSFORMER):
        return "transformer"
    if begins(UNET):
        is_refiner = begins("conditioner.embedders.0.model.") and not begins("conditioner.embedders.1.")
        return "refiner" if is_refiner else "model"
    if begins("first_stage_model.", "encoder.conv_in.", "decoder.conv_in.", "vae."):
        return "vae"
    if begins("input_blocks.", "down_blocks."):
        return "unet"
    if named("token_embedding.weight"):
        return "text-encoder"
    if begins("string_to_param", "emb_params") or {"clip_l", "clip_g"} & shapes.keys() or _is_one_matrix(shapes):
        return "embedding"
    return "upscaler" if begins("conv_first.", "model.0.", "params.", "params_ema.") else ""


def check_kind(file: Path, wanted: Kind, shapes: Shapes | None = None) -> Shapes:
    """The shapes of the tensors in a file.

    Args:
        file: A file of weights.
        wanted: What it must hold.
        shapes: The shapes, if they have been read.

    Raises:
        CheckpointError: It holds something else, or a model whose U-Net has other inputs.
    """
    shapes = read_shapes(file) if shapes is None else shapes
    if kind_of(shapes) != wanted:
        raise CheckpointError(wrong_kind(file, _PHRASES[wanted][0], shapes))
    if wanted == "model":
        inputs = shapes.get(f"{UNET}input_blocks.0.0.weight", (0, 4))[1]
        if inputs != 4:
            raise CheckpointError(
                f"{file} is {kind_by_inputs(inputs)}: its U-Net has {inputs} input channels, not 4. Name the model "
                "that it was made from."
            )
    return shapes


def kind_by_inputs(channels: int) -> str:
    """What a model is whose U-Net has not the 4 input channels of Stable Diffusion."""
    kinds = {9: "an inpainting model", 8: "a model that edits pictures by instructions", 5: "a model for depth maps"}
    return kinds.get(channels, "another model than Stable Diffusion's text-to-image")


def wrong_kind(file: Path, wanted: str, shapes: Shapes | None = None) -> str:
    """The sentence that a file holds something else than is wanted, and where it belongs."""
    shapes = read_shapes(file) if shapes is None else shapes
    kind = kind_of(shapes)
    if kind:
        phrase, advice = _PHRASES[kind]
        return f"{file} is {phrase}, not {wanted}: {advice}."
    first = visible(short(min(shapes))) if shapes else "none"
    return f"{file} is not {wanted}, nor anything else that is known: it holds {len(shapes)} tensors, first {first}."


def _is_one_matrix(shapes: Shapes) -> bool:
    """Whether there is nothing but the vectors of one token, as diffusers writes them under the token's name."""
    return len(shapes) == 1 and all(len(shape) in (1, 2) for shape in shapes.values())
