"""Tests of the backbone: its contract, and what it decodes."""

from __future__ import annotations

from pathlib import Path

import torch
import xpsr_my_plugin
from xpsr_my_plugin.backbone import MyPluginBackbone

from xpsr_sdk import Registry
from xpsr_sdk.testing import check_backbone, check_distribution, tiny


def test_the_contract() -> None:
    check_backbone("my-plugin", registry=Registry([xpsr_my_plugin]))


def test_the_distribution() -> None:
    check_distribution("xpsr-my-plugin")


def test_mirrored_latents_give_the_mirrored_image(tmp_path: Path) -> None:
    tiny.write_stable_diffusion(tmp_path)
    backbone = MyPluginBackbone()
    backbone.load(tmp_path)
    latents, upscaled = torch.randn(1, 4, 6, 5), torch.rand(1, 3, 24, 20)
    with torch.no_grad():
        image, mirrored = backbone.decode(latents, upscaled), backbone.decode(latents.flip(-1), upscaled.flip(-1))
    torch.testing.assert_close(mirrored, image.flip(-1))
