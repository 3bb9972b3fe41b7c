"""What a photo may show and how good it may be: the words that an OpenCLIP model chooses from."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator

from xpsr_sdk import ConfigError, Options
from xpsr_sdk.toolkit import config_error

DEFAULT = Path(__file__).parent / "vocabulary.toml"
Words = Annotated[str, Field(min_length=1)]


class Vocabulary(Options):
    """The content of a vocabulary file."""

    content_template: str = Field("a photo of {}", description="The sentence about the content; {} stands for tags.")
    quality_template: str = Field("{} photo.", description="What is compared with the photo; {} stands for a quality.")
    tags: list[Words] = Field(min_length=2, description="What a photo may show.")
    qualities: list[tuple[Words, Words]] = Field(min_length=1, description="Pairs of opposites, the good one first.")

    @field_validator("content_template", "quality_template")
    @classmethod
    def _one_place(cls, template: str) -> str:
        if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
            raise ValueError("a template holds {} once, and no other braces")
        return template

    @field_validator("tags")
    @classmethod
    def _unlike(cls, tags: list[str]) -> list[str]:
        if twice := sorted({tag for tag in tags if tags.count(tag) > 1}):
            raise ValueError(f"each tag stands once, which {', '.join(twice)} does not")
        return tags


def read_vocabulary(file: Path) -> Vocabulary:
    """The vocabulary in a TOML file.

    Raises:
        ConfigError: The file is missing, is not TOML, or a field is wrong.
    """
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"The vocabulary {file} cannot be read: {error}.") from None
    try:
        return Vocabulary.model_validate(values)
    except ValidationError as error:
        raise config_error(f"The vocabulary {file}", error, Vocabulary) from None
