"""Checks a degradation model against the contract of ``xpsr_sdk.DegradationModel``."""

from __future__ import annotations

import pickle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from xpsr_sdk.data.images import to_tensor
from xpsr_sdk.errors import ConfigError
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.testing.restoring import check_training
from xpsr_sdk.testing.subject import Choice, Subject, check_construction, for_all, require
from xpsr_sdk.testing.tensors import (
    LEVEL,
    correlation,
    devices,
    generators,
    global_random_state_kept,
    inputs_kept,
    require_close,
    require_tensor,
    same,
)
from xpsr_sdk.testing.tiny import photo

DISPLACED = 0.2
"""A share of a pixel by which a picture may be displaced. Noise, which is not gone in the mean, looks like 0.1."""


def check_degradation_model(choice: Choice, registry: Registry | None = None) -> None:
    """Check a degradation against the whole contract of [DegradationModel][xpsr_sdk.contracts.DegradationModel].

    Args:
        choice: Its name, or ``{"name": ..., <options>}``.
        registry: The registry that holds it, for instance ``Registry([my_plugin])``. None: the installed plug-ins.

    Raises:
        ContractViolation: A clause is broken; the message says which one, and how to fix it.
    """
    subject = Subject.of("degradation_model", choice, registry)
    check_construction(subject)
    with subject.clause("exceptions"):
        plain = subject.build()
        _run(plain, _hr(plain.scale, rows=16, columns=16))
    for check in (_scale, _shape, _dtype_and_device, _range, _inputs, _determinism, _batch):
        check(subject)
    for check in (_alignment, _black, _pickling):
        check(subject)
    with subject.clause("training"), TemporaryDirectory() as folder:
        model = subject.build()
        check_training(Path(folder), subject.registry, {}, lambda hr: model(hr, generators(0)), model.scale)


def _hr(scale: int, batch: int = 1, rows: int = 9, columns: int = 7, seed: int = 0) -> Tensor:
    """Different photos, B 3 H W, of ``rows`` x ``columns`` LR pixels."""
    return torch.cat([to_tensor(photo(columns * scale, rows * scale, seed + i)) for i in range(batch)])


def _run(model: Any, hr: Tensor, *seeds: int) -> Tensor:
    own = generators(*(seeds or range(len(hr))))
    result: Tensor = model(hr, own)
    return result


def _scale(subject: Subject) -> None:
    with subject.clause("scale"):
        if "scale" not in subject.registry.resolve(subject.kind, subject.name).Config.model_fields:
            return
        for asked in (1, 2, 3):
            try:
                model = subject.build(scale=asked)
            except ConfigError:  # this scale is not on offer
                continue
            require(model.scale == asked, f"with the option scale = {asked}, its scale is {model.scale}")
            with subject.clause("shape"):
                require_tensor(_run(model, _hr(asked)), (1, 3, 9, 7), f"with the option scale = {asked}, the result")


def _shape(subject: Subject) -> None:
    model = subject.build()

    def test(batch: int, rows: int, columns: int) -> None:
        result = _run(model, _hr(model.scale, batch, rows, columns))
        require_tensor(
            result, (batch, 3, rows, columns), f"the result of {rows * model.scale} x {columns * model.scale}"
        )

    with subject.clause("shape"):
        for_all(test, batch=st.integers(1, 3), rows=st.integers(8, 21), columns=st.integers(8, 21))
        _run(model, _hr(model.scale, 2).contiguous(memory_format=torch.channels_last))  # as files of images give it


def _dtype_and_device(subject: Subject) -> None:
    model = subject.build()
    hr = _hr(model.scale)
    with subject.clause("dtype"):
        for dtype in (torch.float32, torch.float64):
            found = _run(model, hr.to(dtype)).dtype
            require(found == dtype, f"an image in {dtype} gave one in {found}")
    with subject.clause("device"):
        for device in devices():
            there = hr.to(device)
            device_found = _run(model, there).device
            require(device_found == there.device, f"an image on {there.device} gave one on {device_found}")


def _range(subject: Subject) -> None:
    model = subject.build()
    size = (1, 3, 12 * model.scale, 12 * model.scale)
    flat = {"black": torch.zeros(size), "white": torch.ones(size), "gray": torch.full(size, 0.5)}
    busy = {"a checkerboard": torch.eye(2).repeat(6 * model.scale, 6 * model.scale).expand(size).clone()}
    images = flat | busy | {"noise": torch.rand(size, generator=torch.Generator().manual_seed(0))}
    with subject.clause("range"):
        for name, hr in images.items():
            for seed in range(6):
                lr = _run(model, hr, seed)
                require_tensor(lr, (1, 3, 12, 12), f"the result of {name}")
                low, high = float(lr.min()), float(lr.max())
                require(low >= 0 and high <= 1, f"{name}, seed {seed}, came out between {low:.4g} and {high:.4g}")


