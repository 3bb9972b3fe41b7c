"""The terms of the loss: built by their names, called with each step, weighted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xpsr_sdk.contracts import TrainedModel, text_encoders_of
from xpsr_sdk.data.seeds import generator_for
from xpsr_sdk.errors import ConfigError, TrainingError, short
from xpsr_sdk.plugin_system.answers import blamed_on, wrong
from xpsr_sdk.plugin_system.marks import name_of
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.training.config import LossSection

KIND = "loss_term"
PREFIX = "loss."
"""With what the names of the terms' parameters begin: ``loss.TERM.``"""


class Terms(nn.Module):
    """All terms of the loss.

    A term's own weights depend on the seed alone. So they are the same for a run that is resumed, and do not change
    those of the model.

    Args:
        loss: The terms, with their weights and options. Those with the weight 0 are left out.
        model: The model that is trained.
        registry: The registry in which they are looked up.
        seed: The seed of the run.

    Raises:
        ConfigError: An option is wrong, or no term is left.
        PluginError: A term is unknown or broken.
        TrainingError: A term reads heads that the ControlNet lacks.
    """

    def __init__(self, loss: LossSection, model: TrainedModel, registry: Registry, seed: int) -> None:
        super().__init__()
        self._seed = seed
        chosen = {label: term for label, term in loss.terms.items() if term.weight}
        if not chosen:
            raise ConfigError("loss.terms names no term with a weight above 0, so there is nothing to minimise.")
        self._weights = {label: term.weight for label, term in chosen.items()}
        self.by_label: dict[str, nn.Module] = {}
        for label, term in chosen.items():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                part = registry.create(KIND, term.choice(label), model)
            _check(part, model)
            self.by_label[label] = part
        self.parts = nn.ModuleList(self.by_label.values())
        self.read_heads = any(map(_reads_heads, self.parts))

    def forward(self, step: Any, positions: Tensor) -> dict[str, Tensor]:
        """What each term gives for a step, times its weight, by the names under which it is logged.

        Args:
            step: An ``xpsr_sdk.TrainingStep``.
            positions: The positions of its images in the run, B.
        """
        found: dict[str, Tensor] = {}
        for label, part in self.by_label.items():
            generators = [generator_for(self._seed, PREFIX + label, position) for position in positions.tolist()]
            with blamed_on(KIND, part):
                given = part(step, generators)
            several = given if isinstance(given, Mapping) else {"": given}
            for name, value in several.items():
                if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
                    raise wrong(KIND, part, f"gave {_described(value)}, not a tensor without dimensions")
                found[f"loss_{label}_{name}".rstrip("_")] = self._weights[label] * value.float()
        return found

    def networks(self) -> dict[str, nn.Module]:
        """The terms that hold networks of their own, by name."""
        return {
            PREFIX + label: part for label, part in self.by_label.items() if next(part.parameters(), None) is not None
        }

    def trained(self) -> dict[str, nn.Parameter]:
        """The terms' own parameters that are trained, by name."""
        named = {f"{PREFIX}{label}.{n}": p for label, part in self.by_label.items() for n, p in part.named_parameters()}
        return {name: parameter for name, parameter in named.items() if parameter.requires_grad}

    def state(self) -> dict[str, Tensor]:
        """The terms' own buffers, which a run needs to continue, by name."""
        found: dict[str, Tensor] = {}
        for label, part in self.by_label.items():
            buffers = part.state_dict().keys() - dict(part.named_parameters()).keys()
            found |= {f"{PREFIX}{label}.{name}": part.state_dict()[name] for name in sorted(buffers)}
        return found


def _check(part: Any, model: TrainedModel) -> None:
    """Raise an error unless a term is a module of its own, and finds the heads that it reads."""
    if not isinstance(part, nn.Module):
        raise wrong(KIND, part, "is not a torch.nn.Module")
    if parameters_of_model(part, model):
        raise wrong(KIND, part, "holds a network of the model itself, not a copy")
    missing = [name for name in ("return_rgbs", "use_latent_pred") if not model.controlnet.config[name]]
    if missing and _reads_heads(part):
        raise TrainingError(
            f"The {name_of(KIND, part)} reads heads without which the ControlNet was made ({', '.join(missing)}):"
            " leave it out of loss.terms, or set its weight to 0."
        )


def parameters_of_model(part: nn.Module, model: TrainedModel) -> list[str]:
    """The names of the parameters of a term that are those of the model itself."""
    networks = (model.unet, model.controlnet, model.backbone.vae, *text_encoders_of(model.backbone).values())
    own = {id(parameter) for network in networks for parameter in network.parameters()}
    return [name for name, parameter in part.named_parameters() if id(parameter) in own]


def _reads_heads(part: nn.Module) -> bool:
    return bool(getattr(part, "reads_heads", False))


def _described(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)} in {value.dtype}" if isinstance(value, Tensor) else short(value)
