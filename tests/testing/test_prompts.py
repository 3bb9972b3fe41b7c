"""Prompt providers that break a clause each are caught."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.registries import registry_with
from xpsr_sdk import Item, Options, Prompts, Registry
from xpsr_sdk.testing import ContractViolation, check_prompt_provider
from xpsr_sdk.testing.clauses import CLAUSES, COMMON


class Honest:
    """Names the brightness as content, and the size as quality."""

    class Config(Options):
        """No options."""

    def __init__(self, config: Config) -> None:
        self.model: Any = None

    def describe(self, items: Sequence[Item], levels: Collection[str]) -> Any:
        return [self.describe_one(item, levels) for item in items]

    def describe_one(self, item: Item, levels: Collection[str]) -> Any:
        try:
            self.model = self.model or object()
            bright = int(np.asarray(item.image.convert("L"), dtype=float).mean())
        except OSError as error:
            return Prompts(errors=dict.fromkeys(levels, f"unreadable: {error}"))  # type: ignore[arg-type]
        texts = {"high": f"a photo of brightness {bright}", "low": f"{item.image.width} pixels wide"}
        asked = {level: text for level, text in texts.items() if level in levels}
        return Prompts(**asked, source=dict.fromkeys(asked, "honest"))  # type: ignore[arg-type]

    def unload(self) -> None:
        self.model = None


class AGenerator(Honest):
    def describe(self, items: Sequence[Item], levels: Collection[str]) -> Any:
        return (self.describe_one(item, levels) for item in items)


class OneTooFew(Honest):
    def describe(self, items: Sequence[Item], levels: Collection[str]) -> Any:
        return super().describe(items, levels)[:1]


class Words(Honest):
    def describe_one(self, item: Item, levels: Collection[str]) -> str:
        return "a photo"


class AllLevelsAlways(Honest):
    def describe_one(self, item: Item, levels: Collection[str]) -> Any:
        return super().describe_one(item, ["high", "low"])


class Bytes(Honest):
    def describe_one(self, item: Item, levels: Collection[str]) -> Any:
        return Prompts(high=b"a photo" if "high" in levels else None)  # type: ignore[arg-type]


class Anonymous(Honest):
    def describe_one(self, item: Item, levels: Collection[str]) -> Any:
        prompts = super().describe_one(item, levels)
        return Prompts(prompts.high, prompts.low, errors=prompts.errors)


class TextAndError(Honest):
    def describe_one(self, item: Item, levels: Collection[str]) -> Any:
        prompts = super().describe_one(item, levels)
        return Prompts(prompts.high, prompts.low, prompts.source, dict.fromkeys(levels, "why"))  # type: ignore[arg-type]


class DrawsOnTheImage(Honest):
    def describe_one(self, item: Item, levels: Collection[str]) -> Any:
        prompts = super().describe_one(item, levels)
        if not prompts.errors:
            item.image.putpixel((0, 0), (1, 2, 3))
        return prompts


class UsesUpItems(Honest):
    def describe(self, items: Any, levels: Collection[str]) -> Any:
        answers = super().describe(items, levels)
        if isinstance(items, list) and len(items) == 2:
            items.reverse()
        return answers


class Counts(Honest):
    calls = 0

    def describe_one(self, item: Item, levels: Collection[str]) -> Any:
        Counts.calls += 1
        return Prompts(high=f"photo {Counts.calls}", source={"high": "counts"}) if "high" in levels else Prompts()


class SticksToItsWords(Honest):
    """Says of every image what it said of the first that it saw."""

    words: Any = None

    def describe_one(self, item: Item, levels: Collection[str]) -> Any:
        self.words = self.words or super().describe_one(item, ["high", "low"])
        asked = {level: getattr(self.words, level) for level in levels}
        return Prompts(**asked, source=dict.fromkeys(asked, "honest"))  # type: ignore[arg-type]


class SpeaksOfTheFirst(Honest):
    def describe(self, items: Sequence[Item], levels: Collection[str]) -> Any:
        return [self.describe_one(items[0], levels) for _ in items]


class SortsBySize(Honest):
    def describe(self, items: Sequence[Item], levels: Collection[str]) -> Any:
        return super().describe(sorted(items, key=lambda item: item.image.width), levels)


class NeedsEightPixels(Honest):
    def describe_one(self, item: Item, levels: Collection[str]) -> Any:
        if not item.image.size[0] // 8:
            raise ValueError("too small")
        return super().describe_one(item, levels)


class Raises(Honest):
    def describe_one(self, item: Item, levels: Collection[str]) -> Any:
        item.image.load()
        return super().describe_one(item, levels)


class Silent(Honest):
    def describe_one(self, item: Item, levels: Collection[str]) -> Any:
        prompts = super().describe_one(item, levels)
        return Prompts() if prompts.errors else prompts


class AllOrNothing(Honest):
    def describe(self, items: Sequence[Item], levels: Collection[str]) -> Any:
        answers = super().describe(items, levels)
        failed = [answer for answer in answers if answer.errors]
        return [failed[0] for _ in answers] if failed else answers


class UnloadsOnce(Honest):
    def unload(self) -> None:
        del self.model


class NeverComesBack(Honest):
    unloaded = False

    def describe_one(self, item: Item, levels: Collection[str]) -> Any:
        return (
            Prompts(errors=dict.fromkeys(levels, "unloaded")) if self.unloaded else super().describe_one(item, levels)
        )  # type: ignore[arg-type]

    def unload(self) -> None:
        self.unloaded = True


class DiffersInAPipeline(Honest):
    """Says something else each time of a photo of the size that is restored here."""

    calls = 0

    def describe_one(self, item: Item, levels: Collection[str]) -> Any:
        prompts = super().describe_one(item, levels)
        if item.image.size == (23, 17):
            DiffersInAPipeline.calls += 1
            words = "no blur, " * DiffersInAPipeline.calls
            return Prompts(low=words, source={"low": "calls"})
        return prompts


class MixesUpImagesOfNoFile(Honest):
    """Remembers by path, and takes images without one for the same."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.remembered: dict[Any, Any] = {}

    def describe_one(self, item: Item, levels: Collection[str]) -> Any:
        key = item.path, item.image.size, tuple(sorted(levels))
        if item.path is not None:
            return super().describe_one(item, levels)
        return self.remembered.setdefault(key, super().describe_one(item, levels))


