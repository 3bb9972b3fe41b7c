"""Random numbers that depend on what they are for, not on what was drawn before."""

from __future__ import annotations

import hashlib

import torch


def generator_for(*key: object) -> torch.Generator:
    """A CPU generator of its own for each key; keys that differ in any part give unrelated numbers."""
    text = "/".join(map(str, key))
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]))
