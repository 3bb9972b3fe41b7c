"""What the tests of the models share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from xpsr_sdk import Registry


@pytest.fixture(autouse=True)
def built_in_parts_in_force(registry: Registry) -> Iterator[None]:
    """Models are built by themselves here, which build_pipeline and train do within their registry."""
    with registry.in_force():
        yield
