"""The recipe: how a photo is turned into training samples."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from xpsr_sdk.config import Component, Settings


class Recipe(Settings):
    """How a photo is turned into samples. The samples depend only on the photo's bytes and on the recipe."""

    degradation: Component | None = Field(
        "realesrgan", description="Degradation model for the LR images. none: photos are degraded during training."
    )
    prompt_provider: Component = Field(
        "measured", description="Prompt provider, which describes the photos and their LR images."
    )
    upscaler: Component | None = Field(
        None,
        description="Upscaler that enlarges the LR images in advance, for a model that is trained with it. None: they "
        "are enlarged during training, which is slow if the upscaler is a network.",
    )
    sharpen: bool = Field(
        False,
        description="Sharpen photos before anything else, as Real-ESRGAN does (arXiv 2107.10833, section 4.1): the HR "
        "images are then sharper than the photos.",
    )
    crop: Annotated[int, Field(ge=16)] | None = Field(
        None, description="Side of the crops that photos are cut into, in pixels. None: photos stay whole."
    )
    crops_a_photo: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="At most so many crops of a photo, chosen at random. None: all that fit side by side.",
    )
    max_megapixels: float = Field(
        100.0,
        gt=0,
        exclude=True,
        description="Photos with more megapixels are left out, whatever the size of their files.",
    )
    variants: int = Field(1, ge=1, description="Number of degraded versions of each photo or crop.")
    seed: int = Field(0, ge=0, description="Seed of degradations and crops.")

    def as_json(self) -> dict[str, Any]:
        """The recipe as values that JSON can hold."""
        return self.model_dump(mode="json")
