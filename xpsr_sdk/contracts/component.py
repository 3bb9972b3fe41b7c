"""What every component has: a spec that offers it, and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Options(BaseModel):
    """Base of every component's ``Config``: frozen, and unknown options are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Where a number is due, ``true`` is not 1, and a number too large to compute with is refused."""
        if isinstance(value, int) and info.field_name:
            kinds = _kinds(cls.model_fields[info.field_name].annotation)
            if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
                raise ValueError("must be a number")
            if abs(value) > 2**63 and kinds & {int, float}:
                raise ValueError("must be a smaller number")
        return value


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation consists of."""
    if isinstance(annotation, type) and not get_args(annotation):
        return {annotation}
    return {kind for part in get_args(annotation) for kind in _kinds(part)}


@dataclass(frozen=True)
class ComponentSpec:
    """What a hook returns for each component that it offers. It is cheap to make and imports nothing.

    Attributes:
        name: What a user writes to choose the component, for instance ``"dpmpp-2m"``.
        target: ``"package.module:Class"``, imported only when the component is chosen.
        summary: One line for the list of components.
        defaults: Options that this name sets, so that several names can share a class.
    """

    name: str
    target: str
    summary: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
