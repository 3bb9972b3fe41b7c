"""What all providers with a vision-language model share: the questions, and the treatment of images and answers."""

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
"""The tags that models put around their reasoning."""


class CaptionerOptions(Options):
    """Options of all captioners. The default questions are the published ones (arXiv 2403.05049)."""

    high_question: str = Field(
        "Please provide a descriptive summary of the content of this image.",
        min_length=1,
        description="Question about the content.",
    )
    low_question: str = Field(
        "Describe and evaluate the quality of the image.", min_length=1, description="Question about the quality."
    )
    max_new_tokens: int = Field(200, ge=1, description="Longest answer, in tokens; longer answers are cut.")
    max_side: int = Field(1024, ge=16, description="The model sees larger photos shrunk to this side, in pixels.")

    def question(self, level: PromptLevel) -> str:
        """The question of that level."""
        return self.high_question if level == "high" else self.low_question


class Answer(NamedTuple):
    """The answer of a model about a photo, or the reason why there is none."""

    text: str = ""
    error: str = ""


def without_thoughts(answer: str, question: str) -> str:
    """The answer without the model's reasoning, and without the question if the answer repeats it."""
    answer = THOUGHTS.sub(lambda found: "" if found[1] else found[0], answer)
    answer = answer.rpartition("</think>")[2].lstrip()  # the opening tag may be part of the chat template
    return "" if answer.startswith("<think>") else answer.removeprefix(question)  # reasoning that was cut has no answer


def as_prompts(
    count: int, answers: Mapping[PromptLevel, Sequence[Answer]], sources: Mapping[PromptLevel, str]
) -> list[Prompts]:
    """The answers of each level about ``count`` photos as one ``Prompts`` per photo. An empty answer is an error."""
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
    """Check that an optional package is installed.

    Raises:
        ConfigError: It is not installed. The message says how to install it.
    """
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"{user} needs the package {module}: pip install 'xpsr-sdk[{extra}]'.")
