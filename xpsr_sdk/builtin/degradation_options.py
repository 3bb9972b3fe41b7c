"""Types of the degradations' options: probabilities, and ranges that parameters are drawn from."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import AfterValidator, Field


def ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    """The bounds of a range, if the lowest comes first. Use it with ``pydantic.AfterValidator``."""
    if bounds[0] > bounds[1]:
        raise ValueError(f"a range is written (lowest, highest), not {bounds}")
    return bounds


def _odd(bounds: tuple[int, int]) -> tuple[int, int]:
    if bounds[0] % 2 == 0 or bounds[1] % 2 == 0:
        raise ValueError(f"kernel sizes are odd, which {bounds} are not")
    return bounds


def some_positive(weights: tuple[float, ...]) -> tuple[float, ...]:
    if not sum(weights):
        raise ValueError("at least one weight must be above 0")
    return weights


Probability = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A finite number of at least 0."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Cutoff = Annotated[float, Field(gt=0, le=math.pi)]
Quality = Annotated[int, Field(ge=1, le=100)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(ordered)]
WeightRange = Annotated[tuple[Weight, Weight], AfterValidator(ordered)]
"""Two such numbers, the lowest and the highest."""
CutoffRange = Annotated[tuple[Cutoff, Cutoff], AfterValidator(ordered)]
QualityRange = Annotated[tuple[Quality, Quality], AfterValidator(ordered)]
"""The lowest and the highest quality setting of JPEG, from 1 to 100."""
SizeRange = Annotated[
    tuple[Annotated[int, Field(ge=3)], Annotated[int, Field(le=101)]],
    AfterValidator(ordered),
    AfterValidator(_odd),
]
"""The sizes of the smallest and the largest kernel: odd numbers of pixels from 3 to 101."""
ResizeWeights = Annotated[tuple[Weight, Weight, Weight], AfterValidator(some_positive)]
# 1 lies between the bounds: a factor of 1 keeps the size, a beta of 1 is the plain shape.
AroundOne = tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(ge=1, le=4)]]
