"""The form of the page, made of the models that ``xpsr upscale`` uses, and what a visitor has set in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from xpsr_sdk.config import (
    DEFAULT_SCALE,
    SPEEDS,
    Component,
    OutputConfig,
    PipelineConfig,
    RestoreConfig,
    load_config,
)
from xpsr_sdk.contracts import kind_in_words
from xpsr_sdk.errors import ConfigError, did_you_mean, short
from xpsr_sdk.resolved import SIZES, resolve
from xpsr_sdk.web.catalogue import ONLY_WITH_MODEL, PARTS, UPSCALER_ALONE, Catalogue, Model
from xpsr_sdk.web.limits import Limits

OF_OPERATOR = {"max_megapixels", "max_result_megapixels", "tile_batch", "vae_rows"}
"""Settings that decide how much memory is used, which visitors may not set."""
OF_DOWNLOAD = {"format", "quality", "metadata"}
"""Settings of files that are downloaded, which take effect after the restoration."""
GROUPS = {
    "Size": SIZES,
    "Look": ("fidelity", "num_inference_steps", "guidance_scale", "speed", "color", "seed"),
    "Prompts": ("prompt", "low_prompt", "negative", "low_negative", "long_prompts", "prompt_weights"),
}
"""Where dials are on the page. All others are in the group ``More``."""
NOT_SHOWN = re.compile(r"\s*(None: [^.]*\.|\([^()]*\.\))")
"""What is left out of descriptions: what None means, which is shown as the default, and asides."""
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""What JSON can hold, and no answer of the server."""
LONGEST_TEXT = 2000
"""Characters of a prompt."""


