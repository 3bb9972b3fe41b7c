"""The models, checkpoints and parts that visitors may choose. They choose by name, and never name a path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic.errors import PydanticUserError

from xpsr_sdk.build import OF_MODELS
from xpsr_sdk.config import PRESETS, ModelDefaults, PipelineConfig, read_defaults
from xpsr_sdk.errors import CheckpointError, ConfigError, XPSRError
from xpsr_sdk.models.checkpoints import checkpoint_in, read_json
from xpsr_sdk.models.find_model import find_model
from xpsr_sdk.plugin_system.registry import Registry

UPSCALER_ALONE = "none"
"""The name of the model that stands for an upscaler without a diffusion model."""
PARTS = ("upscaler", "prompt_provider", "sampler")
"""The kinds of parts that visitors may choose."""
ONLY_WITH_MODEL = {*OF_MODELS, "checkpoint", "seed"}
"""Settings without effect if the upscaler is alone."""
SIMPLE = {"boolean", "integer", "number"}
"""The JSON types of options that visitors may set. Texts might be the path of a file, or an address."""


@dataclass(frozen=True)
class Model:
    """A model that visitors may choose.

    Attributes:
        name: What they choose it by.
        place: What ``PipelineConfig.model`` says.
        defaults: Its own defaults.
        is_base: Whether it needs a checkpoint, as it has none of its own.
    """

    name: str
    place: str
    defaults: ModelDefaults
    is_base: bool = False


@dataclass(frozen=True)
class Part:
    """A part that visitors may choose.

    Attributes:
        name: Its name.
        summary: One line about it.
        options: The JSON schema of each option that visitors may set, with its default.
        sets: The settings that it replaces the model's defaults with, such as the steps of distilled weights.
    """

    name: str
    summary: str
    options: Mapping[str, Mapping[str, Any]]
    sets: Mapping[str, Any] = field(default_factory=dict)


class Catalogue:
    """What visitors may choose.

    Args:
        registry: Where parts are looked up.
        base: The settings of the operator.
        models: Names of models: presets, folders or models on the hub. Empty: all presets, and the upscaler alone.
        folder: A folder of models and checkpoints, each in a subfolder.
        providers: The prompt providers. Others might download much, or cost money. Empty: the operator's own.

    Raises:
        ConfigError: There is no such model, or no model at all.
        PluginError: There is no such prompt provider.
    """

    def __init__(
        self,
        registry: Registry,
        base: PipelineConfig,
        models: Sequence[str] = (),
        folder: Path | None = None,
        providers: Sequence[str] = (),
    ) -> None:
        own = [base.model] if "model" in base.model_fields_set else []
        names = [*own, *models] or [*_presets(), UPSCALER_ALONE]
        found = [_model(name, name) for name in names]
        self.checkpoints: dict[str, Path] = {}
        for each in sorted(folder.iterdir()) if folder else ():
            if (each / "model_index.json").is_file():
                found.append(_model(each.name, str(each.absolute())))
            elif checkpoint_in(each):
                self.checkpoints[each.name] = each.absolute()
            elif each.suffix == ".safetensors":  # a whole Stable Diffusion, or something else
                with suppress(CheckpointError):
                    found.append(_model(each.name, str(each.absolute())))
        if not self.checkpoints and base.checkpoint is None:
            found = [model for model in found if not model.is_base]
        self.models = {model.name: model for model in found}
        if not self.models:
            raise ConfigError(
                "There is no model that visitors could choose: base models need a checkpoint in --models-dir."
            )
        self.parts = {
            kind: {part.name: part for part in _complete_parts(registry, kind)} for kind in ("upscaler", "sampler")
        }
        chosen = _name(base.prompt_provider) or "measured"
        offered = list(dict.fromkeys([*providers, chosen] if base.prompt_provider or not providers else providers))
        self.parts["prompt_provider"] = {name: _part(registry, "prompt_provider", name) for name in offered}


def _presets() -> list[str]:
    return sorted(index.parent.name for index in PRESETS.glob("*/model_index.json"))


def _model(name: str, place: str) -> Model:
    if place == UPSCALER_ALONE:
        own = ModelDefaults(upscaler="realesrgan-x4plus", color="none")
        return Model(name, place, own)
    folder = find_model(place)
    shown = folder.name if Path(place).is_dir() else name
    return Model(shown, place, read_defaults(read_json(folder / "model_index.json")), checkpoint_in(folder) is None)


def _complete_parts(registry: Registry, kind: str) -> Iterable[Part]:
    """The parts of a kind that work as they are, without an option that must be given."""
    for component in registry.components(kind):
        if component.state != "broken":
            name = component.spec.name if component.state == "ok" else component.full_name
            try:
                made = registry.create(kind, name)
            except XPSRError:
                continue
            yield replace(_part(registry, kind, name), sets=getattr(made, "defaults", {}))


def _part(registry: Registry, kind: str, name: str) -> Part:
    component, schema = registry.find(kind, name), registry.resolve(kind, name).Config
    try:
        properties = schema.model_json_schema().get("properties", {})
    except PydanticUserError:  # there is a type that JSON does not have
        properties = {}
    options = {
        option: {**about, **({"default": component.spec.defaults[option]} if option in component.spec.defaults else {})}
        for option, about in properties.items()
        if about.get("type") in SIMPLE or "enum" in about
    }
    return Part(name, component.spec.summary, options)


def _name(choice: Any) -> str | None:
    return choice.get("name") if isinstance(choice, dict) else choice
