"""Finds metrics by name or by preset, and builds them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from xpsr_sdk.errors import CheckpointError, ConfigError, PluginError, UnknownComponent
from xpsr_sdk.evaluation.chosen import ChosenMetric
from xpsr_sdk.evaluation.presets import PRESETS
from xpsr_sdk.plugin_system.registry import Registry

MetricChoice = str | Mapping[str, Any]
"""The name of a metric or of a preset, or ``{"name": ..., <options>}``; the option ``crop`` is for every metric."""


def choose_metrics(
    choices: Sequence[MetricChoice | ChosenMetric],
    registry: Registry,
    *,
    crop: int = 0,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    **shared: Any,
) -> tuple[list[ChosenMetric], dict[str, str]]:
    """Build metrics.

    Args:
        choices: Names of metrics or presets, mappings with a name and options, or metrics that are built already.
        registry: Where metrics are looked up.
        crop: Pixels left out at each side by metrics that have no crop of their own.
        options: More options of single metrics, by the metric's name.
        shared: Options for all metrics that have them, for instance ``channel`` and ``weights``; None is left out.

    Returns:
        The metrics; and, for each that cannot be had because its weights are missing (or, for a metric of a preset,
        its plug-in), the reason.

    Raises:
        ConfigError: None is chosen, an option is wrong, or not one of them can be had.
        PluginError: There is no such metric, or its plug-in is broken.
    """
    if not choices:
        raise ConfigError(f"No metric is given. {_known(registry)}")
    check_crop(crop)
    options = options or {}
    _check_options(choices, options)
    chosen: dict[str, ChosenMetric] = {}
    skipped: dict[str, str] = {}
    for choice in choices:
        if isinstance(choice, ChosenMetric):
            chosen[choice.name] = replace(choice, crop=crop if choice.own_crop is None else choice.own_crop)
            continue
        members = PRESETS.get(choice) if isinstance(choice, str) else None
        for own in members or (choice,):
            member = _with_options(own, options)
            name = _label(member)
            if name in chosen or name in skipped:
                continue
            try:
                chosen[name] = _built(name, member, registry, crop, shared)
            except CheckpointError as error:
                skipped[name] = str(error)
            except PluginError as error:
                if members is None:
                    raise
                skipped[name] = str(error)
    if not chosen:
        raise ConfigError(f"No metric is left: {' '.join(skipped.values())}")
    return list(chosen.values()), skipped


def check_choices(choices: Sequence[MetricChoice], registry: Registry) -> None:
    """Raise PluginError or ConfigError for metrics or options that are unknown, without building anything.

    What a preset names may be missing: ``choose_metrics`` leaves it out, and says so.
    """
    for choice in choices:
        if not (isinstance(choice, str) and choice in PRESETS):
            _label(choice)
            options = {"name": choice} if isinstance(choice, str) else dict(choice)
            _config_fields(options["name"], registry)
            check_crop(options.pop("crop", 0))
            registry.config("metric", options)


def check_crop(crop: object) -> None:
    """Raise ConfigError unless it is a number of pixels."""
    if not isinstance(crop, int) or isinstance(crop, bool) or crop < 0:
        raise ConfigError(f"The crop is {crop}: it must be 0 or more pixels.")


def name_of(choice: MetricChoice | ChosenMetric) -> str:
    """The name of a metric, without its options."""
    if isinstance(choice, ChosenMetric):
        return choice.name.partition(" (")[0]
    return choice if isinstance(choice, str) else str(choice.get("name"))


def _check_options(choices: Sequence[MetricChoice | ChosenMetric], options: Mapping[str, object]) -> None:
    """Raise ConfigError for options of metrics that are not chosen."""
    names = [name for choice in choices for name in map(name_of, PRESETS.get(name_of(choice), (choice,)))]
    for name in options.keys() - set(names):
        raise ConfigError(f"There are options for the metric {name!r}, which is not chosen: {', '.join(names)} are.")


def _with_options(choice: MetricChoice, options: Mapping[str, Mapping[str, Any]]) -> MetricChoice:
    """A choice, with more options if there are any for its name."""
    more = options.get(name_of(choice))
    if not more:
        return choice
    return {**({"name": choice} if isinstance(choice, str) else choice), **more}


def needed_metrics(choices: Sequence[MetricChoice], registry: Registry, **shared: Any) -> list[ChosenMetric]:
    """Build metrics that cannot be done without; see ``choose_metrics``.

    Raises:
        CheckpointError: The weights of one are missing.
        ConfigError, PluginError: As ``choose_metrics``.
    """
    chosen, skipped = choose_metrics(choices, registry, **shared)
    if skipped:
        raise CheckpointError(" ".join(skipped.values()))
    return chosen


def _built(name: str, choice: MetricChoice, registry: Registry, crop: int, shared: Mapping[str, Any]) -> ChosenMetric:
    given: dict[str, Any] = {"name": choice} if isinstance(choice, str) else dict(choice)
    own_crop = given.pop("crop", None)
    if own_crop is not None:
        check_crop(own_crop)
    fields = _config_fields(given["name"], registry)
    options = {key: value for key, value in shared.items() if key in fields and value is not None}
    metric = registry.create("metric", {**options, **given})
    component = str(registry.find("metric", given["name"]))
    return ChosenMetric(name, metric, component, own_crop, crop if own_crop is None else own_crop)


def _config_fields(name: str, registry: Registry) -> Collection[str]:
    """The options that a metric has."""
    try:
        return registry.resolve("metric", name).Config.model_fields.keys()
    except UnknownComponent as error:
        raise UnknownComponent(f"{error} Most others are in the plug-in xpsr-pyiqa.") from None


def _label(choice: MetricChoice) -> str:
    if isinstance(choice, str):
        return choice
    if "name" not in choice:
        raise ConfigError(f'The metric {dict(choice)} has no name; write {{"name": "...", ...}}.')
    options = ", ".join(f"{key}={value}" for key, value in choice.items() if key != "name")
    return f"{choice['name']} ({options})" if options else str(choice["name"])


def _known(registry: Registry) -> str:
    names = [component.spec.name for component in registry.components("metric")]
    return f"Known: {', '.join(names)}; presets: {', '.join(PRESETS)}."
