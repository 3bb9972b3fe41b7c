"""Parity with the published code: its golden numbers, and the names and shapes of a full-size checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.parity import Check, run_checks
from xpsr_sdk import Registry
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.fusion import to_published_name
from xpsr_sdk.models.unet import XPSRUNet

DATA = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def checks() -> list[Check]:
    return list(run_checks(DATA / "ref-sd15-tiny"))


@pytest.mark.parametrize("stage", ["round trip", "initialisation", "modules", "training step", "whole", "tiled"])
def test_the_golden_numbers_are_reproduced(checks: list[Check], stage: str) -> None:
    of_stage = [check for check in checks if check.name.startswith(stage)]
    assert of_stage
    assert not [str(check) for check in of_stage if not check.passed]


@pytest.mark.parametrize(("part", "model"), [("unet", XPSRUNet), ("controlnet", XPSRControlNet)])
def test_a_full_size_model_has_the_published_names_and_shapes(
    part: str, model: type[XPSRUNet] | type[XPSRControlNet]
) -> None:
    published = json.loads((DATA / "shapes-sd15.json").read_text())
    with torch.device("meta"), Registry([]).in_force():
        tensors = model.from_config(published[f"{part}_config"]).state_dict()
    assert {to_published_name(name): list(t.shape) for name, t in tensors.items()} == published[part]
