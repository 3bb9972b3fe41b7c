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
        if type(plain.scale) is int and plain.scale >= 1:
            _run(plain, _hr(plain.scale, rows=16, columns=16))
    for check in (_scale, _shape, _dtype_and_device, _range, _inputs, _determinism, _batch, _alignment, _pickling):
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
        scale = subject.build().scale
        require(type(scale) is int and scale >= 1, f"its scale is {scale!r}")
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


def _alignment(subject: Subject) -> None:
    with subject.clause("alignment"):
        model = subject.build()
        hr = _hr(model.scale, rows=24, columns=24)
        original = interpolate(hr, size=(24, 24), mode="area")
        likeness = [correlation(_run(model, hr, seed), original) for seed in range(8)]
        mean = sum(likeness) / len(likeness)
        require(mean > 0.5, f"the results have a correlation of only {mean:.2f} with the downscaled original")
        _check_position(model)


def _check_position(model: Any) -> None:
    """Squares of random colors, three LR pixels wide, must keep their position and their channel."""
    squares = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    original, hr = (interpolate(squares, scale_factor=factor) for factor in (3, 3 * model.scale))
    results = [_run(model, hr, seed) for seed in range(12)]

    def likeness(rows: int = 0, columns: int = 0, channels: int = 0) -> float:
        """The correlation with the original, after that is moved by so many pixels and channels."""
        moved = original.roll((channels, rows, columns), (1, 2, 3))
        return sum(correlation(result, moved) for result in results) / len(results)

    own = likeness() + 0.03  # by chance, another position may correlate slightly better
    for rows, columns in ((rows, columns) for rows in (-1, 0, 1) for columns in (-1, 0, 1)):
        found = likeness(rows, columns) <= own
        require(found, f"the picture is shifted by {rows} pixels down and {columns} to the right")
    for channels in (1, 2):
        found = likeness(channels=channels) <= own
        require(found, "a channel of the result resembles another channel of the original more than its own")


def _pickling(subject: Subject) -> None:
    with subject.clause("pickling"):
        model = subject.build()
        hr = _hr(model.scale)
        sent = pickle.loads(pickle.dumps(model))
        require(same(_run(sent, hr, 5), _run(model, hr, 5)), "after pickling it gives a different result")
