"""Packed kernels compute the same, and follow their weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xpsr_sdk.engine.packing import can_pack, packed_weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_the_result_is_the_same(dtype: torch.dtype, stride: int) -> None:
    layer = nn.Conv2d(640, 8, 3, padding=1, stride=stride, dtype=dtype)
    for size in ((1, 4, 4), (2, 5, 8)):
        batch, height, width = size
        x = torch.randn(batch, 640, height, width, dtype=dtype).to(memory_format=torch.channels_last)
        expected = layer(x)
        with packed_weights([layer]):
            torch.testing.assert_close(layer(x), expected)
    assert "forward" not in vars(layer)


@torch.no_grad()
def test_a_weight_that_changes_is_packed_anew() -> None:
    layer, x = nn.Conv2d(640, 4, 3), torch.randn(1, 640, 5, 5)
    with packed_weights([layer]):
        layer(x)
        layer.weight.mul_(2)
        layer.bias.zero_()  # type: ignore[union-attr]
        torch.testing.assert_close(layer(x), nn.functional.conv2d(x, layer.weight), atol=1e-4, rtol=1e-4)
        layer.weight = nn.Parameter(torch.zeros_like(layer.weight))
        assert layer(x).abs().max() == 0


@torch.no_grad()
def test_the_next_run_sees_whatever_has_changed() -> None:
    layer, x = nn.Conv2d(640, 4, 3), torch.randn(1, 640, 5, 5)
    for _ in range(2):
        with packed_weights([layer]):
            torch.testing.assert_close(
                layer(x), nn.functional.conv2d(x, layer.weight, layer.bias), atol=1e-4, rtol=1e-4
            )
        layer.weight.data += 1  # as fused LoRA does, which no version counts


def test_only_wide_plain_convolutions_are_packed() -> None:
    assert can_pack(nn.Conv2d(640, 8, 3))
    assert not can_pack(nn.Conv2d(320, 8, 3))
    assert not can_pack(nn.Conv2d(640, 8, 1))
    assert not can_pack(nn.Conv2d(640, 8, 3, padding=1, padding_mode="circular"))
    assert not can_pack(nn.Conv2d(640, 8, 3, device="meta"))
    assert not can_pack(nn.Linear(640, 640))
