"""The recipe: how a photo is turned into training samples."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from xpsr_sdk.config import Component, Settings


class Recipe(Settings):
    """What becomes of a photo. It depends on the photo's bytes and on this alone."""

    degradation: Component | None = Field(
        "realesrgan", description="What makes the LR images; none: photos are degraded as training draws them."
    )
    prompt_provider: Component = Field("measured", description="Who describes the photos and their LR images.")
    upscaler: Component | None = Field(
        None,
        description="What enlarges the LR images ahead, for a model that is trained with it. None: they are enlarged "
        "as training draws them, which takes long where the upscaler is a network.",
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
        description="At most so many crops of a photo, drawn at random. None: all that fit beside one another.",
    )
    variants: int = Field(1, ge=1, description="Degradations of each photo or crop.")
    seed: int = Field(0, ge=0, description="Seed of degradations and crops.")

    def as_json(self) -> dict[str, Any]:
        """The recipe as it comes back from JSON."""
        return self.model_dump(mode="json")
