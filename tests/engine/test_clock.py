"""The seconds of a restoration's stages."""

from __future__ import annotations

import pytest
import torch

from xpsr_sdk.engine.clock import Clock


def test_a_stage_that_fails_is_counted_too() -> None:
    clock = Clock(torch.device("cpu"))
    with pytest.raises(ValueError, match="no"), clock.stage("denoise"):
        raise ValueError("no")
    assert 0 <= clock.seconds()["denoise"] <= clock.seconds()["total"]
