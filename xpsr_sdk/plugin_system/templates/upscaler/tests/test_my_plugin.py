"""Tests of the upscaler: its contract, and what it does to an edge."""

from __future__ import annotations

import torch
import xpsr_my_plugin
from xpsr_my_plugin.upscaler import MyPluginUpscaler

from xpsr_sdk import Registry
from xpsr_sdk.testing import check_distribution, check_upscaler


def test_the_contract() -> None:
    check_upscaler("my-plugin", Registry([xpsr_my_plugin]))


def test_the_distribution() -> None:
    check_distribution("xpsr-my-plugin")


def test_an_edge_is_steeper_than_without_the_mask() -> None:
    edge = torch.full((1, 3, 8, 8), 0.3)
    edge[..., 4:] = 0.7
    plain, sharp = (
        MyPluginUpscaler(MyPluginUpscaler.Config(sharpness=sharpness)).upscale(edge) for sharpness in (0, 1)
    )
    assert sharp.diff(dim=-1).max() > plain.diff(dim=-1).max()