class FailsAlways(Honest):
    def describe(self, items: Sequence[Item], levels: Collection[str]) -> Any:
        return {}["no key"]


BROKEN = [
    ("exceptions", FailsAlways),
    ("determinism", MixesUpImagesOfNoFile),
    ("answers", AGenerator),
    ("answers", OneTooFew),
    ("answers", Words),
    ("levels", AllLevelsAlways),
    ("levels", Bytes),
    ("sources", Anonymous),
    ("errors", TextAndError),
    ("inputs", DrawsOnTheImage),
    ("inputs", UsesUpItems),
    ("determinism", Counts),
    ("determinism", SticksToItsWords),
    ("batch", SpeaksOfTheFirst),
    ("batch", SortsBySize),
    ("any image", NeedsEightPixels),
    ("failure", Raises),
    ("failure", Silent),
    ("failure", AllOrNothing),
    ("unload", UnloadsOnce),
    ("unload", NeverComesBack),
    ("restoration", DiffersInAPipeline),
]


def test_the_honest_one_passes() -> None:
    check_prompt_provider("part", registry_with("prompt_provider", Honest))


@pytest.mark.parametrize(("clause", "part"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_one_is_caught(clause: str, part: type) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_prompt_provider("part", registry_with("prompt_provider", part))
    assert caught.value.clause == clause, str(caught.value)


def test_words_in_the_order_of_a_set_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = '{"blurry", "noisy", "dark", "small", "old", "gray", "flat", "soft"}'
    (tmp_path / "of_a_set.py").write_text(
        "from xpsr_sdk import ComponentSpec, Options, Prompts, hookimpl\n"
        "class Part:\n    class Config(Options): ...\n    def __init__(self, config): ...\n"
        "    def unload(self): ...\n"
        "    def describe(self, items, levels):\n"
        f"        low = {{'low': ' '.join({words})}} if 'low' in levels else {{}}\n"
        "        return [Prompts(**low, source=dict.fromkeys(low, 'me')) for _ in items]\n"
        "@hookimpl\ndef xpsr_prompt_providers():\n    return [ComponentSpec('part', 'of_a_set:Part', 'A part.')]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ContractViolation, match="in another process") as caught:
        check_prompt_provider("part", Registry([import_module("of_a_set")]))
    assert caught.value.clause == "determinism"
    monkeypatch.delitem(sys.modules, "of_a_set")


def test_every_clause_has_a_broken_provider() -> None:
    assert {clause for clause, _ in BROKEN} | set(COMMON) == set(CLAUSES["prompt_provider"])
