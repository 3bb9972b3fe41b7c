"""Takes the content from one provider and the quality from another. If a provider fails, it asks the next one."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from xpsr_sdk.contracts import Item, Options, PromptLevel, PromptProvider, Prompts
from xpsr_sdk.plugin_system.scope import create_part
from xpsr_sdk.prompts.describe import describe


class EnsemblePrompts:
    """Has a list of providers for each level. Each is asked about the photos that those before it did not describe."""

    class Config(Options):
        """The providers, in order of preference. Each is a name, or a table with ``name`` and options."""

        high: tuple[str | dict[str, Any], ...] = Field(
            ("sidecar",), description="Providers that are asked for the content of a photo, in this order."
        )
        low: tuple[str | dict[str, Any], ...] = Field(
            ("sidecar", "measured"), description="Providers that are asked for the quality of a photo, in this order."
        )

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        created: dict[str, PromptProvider] = {}
        self._providers: dict[PromptLevel, list[PromptProvider]] = {"high": [], "low": []}
        for level, of_level in self._providers.items():
            for choice in getattr(self.config, level):
                # The same choice for both levels is one provider, so that its model is loaded once.
                if repr(choice) not in created:
                    created[repr(choice)] = create_part("prompt_provider", choice)
                of_level.append(created[repr(choice)])
        self._warned_of: set[str] = set()

    def describe(self, items: Sequence[Item], levels: Collection[PromptLevel]) -> list[Prompts]:
        """The first description of each photo at each level. If there is none, the errors of all providers."""
        found = [Prompts() for _ in items]
        for level in levels:
            for provider in self._providers[level]:
                missing = [i for i, prompts in enumerate(found) if getattr(prompts, level) is None]
                if missing:
                    answers = describe(provider, [items[i] for i in missing], [level])
                    for i, prompts in zip(missing, answers, strict=True):
                        found[i] = self._joined(found[i], prompts, level)
        return found

    def unload(self) -> None:
        """Make all providers free their memory."""
        for provider in {id(p): p for of_level in self._providers.values() for p in of_level}.values():
            provider.unload()

    def _joined(self, before: Prompts, answer: Prompts, level: PromptLevel) -> Prompts:
        """The prompts of a photo so far, with another provider's answer for one level."""
        earlier = before.errors.get(level, "")
        if getattr(answer, level) is None:
            reasons = " ".join(dict.fromkeys(filter(None, (earlier, answer.errors.get(level)))))
            return replace(before, errors={**before.errors, level: reasons}) if reasons else before
        source = answer.source.get(level, "")
        if earlier and earlier not in self._warned_of:
            self._warned_of.add(earlier)
            warnings.warn(f"The {level}-level prompt is from {source} instead: {earlier}", stacklevel=2)
        errors = {other: why for other, why in before.errors.items() if other != level}
        sources = {**before.source, level: source}
        return replace(before, **{level: getattr(answer, level)}, source=sources, errors=errors)
