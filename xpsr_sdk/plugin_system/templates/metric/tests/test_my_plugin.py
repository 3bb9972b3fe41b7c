"""Tests of the metric: its contract, and what it measures."""

from __future__ import annotations

import torch
import xpsr_my_plugin
from xpsr_my_plugin.metric import MyPluginMetric

from xpsr_sdk import Registry
from xpsr_sdk.testing import check_distribution, check_metric


def test_the_contract() -> None:
    check_metric("my-plugin", Registry([xpsr_my_plugin]))


def test_the_distribution() -> None:
    check_distribution("xpsr-my-plugin")


def test_brightness_does_not_matter_but_edges_do() -> None:
    photo = torch.zeros(1, 3, 8, 8)
    photo[..., 4:] = 0.5
    metric = MyPluginMetric()
    assert metric.measure(photo + 0.2, photo).item() < 1e-4
    assert metric.measure(photo.flip(-1), photo).item() > 1
