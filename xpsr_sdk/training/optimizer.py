"""The trained parameters and their groups, the optimiser, and the learning rate."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from xpsr_sdk.errors import ConfigError, TrainingError
from xpsr_sdk.training.config import OptimizerSection

GROUPS = {
    "lora": (".lora_A.", ".lora_B."),
    "fusion": (".fusions.",),
    "pixel_attention": (".pixel_attentions.",),
    "heads": (".conv_degradation", ".to_rgbs."),
}
"""The parts of a network whose gradient norms are logged separately, and what the names of their parameters contain."""


def select_parameters(
    models: dict[str, nn.Module], patterns: tuple[str, ...], each_must_match: bool = True
) -> dict[str, nn.Parameter]:
    """Freeze everything but the parameters whose names (``unet.up_blocks.0...``) match a pattern.

    Raises:
        TrainingError: A pattern matches nothing, and ``each_must_match`` is true.
    """
    named = {f"{prefix}.{n}": p for prefix, model in models.items() for n, p in model.named_parameters()}
    for pattern in patterns:
        if each_must_match and not fnmatch.filter(named, pattern):
            raise TrainingError(f"model.train: no parameter matches {pattern!r}; names begin with {', '.join(models)}.")
    chosen = {n: p for n, p in named.items() if any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns)}
    for parameter in named.values():
        parameter.requires_grad_(False)
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    return chosen


def make_optimizer(parameters: Iterable[nn.Parameter], options: OptimizerSection) -> torch.optim.Optimizer:
    """The optimiser that the config names.

    Raises:
        ConfigError: It needs a package that is not installed.
    """
    settings: dict[str, Any] = {
        "lr": options.learning_rate, "betas": options.betas, "weight_decay": options.weight_decay
    }  # fmt: skip
    if options.name == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **settings)
    try:
        adamw = import_module("bitsandbytes.optim").AdamW8bit
    except ImportError as error:
        raise ConfigError(
            f"optimizer.name is adamw-8bit, which needs bitsandbytes ({error}): pip install 'xpsr-sdk[train]'."
        ) from error
    optimizer: torch.optim.Optimizer = adamw(parameters, **settings)
    return optimizer


def learning_rate(options: OptimizerSection, step: int, steps: int) -> float:
    """The learning rate of a step: a linear warm-up, then constant, linear decay or cosine decay to zero."""
    rise = min(1.0, (step + 1) / (options.warmup_steps + 1))
    falls = {"constant": 1.0, "linear": 1 - step / steps, "cosine": 0.5 * (1 + math.cos(math.pi * step / steps))}
    return options.learning_rate * rise * falls[options.schedule]


def group_of(name: str) -> str:
    """The group of a parameter: its network, and its part if that is one of ``GROUPS``; or its term of the loss."""
    network, _, rest = name.partition(".")
    if network == "loss":
        return f"{network}.{rest.partition('.')[0]}"
    part = next((part for part, marks in GROUPS.items() if any(mark in name for mark in marks)), None)
    return f"{network}.{part}" if part else network


@torch.no_grad()
def gradient_norms(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The norm of the gradient of each group."""
    groups: dict[str, list[Tensor]] = {}
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            groups.setdefault(group_of(name), []).append(parameter.grad)
    return {group: nn.utils.get_total_norm(gradients) for group, gradients in sorted(groups.items())}
