"""Checks of tensors and random numbers that several conformance checks use."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xpsr_sdk.testing.subject import require

LEVEL = 1.01 / 255
"""A little more than one level of an 8-bit image: the largest difference that rounding may cause."""


def generators(*seeds: int) -> list[torch.Generator]:
    """CPU generators, one for each seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two tensors; 0 if one of them is constant."""
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).float())[0, 1].nan_to_num())


def devices() -> list[torch.device]:
    """The CPU and the accelerators that are present."""
    found = [torch.device("cpu")]
    if torch.accelerator.is_available():
        found.append(torch.accelerator.current_accelerator() or found[0])
    return found


def require_tensor(value: object, shape: Sequence[int], what: str) -> None:
    """Require a tensor of that shape with finite numbers."""
    require(isinstance(value, Tensor), f"{what} is a {type(value).__name__}, not a tensor")
    assert isinstance(value, Tensor)
    require(tuple(value.shape) == tuple(shape), f"{what} has shape {tuple(value.shape)}, not {tuple(shape)}")
    require(bool(torch.isfinite(value).all()), f"{what} of shape {tuple(shape)} holds numbers that are not finite")


def require_close(found: Tensor, expected: Tensor, tolerance: float, problem: str) -> None:
    """Require two tensors to differ by no more than ``tolerance``, times the largest number if that is above 1."""
    require(found.shape == expected.shape, f"{problem} (shapes {tuple(found.shape)} and {tuple(expected.shape)})")
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    difference = float((found - expected).abs().max()) if found.numel() else 0.0
    scale = max(1.0, float(expected.abs().max())) if found.numel() else 1.0
    require(difference <= tolerance * scale, f"{problem} (by up to {difference:.3g})")


@contextmanager
def inputs_kept(**tensors: Tensor | None) -> Iterator[None]:
    """Require that the block does not change these tensors."""
    before = {name: tensor.clone() for name, tensor in tensors.items() if tensor is not None}
    yield
    for name, kept in before.items():
        now = tensors[name]
        require(now is not None and same(now, kept), f"it changed {name} in place")


@contextmanager
def global_random_state_kept() -> Iterator[None]:
    """Require that the block draws no random numbers from global generators."""
    of_torch, of_numpy, of_python = torch.get_rng_state(), np.random.get_state(), random.getstate()
    yield
    require(torch.equal(torch.get_rng_state(), of_torch), "it drew from torch's global generator")
    require(same(np.random.get_state(), of_numpy), "it drew from numpy's global generator")
    require(random.getstate() == of_python, "it drew from Python's global generator")


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, including tensors and arrays inside of them."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return bool(np.array_equal(a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)
