"""From a photo to the embeddings of its prompts: asks the prompt provider, adds words, and encodes the texts."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from xpsr_sdk.contracts import Backbone, Conditioning, PromptLevel, PromptProvider, Prompts
from xpsr_sdk.data.photo import LoadedPhoto
from xpsr_sdk.plugin_system.answers import blamed_on, checked_tensor, wrong
from xpsr_sdk.prompts.describe import describe, joined
from xpsr_sdk.prompts.weights import escape_weights
from xpsr_sdk.resolved import ResolvedSettings


@dataclass(frozen=True)
class EncodedPrompts:
    """The prompts of a photo for the networks. G = 2 (negative, positive) with guidance, 1 (positive) without.

    Attributes:
        high: The high-level text, G 1 T D.
        low: The low-level text of the same shape, or None.
        added: What the networks take besides the text, G 1 and more dimensions each.
    """

    high: Tensor | None = None
    low: Tensor | None = None
    added: Mapping[str, Tensor] = field(default_factory=dict)


def describe_photo(provider: PromptProvider, photo: LoadedPhoto, settings: ResolvedSettings) -> Prompts:
    """The prompts of a photo: the user's where given, else the provider's. Errors of the provider are warnings."""
    given: dict[PromptLevel, str | None] = {"high": settings.prompt, "low": settings.low_prompt}
    missing = [level for level, text in given.items() if text is None]
    said = _ask(provider, photo, missing)
    for reason in dict.fromkeys(said.errors.values()):
        levels = " and ".join(f"{level}-level" for level, why in said.errors.items() if why == reason)
        warnings.warn(f"No {levels} prompt for {photo.picture.name}: {reason}", stacklevel=2)
    own: dict[PromptLevel, str] = {level: "user" for level in given if level not in missing}
    high = said.high if settings.prompt is None else settings.prompt
    low = said.low if settings.low_prompt is None else settings.low_prompt
    return Prompts(high, low, {**said.source, **own}, said.errors)


def _ask(provider: PromptProvider, photo: LoadedPhoto, missing: Collection[PromptLevel]) -> Prompts:
    """The provider's descriptions of the missing levels, with its errors."""
    return joined([describe(provider, [item], levels)[0] for levels, item in photo.views(missing)])


def encode_prompts(
    backbone: Backbone, prompts: Prompts, settings: ResolvedSettings, device: torch.device
) -> EncodedPrompts:
    """Encode the prompts of a photo, with guidance also the negative ones.

    Raises:
        BrokenPlugin: The backbone failed, or gave something else than its contract promises.
        NonFiniteResult: Its text encoder gave NaN or infinity.
    """
    guided = settings.guidance_scale != 1
    said_high, said_low = prompts.high or "", prompts.low or ""
    if settings.prompt_weights:  # only the user can set weights; in a caption, brackets are just brackets
        said_high = said_high if settings.prompt is not None else escape_weights(said_high)
        said_low = said_low if settings.low_prompt is not None else escape_weights(said_low)
    options: dict[str, Any] = {"long_prompts": settings.long_prompts, "weighted": settings.prompt_weights}
    if options == {"long_prompts": "cut", "weighted": False}:
        options = {}

    def encode(negative: str, positive: str) -> Conditioning:
        texts = [negative, positive] if guided else [positive]
        with blamed_on("backbone", backbone):
            answer = backbone.encode_text(texts, **options)
        if not isinstance(answer, Conditioning):
            raise wrong("backbone", backbone, f"gave a {type(answer).__name__} as encoded text, not Conditioning")
        shape = (len(texts), None, backbone.text_width)
        embeddings = checked_tensor("backbone", backbone, answer.embeddings, "text embeddings", shape)
        added = {
            name: checked_tensor("backbone", backbone, x, name, (len(texts), *getattr(x, "shape", ())[1:]))
            for name, x in answer.added.items()
        }
        return Conditioning(embeddings[:, None].to(device), {name: x[:, None].to(device) for name, x in added.items()})

    high = encode(settings.negative, join_prompt(said_high, settings.positive))
    low = None if prompts.low is None else encode(settings.low_negative, said_low).embeddings
    return EncodedPrompts(high.embeddings, low, high.added)


def join_prompt(description: str | None, words: str) -> str:
    """A description followed by added words, as two sentences."""
    description = (description or "").strip()
    if description and words and description[-1] not in ".!?":
        description += "."
    return f"{description} {words}".strip()
