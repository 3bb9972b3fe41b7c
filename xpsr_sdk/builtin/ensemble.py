"""Takes the content from one provider and the quality from another, and asks the next one where one fails."""

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
    """For each level a list of providers; each is asked about the photos that those before it had no words for."""

    class Config(Options):
        """The providers, the preferred first; each by name, or as a table with ``name`` and options."""

        high: tuple[str | dict[str, Any], ...] = Field(
            ("sidecar",), description="Providers that are asked for the content of a photo, in this order."
        )
        low: tuple[str | dict[str, Any], ...] = Field(
            ("sidecar", "measured"), description="Providers that are asked for the quality of a photo, in this order."
        )

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        made: dict[str, PromptProvider] = {}
        self._providers: dict[PromptLevel, list[PromptProvider]] = {"high": [], "low": []}
        for level, of_level in self._providers.items():
            for choice in getattr(self.config, level):
                # One for both levels, so that a model is loaded once.
                if repr(choice) not in made:
                    made[repr(choice)] = create_part("prompt_provider", choice)
                of_level.append(made[repr(choice)])
        self._told: set[str] = set()

    def describe(self, items: Sequence[Item], levels: Collection[PromptLevel]) -> list[Prompts]:
        """The first description there is of each photo at each level; errors are those of all that failed."""
        found = [Prompts() for _ in items]
        for level in levels:
            for provider in self._providers[level]:
                missing = [i for i, prompts in enumerate(found) if getattr(prompts, level) is None]
                if missing:
                    said = describe(provider, [items[i] for i in missing], [level])
                    for i, prompts in zip(missing, said, strict=True):
                        found[i] = self._joined(found[i], prompts, level)
        return found

    def unload(self) -> None:
        """Have all providers free their memory."""
        for provider in {id(p): p for of_level in self._providers.values() for p in of_level}.values():
            provider.unload()

    def _joined(self, before: Prompts, said: Prompts, level: PromptLevel) -> Prompts:
        """What is known of a photo with what another provider says of a level."""
        earlier = before.errors.get(level, "")
        if getattr(said, level) is None:
            reasons = " ".join(dict.fromkeys(filter(None, (earlier, said.errors.get(level)))))
            return replace(before, errors={**before.errors, level: reasons}) if reasons else before
        source = said.source.get(level, "")
        if earlier and earlier not in self._told:
            self._told.add(earlier)
            warnings.warn(f"The {level}-level prompt is from {source} instead: {earlier}", stacklevel=2)
        rest = {other: why for other, why in before.errors.items() if other != level}
        return replace(before, **{level: getattr(said, level)}, source={**before.source, level: source}, errors=rest)
