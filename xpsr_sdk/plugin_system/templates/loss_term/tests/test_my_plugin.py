"""Tests of the loss term: its contract, and what it computes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import xpsr_my_plugin
from xpsr_my_plugin.loss_term import MyPluginLoss

from xpsr_sdk import Registry
from xpsr_sdk.testing import check_distribution, check_loss_term


def test_the_contract() -> None:
    check_loss_term("my-plugin", Registry([xpsr_my_plugin]))


def test_the_distribution() -> None:
    check_distribution("xpsr-my-plugin")


def test_brightness_does_not_matter_but_edges_do() -> None:
    photo = torch.zeros(1, 3, 8, 8)
    photo[..., 4:] = 0.5
    model: Any = None
    term = MyPluginLoss(MyPluginLoss.Config(), model)
    losses = [
        float(term(SimpleNamespace(images=x, references=photo, hr=photo), [])) for x in (photo + 0.2, photo.flip(-1))
    ]
    assert losses[0] == pytest.approx(0, abs=1e-6)
    assert losses[1] > 0.01
