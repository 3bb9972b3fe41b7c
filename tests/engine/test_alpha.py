"""Transparency: only where it varies is it restored."""

from __future__ import annotations

import torch

from xpsr_sdk.engine.alpha import is_flat, restore_alpha


def test_flat_parts_of_alpha_are_found() -> None:
    alpha = torch.zeros(1, 1, 64, 64)
    alpha[..., 32:] = 1
    flat = is_flat(alpha)
    assert flat[..., :20].all()
    assert flat[..., 44:].all()
    assert not flat[..., 26:38].any()


def test_only_what_is_not_flat_is_restored() -> None:
    alpha = torch.zeros(1, 1, 64, 64)
    alpha[..., 32:] = 1
    restored = restore_alpha(alpha, lambda image: torch.full_like(image, 0.5))
    flat = is_flat(alpha)
    assert torch.equal(restored[flat], alpha[flat])
    assert (restored[~flat] == 0.5).all()