class Dials:
    """What visitors may set.

    Args:
        catalogue: The models and parts that they may choose.
        base: The settings of the operator, which theirs override.
        limits: What is allowed at most.
        options: The names of the settings that the command line has, each with its option: ``"--steps"``.
    """

    def __init__(self, catalogue: Catalogue, base: PipelineConfig, limits: Limits, options: Mapping[str, str]) -> None:
        self._catalogue, self._base, self._limits = catalogue, base, limits
        fields = [name for name in RestoreConfig.model_fields if name in options and name not in OF_OPERATOR]
        self.names = [name for name in fields if name not in OF_DOWNLOAD]

    def form(self) -> dict[str, Any]:
        """Everything that the page needs to draw its form."""
        schema = PipelineConfig.model_json_schema()["properties"]
        group_of = {name: group for group, names in GROUPS.items() for name in names}
        in_order = sorted(self.names, key=[*group_of, *self.names].index)
        dials = [_dial(name, schema[name]) | {"group": group_of.get(name, "More")} for name in in_order]
        files = OutputConfig.model_json_schema()["properties"] | {"metadata": schema["metadata"]}
        own = self._base.model_dump(include=set(self.names), exclude_unset=True)
        parts = {kind: _dial(kind, schema[kind]) for kind in PARTS}
        return {
            "groups": [*GROUPS, "More"],
            "dials": dials,
            "sizes": list(SIZES),
            "step_shares": {speed: preset.steps_share for speed, preset in SPEEDS.items()},
            "files": [_dial(name, about) for name, about in files.items() if name in OF_DOWNLOAD],
            "own": own,
            "model": _dial("model", schema["model"]) | {"help": ""},
            "models": [self._about(model) for model in self._catalogue.models.values()],
            "checkpoint": _dial("checkpoint", schema["checkpoint"]),
            "checkpoints": list(self._catalogue.checkpoints),
            "parts": [
                parts[kind]
                | {"choices": [_part(part) for part in self._catalogue.parts[kind].values()]}
                | {"default": _own_part(getattr(self._base, kind))}
                for kind in PARTS
            ],
            "limits": self._limits.model_dump(),
        }

    def _about(self, model: Model) -> dict[str, Any]:
        defaults = model.defaults.model_dump(include={*self.names}) | {"scale": DEFAULT_SCALE, "speed": "exact"}
        parts = {"upscaler": _own_part(model.defaults.upscaler), "sampler": _own_part(model.defaults.sampler)}
        parts["prompt_provider"] = next(iter(self._catalogue.parts["prompt_provider"]))
        without = sorted(ONLY_WITH_MODEL) if model.place == UPSCALER_ALONE else []
        return {
            "name": model.name,
            "defaults": defaults | parts,
            "ignores": without,
            "is_base": model.is_base,
            "summary": "Only an upscaler: there is no diffusion model." if without else "",
        }

    def read(self, given: Mapping[str, Any]) -> PipelineConfig:
        """The settings of a visitor, over those of the operator.

        Args:
            given: Fields of ``PipelineConfig``. None, and what has no effect with the model, is left out.

        Raises:
            ConfigError: A setting is unknown, is not a visitor's to set, is out of range, or conflicts with another.
        """
        values = {name: value for name, value in given.items() if value is not None}
        model = self._chosen_model(values.pop("model", None))
        if model.place == UPSCALER_ALONE:
            values = {name: value for name, value in values.items() if name not in ONLY_WITH_MODEL}
        read: dict[str, Any] = {"model": model.place}
        if "checkpoint" in values:
            read["checkpoint"] = _one_of(self._catalogue.checkpoints, values.pop("checkpoint"), "checkpoint")
        elif model.is_base and self._base.checkpoint is None:
            read["checkpoint"] = next(iter(self._catalogue.checkpoints.values()))
        for kind in PARTS:
            if kind in values:
                read[kind] = self._chosen_part(kind, values.pop(kind))
        for name, value in values.items():
            if name not in self.names:
                raise ConfigError(f"{short(name)} cannot be set here. {did_you_mean(str(name), self.names)}")
            if isinstance(value, str) and len(value) > LONGEST_TEXT:
                raise ConfigError(f"{name} has {len(value)} characters: {LONGEST_TEXT} is the most.")
            if isinstance(value, str) and HALF_CHARACTER.search(value):
                raise ConfigError(f"{name} holds half of a character (a lone surrogate), which is no text.")
        own = self._base.model_dump(exclude_unset=True)
        if any(name in values for name in SIZES):
            own = {name: value for name, value in own.items() if name not in SIZES}
        if model.place == UPSCALER_ALONE:
            kept = {*RestoreConfig.model_fields, "upscaler", "device", "dtype"} - ONLY_WITH_MODEL
            own = {name: value for name, value in own.items() if name in kept}
        limits = self._limits.model_dump(include={"max_megapixels", "max_result_megapixels"})
        config = load_config(PipelineConfig, own | read | values | limits, "What was chosen")
        resolve(RestoreConfig(), config.model_dump(include=set(RestoreConfig.model_fields)), model.defaults)
        return config

    def _chosen_model(self, name: Any) -> Model:
        models = self._catalogue.models
        return next(iter(models.values())) if name is None else _one_of(models, name, "model")

    def _chosen_part(self, kind: str, choice: Any) -> Component:
        """A part as a visitor has chosen it: by its name, or as a table with simple options."""
        options = dict(choice) if isinstance(choice, Mapping) else {"name": choice}
        name = options.pop("name", None)
        part = _one_of(self._catalogue.parts[kind], name, kind_in_words(kind))
        for option in options:
            if option not in part.options:
                raise ConfigError(
                    f"{short(option)} of {part.name} cannot be set here. {did_you_mean(str(option), part.options)}"
                )
        own = getattr(self._base, kind)
        if isinstance(own, dict) and own.get("name") == part.name:
            options = {**own, **options}
        return {**options, "name": part.name} if options else part.name


def _dial(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """What the page needs to know of a setting: its label, help, kind, range and default."""
    alternatives: list[dict[str, Any]] = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    about = {**(alternatives[0] if alternatives else {}), **schema}
    kind = "choice" if "enum" in about else about.get("type", "string")
    title = str(about.get("title", name)).capitalize() if about.get("title") else name
    least = about.get("minimum", about.get("exclusiveMinimum"))
    return {
        "name": name,
        "label": title,
        "help": NOT_SHOWN.sub("", about.get("description", "")),
        "kind": kind,
        "choices": about.get("enum"),
        "least": least,
        "most": about.get("maximum", about.get("exclusiveMaximum")),
        "default": about.get("default"),
    }


def _part(part: Any) -> dict[str, Any]:
    return {
        "name": part.name,
        "summary": part.summary,
        "options": [_dial(name, about) for name, about in part.options.items()],
        "sets": dict(part.sets),
    }


def _own_part(choice: Component | None) -> str | None:
    return choice.get("name") if isinstance(choice, dict) else choice


def _one_of(known: Mapping[str, Any], name: Any, what: str) -> Any:
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"There is no {what} {short(name)} here. {did_you_mean(str(name), _names(known))}")
    return known[name]


def _names(known: Iterable[str]) -> list[str]:
    return [str(name) for name in known]