def _inputs(subject: Subject) -> None:
    with subject.clause("inputs"):
        model = subject.build()
        hr = _hr(model.scale, batch=2)
        own = generators(0, 1)
        with inputs_kept(hr=hr):
            result = model(hr, own)
        require(len(own) == 2, "it changed the list of generators")
        require(result.data_ptr() != hr.data_ptr(), "it returned its input tensor")


def _determinism(subject: Subject) -> None:
    model = subject.build()

    def test(seed: int) -> None:
        hr = _hr(model.scale)
        with global_random_state_kept():
            first = _run(model, hr, seed)
        _run(model, _hr(model.scale, batch=2, rows=11), seed + 1, seed + 2)
        require(same(first, _run(model, hr, seed)), "the same call gave a different result the second time")
        require(same(first, _run(subject.build(), hr, seed)), "a fresh instance gave a different result")

    with subject.clause("determinism"):
        for_all(test, examples=4, seed=st.integers(0, 2**31))


def _batch(subject: Subject) -> None:
    model = subject.build()

    def test(batch: int, seed: int) -> None:
        hr, seeds = _hr(model.scale, batch), range(seed, seed + batch)
        whole = _run(model, hr, *seeds)
        for i, own in enumerate(seeds):
            alone = _run(model, hr[i : i + 1], own)
            problem = f"image {i} of a batch of {batch} differs from the same image alone"
            require_close(whole[i : i + 1], alone, LEVEL, problem)

    with subject.clause("batch"):
        for_all(test, batch=st.integers(2, 3), seed=st.integers(0, 2**31))


def _black(subject: Subject) -> None:
    with subject.clause("range"):
        model = subject.build()
        black = torch.zeros(1, 3, 12 * model.scale, 12 * model.scale)
        mean = sum(float(_run(model, black, seed).mean()) for seed in range(6)) / 6
        require(mean < 0.25, f"a black photo came out gray, with a mean of {mean:.2f}, as if hr were in [-1, 1]")


def _alignment(subject: Subject) -> None:
    with subject.clause("alignment"):
        model = subject.build()
        hr = _hr(model.scale, rows=24, columns=24)
        original = interpolate(hr, size=(24, 24), mode="area")
        likeness = [correlation(_run(model, hr, seed), original) for seed in range(8)]
        mean = sum(likeness) / len(likeness)
        require(mean > 0.5, f"the results have a correlation of only {mean:.2f} with the downscaled original")
        _check_place(model)


def _check_place(model: Any) -> None:
    """Soft spots of random colors must keep their channel and their place, to a fraction of a pixel."""
    spots = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    hr = interpolate(spots, scale_factor=4 * model.scale, mode="bicubic").clamp(0, 1)
    original = interpolate(hr, scale_factor=1 / model.scale, mode="area")
    result = torch.stack([_run(model, hr, seed) for seed in range(24)]).mean(dim=0)  # without the noise
    own = correlation(result, original)
    for channels in (1, 2):
        found = correlation(result, original.roll(channels, 1)) <= own
        require(found, "a channel of the result resembles another channel of the original more than its own")
    down, right, taller, wider = _displacement(result, original)
    moved = f"the picture is shifted by {down:.2f} pixels of the result down and {right:.2f} to the right"
    require(max(abs(down), abs(right)) < DISPLACED, moved)
    most = max(abs(taller), abs(wider))
    require(most < DISPLACED, f"the picture is shifted by up to {most:.2f} pixels of the result towards its borders")


def _displacement(result: Tensor, original: Tensor) -> list[float]:
    """How far ``result`` is shifted down and to the right, and at the border up and down, and to both sides, in pixels.

    The result is explained by the original, its two gradients, and these times the distance from the middle: to a first
    order, a picture that is shifted is itself less the shift times its gradient.
    """
    original, result = original.double(), result.double()
    middle = (..., slice(1, -1), slice(1, -1))
    down = (original[..., 2:, 1:-1] - original[..., :-2, 1:-1]) / 2
    right = (original[..., 1:-1, 2:] - original[..., 1:-1, :-2]) / 2
    away = torch.linspace(-1, 1, right.shape[-1], dtype=right.dtype)
    parts = [result[middle], original[middle], down, right, down * away[:, None], right * away]
    inner = [x[..., 2:-2, 2:-2] for x in parts]  # borders are treated in many ways
    found, *causes = ((x - x.mean(dim=(2, 3), keepdim=True)).flatten() for x in inner)
    strength, *shifts = torch.linalg.lstsq(torch.stack(causes, dim=1), found[:, None]).solution.flatten().tolist()
    return [-shift / max(strength, 1e-3) for shift in shifts]


def _pickling(subject: Subject) -> None:
    with subject.clause("pickling"):
        model = subject.build()
        hr = _hr(model.scale)
        sent = pickle.loads(pickle.dumps(model))
        require(same(_run(sent, hr, 5), _run(model, hr, 5)), "after pickling it gives a different result")
