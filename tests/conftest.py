"""What all tests share."""

from __future__ import annotations

import pytest
from hypothesis import settings

from xpsr_sdk import Registry

# The same examples at each run; no deadline, since a busy machine is no failure.
settings.register_profile("xpsr", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("xpsr")


@pytest.fixture
def registry() -> Registry:
    """A registry of the built-in components alone."""
    return Registry([])
