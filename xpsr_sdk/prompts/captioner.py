"""What providers that ask a vision-language model share: the questions, and how pictures are handed over."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image
from pydantic import Field

from xpsr_sdk.contracts import Options, PromptLevel, Prompts
from xpsr_sdk.errors import ConfigError

THOUGHTS = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
"""The marks that models put around their reasoning."""


class CaptionerOptions(Options):
    """The published questions (arXiv 2403.05049) are the defaults."""

    high_question: str = Field(
        "Please provide a descriptive summary of the content of this image.",
        min_length=1,
        description="What is asked about the content.",
    )
    low_question: str = Field(
        "Describe and evaluate the quality of the image.", min_length=1, description="What is asked about the quality."
    )
    max_new_tokens: int = Field(200, ge=1, description="Tokens after which an answer is cut.")
    max_side: int = Field(1024, ge=16, description="Larger photos are shrunk to this many pixels, for the question.")

    def question(self, level: PromptLevel) -> str:
        """The question of that level."""
        return self.high_question if level == "high" else self.low_question


class Answer(NamedTuple):
    """What a model said of a photo, or why it said nothing."""

    text: str = ""
    error: str = ""


def without_thoughts(answer: str, question: str) -> str:
    """What is left of an answer without the thoughts that led to it and the question, if it says them first."""
    answer = THOUGHTS.sub(lambda found: "" if found[1] else found[0], answer)
    answer = answer.rpartition("</think>")[2].lstrip()  # a template may have begun the thoughts
    return "" if answer.startswith("<think>") else answer.removeprefix(question)  # cut before they came to an end


def as_prompts(
    count: int, answers: Mapping[PromptLevel, Sequence[Answer]], sources: Mapping[PromptLevel, str]
) -> list[Prompts]:
    """The answers of each level about ``count`` photos as prompts, one a photo; an empty answer is a failure."""
    return [_as_prompts({level: of_level[i] for level, of_level in answers.items()}, sources) for i in range(count)]


def _as_prompts(answers: Mapping[PromptLevel, Answer], sources: Mapping[PromptLevel, str]) -> Prompts:
    texts = {level: answer.text for level, answer in answers.items() if answer.text.strip() and not answer.error}
    errors = {
        level: answer.error or f"{sources[level]} gave an empty answer."
        for level, answer in answers.items()
        if level not in texts
    }
    source = {level: who for level, who in sources.items() if level in texts}
    return Prompts(texts.get("high"), texts.get("low"), source, errors)


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """The image with no side longer than ``side`` pixels."""
    if max(image.size) <= side:
        return image
    copy = image.copy()
    copy.thumbnail((side, side), Image.Resampling.LANCZOS)
    return copy


def need_package(module: str, extra: str, user: str) -> None:
    """Refuse to go on without an optional package.

    Raises:
        ConfigError: It is not installed; the message says how it is.
    """
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"{user} needs the package {module}: pip install 'xpsr-sdk[{extra}]'.")
