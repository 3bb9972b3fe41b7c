"""What every component has: a spec that offers it, and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Base of every component's ``Config``: frozen, and unknown options are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
