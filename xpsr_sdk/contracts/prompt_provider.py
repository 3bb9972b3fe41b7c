"""The contract of prompt providers, which describe photos."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL import Image

PromptLevel = Literal["high", "low"]
"""``high``: what the photo shows. ``low``: how good or bad its quality is."""
PROMPT_LEVELS: tuple[PromptLevel, ...] = ("high", "low")


class Sha256:
    """A field that holds a hex digest or None. A function may be given instead: it is called at the first read."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, instance: object, owner: type | None = None) -> str | None:
        if instance is None:
            return None  # the field's default
        value = vars(instance)[self._name]
        if callable(value):
            value = vars(instance)[self._name] = value()
        digest: str | None = value
        return digest

    def __set__(self, instance: object, value: str | Callable[[], str | None] | None) -> None:
        vars(instance)[self._name] = value


@dataclass(frozen=True)
class Item:
    """An input image.

    Attributes:
        image: The picture, in mode RGB and in sRGB.
        path: Where it came from, if from a file.
        sha256: Hex digest of the file's bytes, if from a file. May be given as a function, which is called when the
            digest is first read.
    """

    image: Image.Image
    path: Path | None = None
    sha256: Sha256 = Sha256()

    def __reduce__(self) -> tuple[Any, ...]:
        return Item, (self.image, self.path, self.sha256)  # computes the digest: a function may not pickle


@dataclass(frozen=True)
class Prompts:
    """The descriptions of one image.

    ``""`` is a description and is encoded as empty text; ``None`` means that the level is absent.

    Attributes:
        high: Content of the photo.
        low: Quality of the photo.
        source: For each level that is present, who gave it (a provider's name, or ``"user"``).
        errors: For each level that failed, the reason.
    """

    high: str | None = None
    low: str | None = None
    source: Mapping[PromptLevel, str] = field(default_factory=dict)
    errors: Mapping[PromptLevel, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptKey:
    """What a description depends on besides the image: who gave it, and to which question.

    Attributes:
        provider: The provider's name.
        model: The model that the provider asks, or anything else about the provider that changes its answers.
        question: The question that it asks.
    """

    provider: str
    model: str = ""
    question: str = ""


@runtime_checkable
class PromptProvider(Protocol):
    """Describes images. Gives the description only: the pipeline appends its own positive words.

    A provider may also have a method ``prompt_key(level) -> PromptKey``: prompts that are stored ahead of time are
    asked for again when this key changes. Without the method, they are asked for again when any option changes.
    """

    def describe(self, items: Sequence[Item], levels: Collection[PromptLevel]) -> list[Prompts]:
        """Describe each item at the asked levels.

        A level that the provider does not offer, or for which it has nothing to say about an image, is ``None``. That
        is not an error: the photo is restored without it, silently, and ``xpsr caption`` does not ask again. A failure
        is reported in ``Prompts.errors`` and never raised, since a captioner must not stop a restoration: a warning
        gives the reason, and ``xpsr caption`` asks again the next time. In both cases ``ensemble`` asks the next
        provider.
        """
        ...

    def unload(self) -> None:
        """Free whatever memory the provider holds; ``describe`` may be called again later.

        Called when memory is short.
        """
        ...
