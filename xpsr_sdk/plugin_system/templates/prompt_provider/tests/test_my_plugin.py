"""Tests of the provider: its contract, and its descriptions."""

from __future__ import annotations

from pathlib import Path

import xpsr_my_plugin
from PIL import Image
from xpsr_my_plugin.prompt_provider import MyPluginPrompts

from xpsr_sdk import Item, Registry
from xpsr_sdk.testing import check_distribution, check_prompt_provider


def test_the_contract() -> None:
    check_prompt_provider("my-plugin", Registry([xpsr_my_plugin]))


def test_the_distribution() -> None:
    check_distribution("xpsr-my-plugin")


def test_a_dark_photo_of_a_red_house() -> None:
    item = Item(Image.new("RGB", (32, 32), (20, 20, 20)), path=Path("photos/red_house.jpg"))
    (prompts,) = MyPluginPrompts().describe([item], ["high", "low"])
    assert prompts.high == "red house"
    assert prompts.low == "underexposed, dark photo."
