"""LoRA (arXiv 2106.09685) on the base U-Net's own attention, by peft."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

LORA_PATTERN = "unet.*lora_*"
OWN_ATTENTION = r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.attentions\..*\.(to_q|to_k|to_v|to_out\.0)"


def add_lora(unet: Any, rank: int) -> None:
    """Add a fresh LoRA to every projection of the U-Net's own attention. At first it does not change the result."""
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=OWN_ATTENTION))


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model with its LoRA merged in, under the names of a model without LoRA."""
    state = {
        name.replace(".base_layer.", "."): tensor.detach()
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name
    }
    modules: Any = model.named_modules()
    for name, module in modules:
        if isinstance(module, LoraLayer):
            weight = state[f"{name}.weight"]
            layer: Any = module
            delta: Tensor = layer.get_delta_weight("default")
            state[f"{name}.weight"] = weight + delta.detach().to(weight)
    return state
