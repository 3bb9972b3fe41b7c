"""The default prompt provider: measures a photo's quality and describes it in words. It needs no model and no download.

The sentence has one phrase for each measured property, always in the same order, for instance::

    low resolution, strong blur, mild jpeg artifacts, normal contrast, normal exposure, moderate gray noise.

Each phrase is one of the fixed ``MEASURED_PHRASES``, so that a text encoder with a small vocabulary can learn them. The
limits between the grades are chosen so that the default degradation produces every grade of blur, noise and JPEG, and
that a clean, sharp photo is described as clean and sharp.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence

import numpy as np

from xpsr_sdk.builtin.quality import Quality, measure
from xpsr_sdk.contracts import Item, Options, PromptLevel, Prompts

GRADES = ("no", "faint", "mild", "moderate", "strong", "extreme")

RESOLUTIONS = ("tiny resolution", "low resolution", "medium resolution", "high resolution")
BLURS = tuple(f"{grade} blur" for grade in GRADES)
JPEGS = tuple(f"{grade} jpeg artifacts" for grade in GRADES)
CONTRASTS = ("low contrast", "normal contrast", "high contrast")
EXPOSURES = ("dark exposure", "normal exposure", "bright exposure")
GRAY_NOISES = ("no noise", *(f"{grade} gray noise" for grade in GRADES[1:]))
COLOR_NOISES = ("no noise", *(f"{grade} color noise" for grade in GRADES[1:]))

MEASURED_PHRASES: tuple[str, ...] = (
    *RESOLUTIONS, *BLURS, *JPEGS, *CONTRASTS, *EXPOSURES, *GRAY_NOISES, *COLOR_NOISES[1:],
)  # fmt: skip
"""All phrases that can occur in a sentence."""

RESOLUTION_LIMITS = (64 * 64, 384 * 384, 1024 * 1024)
"""Pixels."""
BLUR_LIMITS = (0.35, 0.5, 0.65, 0.8, 1.1)
"""Gaussian sigma, pixels."""
JPEG_LIMITS = (3.0, 18.0, 31.0, 44.0, 57.0)
"""100 minus JPEG quality."""
CONTRAST_LIMITS = (38.0, 56.0)
"""Standard deviation, gray levels of 255."""
EXPOSURE_LIMITS = (95.0, 135.0)
"""Mean, gray levels of 255."""
NOISE_LIMITS = (2.0, 4.0, 6.5, 9.5, 13.5)
"""Standard deviation, gray levels of 255."""
COLOR_NOISE_RATIO = 0.2
"""Noise is called coloured if its standard deviation in Cb and Cr is more than this share of that in luma."""


class MeasuredPrompts:
    """Describes the measured quality as the low-level prompt. It gives no high-level prompt, and is deterministic."""

    class Config(Options):
        """No options."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def describe(self, items: Sequence[Item], levels: Collection[PromptLevel]) -> list[Prompts]:
        """Describe the quality of each item's image. The high level is always ``None``.

        Failures are reported in ``Prompts.errors["low"]``.
        """
        return [self._describe(item) if "low" in levels else Prompts() for item in items]

    def unload(self) -> None:
        """Do nothing, since this provider holds no memory."""

    def _describe(self, item: Item) -> Prompts:
        try:
            pixels = np.asarray(item.image.convert("RGB"))
            low = describe_quality(measure(pixels), pixels.shape[0] * pixels.shape[1])
        except Exception as error:  # no error may stop a restoration
            return Prompts(errors={"low": f"The quality could not be measured: {type(error).__name__}: {error}"})
        return Prompts(low=low, source={"low": "measured"})


def describe_quality(quality: Quality, pixels: int) -> str:
    """The sentence that describes the quality of an image with that many pixels."""
    colored = quality.chroma_noise > COLOR_NOISE_RATIO * quality.noise
    phrases = (
        _grade(RESOLUTIONS, RESOLUTION_LIMITS, pixels),
        _grade(BLURS, BLUR_LIMITS, quality.blur),
        _grade(JPEGS, JPEG_LIMITS, 100 - quality.jpeg_quality),
        _grade(CONTRASTS, CONTRAST_LIMITS, quality.contrast),
        _grade(EXPOSURES, EXPOSURE_LIMITS, quality.brightness),
        _grade(COLOR_NOISES if colored else GRAY_NOISES, NOISE_LIMITS, quality.noise),
    )
    return ", ".join(phrases) + "."


def _grade(phrases: tuple[str, ...], limits: Sequence[float], value: float) -> str:
    """The phrase whose range contains the value. NaN gives the first phrase."""
    return phrases[bisect_right(limits, value) if value == value else 0]
