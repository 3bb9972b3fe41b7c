"""Tests of the fusion: its contract, and what it computes."""

from __future__ import annotations

import torch
import xpsr_my_plugin
from xpsr_my_plugin.fusion_attention import MyPluginFusion

from xpsr_sdk import AttentionSite, Registry
from xpsr_sdk.testing import check_distribution, check_fusion_attention


def test_the_contract() -> None:
    check_fusion_attention("my-plugin", Registry([xpsr_my_plugin]), identity_at_start=True)


def test_the_distribution() -> None:
    check_distribution("xpsr-my-plugin")


def test_a_weight_of_one_uses_the_low_level_prompt_alone() -> None:
    site = AttentionSite("mid", 4, 1, 4, 6, 1, 2, linear_projection=False, upcast_attention=False)
    fusion = MyPluginFusion(MyPluginFusion.Config(start=1), site)
    x, high, low = torch.randn(1, 4, 3, 3), torch.zeros(1, 2, 6), torch.ones(1, 2, 6)
    torch.testing.assert_close(fusion(lambda x, text: x + text.mean(), x, high, low), x + 1)
