"""Who describes a photo, and what becomes of the words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support import tiny
from tests.support.tiny import PHOTO, same
from xpsr_sdk import (
    Item,
    Pipeline,
    Prompts,
    build_pipeline,
)


class Provider:
    """Says how many photos it has seen, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[set[str]] = []

    def describe(self, items: Sequence[Item], levels: Collection[str]) -> list[Prompts]:
        self.asked.append(set(levels))
        if self.error:
            raise self.error
        return [Prompts("a house", "blurry", {"high": "test", "low": "test"}) for _ in items]

    def unload(self) -> None:
        pass


def with_provider(tiny_model: Path, provider: Any) -> Pipeline:
    return build_pipeline(model=str(tiny_model), device="cpu", prompt_provider=provider)


def test_the_users_words_come_first(tiny_model: Path) -> None:
    provider = Provider()
    pipe = with_provider(tiny_model, provider)
    prompts = pipe(PHOTO, prompt="a cat").prompts
    assert (prompts.high, prompts.low) == ("a cat", "blurry")
    assert prompts.source == {"high": "user", "low": "test"}
    assert provider.asked == [{"low"}]
    prompts = pipe(PHOTO, prompt="", low_prompt="sharp").prompts
    assert (prompts.high, prompts.low) == ("", "sharp")
    assert prompts.source == {"high": "user", "low": "user"}
    assert len(provider.asked) == 1


def test_the_measured_provider_is_the_default(pipe: Pipeline) -> None:
    prompts = pipe(PHOTO).prompts
    assert prompts.high is None
    assert prompts.low
    assert prompts.source == {"low": "measured"}


@pytest.mark.parametrize("setting", ["prompt", "low_prompt", "positive"])
def test_words_change_the_image(pipe: Pipeline, setting: str) -> None:
    images = [pipe(PHOTO, seed=0, fidelity=0, **{setting: words}).image for words in ("blurry", "tiny resolution")]
    assert not same(*images)


@pytest.mark.parametrize("setting", ["negative", "low_negative"])
def test_negative_words_matter_with_guidance_only(pipe: Pipeline, setting: str) -> None:
    def image(words: str, guidance: float) -> Image.Image:
        return pipe(PHOTO, seed=0, fidelity=0, guidance_scale=guidance, **{setting: words}).image

    assert same(image("blurry", 1), image("noise", 1))
    assert not same(image("blurry", 4), image("noise", 4))


def test_a_provider_that_fails_costs_its_words_only(tiny_model: Path) -> None:
    pipe = with_provider(tiny_model, Provider(RuntimeError("out of memory")))
    with pytest.warns(
        UserWarning, match=r"No .*-level prompt for the image: .* raised RuntimeError: out of memory \("
    ) as caught:
        result = pipe(PHOTO, prompt="a cat")
    assert len(caught) == 1
    assert list(result.prompts.errors) == ["low"]
    assert (result.prompts.high, result.prompts.low) == ("a cat", None)


@pytest.mark.parametrize("answer", [[], None, [("a house", "blurry")]])
def test_a_provider_that_answers_nonsense_costs_its_words_only(tiny_model: Path, answer: Any) -> None:
    provider = Provider()
    provider.describe = lambda items, levels: answer  # type: ignore[method-assign]
    pipe = with_provider(tiny_model, provider)
    with pytest.warns(UserWarning, match="No high-level and low-level prompt for the image"):
        assert pipe(PHOTO).image.size == (68, 80)


def test_a_provider_that_fails_at_both_levels_warns_once(tiny_model: Path) -> None:
    pipe = with_provider(tiny_model, Provider(RuntimeError("out of memory")))
    with pytest.warns(UserWarning, match="RuntimeError: out of memory") as caught:
        result = pipe(PHOTO)
    assert len(caught) == 1
    assert result.prompts.errors.keys() == {"high", "low"}


def test_a_long_prompt_is_cut_with_a_warning(pipe: Pipeline) -> None:
    with pytest.warns(UserWarning, match=r"A prompt of \d+ tokens was cut to 46"):
        pipe(PHOTO, prompt="blurry noise " * 60)


def test_a_provider_is_shown_parts_of_a_very_large_photo(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpsr_sdk.data.photo.LARGEST_VIEW", 32)
    shown: dict[str, tuple[int, int]] = {}

    class Watcher(Provider):
        def describe(self, items: Sequence[Item], levels: Collection[str]) -> list[Prompts]:
            shown.update({level: item.image.size for item in items for level in levels})
            return super().describe(items, levels)

    pipe = with_provider(tiny_model, Watcher())
    prompts = pipe(tiny.photo(80, 40), scale=1, num_inference_steps=1).prompts
    assert shown == {"high": (32, 16), "low": (32, 32)}
    assert (prompts.high, prompts.low) == ("a house", "blurry")
    pipe(tiny.photo(32, 32), scale=1, num_inference_steps=1)
    assert shown == {"high": (32, 32), "low": (32, 32)}
