"""The ways to run the networks that ``xpsr bench`` compares."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import Any

from xpsr_sdk.config import SPEEDS, ExecutionConfig
from xpsr_sdk.engine.execution import ALL, Optimizations

PUBLISHED = Optimizations(
    cache_condition=False, cache_text=False, skip_training_heads=False, channels_last=False, pack_weights=False
)
"""Like the published implementation: every evaluation computes everything, even the heads that only training needs."""
WORDS = {"prompt": "a photo", "low_prompt": "blurry, noisy"}


@dataclass(frozen=True)
class Variant:
    """A way to run the networks."""

    name: str
    optimizations: Optimizations = ALL
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    settings: dict[str, Any] = field(default_factory=dict)
    together: bool = True
    """Whether the photos of a batch go through the networks together."""

    def of(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings of a call. A given number of steps is for ``exact``; a speed preset may use a share of it."""
        steps = settings.get("num_inference_steps")
        share = SPEEDS[self.settings.get("speed", "exact")].steps_share
        given = {} if steps is None else {"num_inference_steps": ceil(steps * share)}
        return WORDS | {"seed": 0} | settings | self.settings | given


def variants(compile_mode: str | None = None) -> list[Variant]:
    """The baseline, the exact variants (with all optimizations, then without one each), and the approximate ones."""
    chosen = [Variant("baseline", PUBLISHED, settings={"tile_batch": 1}, together=False), Variant("exact")]
    for name in ("cache_condition", "cache_text", "channels_last", "pack_weights"):
        chosen.append(Variant(f"without {name}", Optimizations(**{name: False})))
    chosen.append(Variant("with training_heads", Optimizations(skip_training_heads=False)))
    chosen.append(Variant("one tile a pass", settings={"tile_batch": 1}, together=False))
    chosen += [Variant(speed, settings={"speed": speed}) for speed in ("balanced", "fast")]
    if compile_mode:
        execution = ExecutionConfig.model_validate({"compile": compile_mode})
        chosen += [
            Variant("exact compiled", execution=execution),
            Variant("fast compiled", execution=execution, settings={"speed": "fast"}),
        ]
    return chosen
