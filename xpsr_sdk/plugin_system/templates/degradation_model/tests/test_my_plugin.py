"""Tests of the degradation: its contract, and what it does to a photo."""

from __future__ import annotations

import torch
import xpsr_my_plugin
from xpsr_my_plugin.degradation_model import MyPluginDegradation

from xpsr_sdk import Registry
from xpsr_sdk.testing import check_degradation_model, check_distribution


def test_the_contract() -> None:
    check_degradation_model("my-plugin", Registry([xpsr_my_plugin]))


def test_the_distribution() -> None:
    check_distribution("xpsr-my-plugin")


def test_noise_differs_from_photo_to_photo() -> None:
    gray = torch.full((3, 3, 64, 64), 0.5)
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    noise = MyPluginDegradation()(gray, generators).std(dim=(1, 2, 3)) * 255
    assert len(set(noise.tolist())) == 3
    assert noise.max() <= 20 * 1.1
