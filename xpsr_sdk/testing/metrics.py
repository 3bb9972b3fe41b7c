"""Checks a metric against the contract of ``xpsr_sdk.Metric``."""

from __future__ import annotations

from math import isnan
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from xpsr_sdk.contracts import FolderMetric
from xpsr_sdk.data.images import to_tensor
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.testing.subject import Choice, Subject, check_construction, for_all, require
from xpsr_sdk.testing.tensors import devices, global_random_state_kept, inputs_kept, require_close, same
from xpsr_sdk.testing.tiny import photo

CLOSE = 1e-4
"""How far figures that should be equal may differ, relative to the largest one."""


def check_metric(choice: Choice, registry: Registry | None = None) -> None:
    """Check a metric against the whole contract of [Metric][xpsr_sdk.contracts.Metric].

    A metric of whole folders ([FolderMetric][xpsr_sdk.contracts.FolderMetric]) is checked with folders of eight photos.

    Args:
        choice: Its name, or ``{"name": ..., <options>}``.
        registry: The registry that holds it, for instance ``Registry([my_plugin])``. None: the installed plug-ins.

    Raises:
        ContractViolation: A clause is broken; the message says which one, and how to fix it.
    """
    subject = Subject.of("metric", choice, registry)
    check_construction(subject)
    _attributes(subject)
    for check in (_shape, _dtype, _inputs, _determinism, _device, _batch):
        check(subject)
    if isinstance(subject.build(), FolderMetric):
        _folder(subject)
    else:
        _direction(subject)


def _pair(metric: Any, batch: int = 1, more: int = 0, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """Noisy photos that the metric can measure, B 3 H W in float64, and their references if it needs some."""
    clean = _photos(metric, batch, more, seed)
    alone = isinstance(metric, FolderMetric) or not metric.needs_reference
    noisy = torch.cat([_noisy(each, 0.05 * (1 + i)) for i, each in enumerate(clean.split(1))])
    return noisy, None if alone else clean


def _photos(metric: Any, batch: int, more: int = 0, seed: int = 0) -> Tensor:
    side = max(2 * metric.min_side, 32)  # large enough for every metric
    photos = [to_tensor(photo(side + 2 * more, side + more, seed + i)) for i in range(batch)]
    return torch.cat(photos).double()


def _noisy(clean: Tensor, sigma: float) -> Tensor:
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1), dtype=clean.dtype)
    return (clean + sigma * noise).clamp(0, 1)


def _attributes(subject: Subject) -> None:
    metric = subject.build()
    with subject.clause("attributes"):
        for name in ("needs_reference", "lower_is_better"):
            value = getattr(metric, name)
            require(isinstance(value, bool), f"its {name} is {value!r}")
    with subject.clause("details"):
        details = metric.details
        require(isinstance(details, str) and bool(details.strip()), f"its details are {details!r}")
        require(len(details.splitlines()) == 1, f"its details are more than a line: {details!r}")
        require(details == subject.build().details, "a fresh instance has other details")
    with subject.clause("attributes"):
        chosen = getattr(metric, "license", "")
        plain = isinstance(chosen, str) and len(chosen.splitlines()) < 2
        require(plain, f"its license is {chosen!r}, not one line of text")
        storable = getattr(metric, "storable", True)
        require(isinstance(storable, bool), f"its storable is {storable!r}")


def _shape(subject: Subject) -> None:
    metric = subject.build()
    folder = isinstance(metric, FolderMetric)

    def test(batch: int, more: int) -> None:
        images, references = _pair(metric, batch, more)
        result = metric.measure(images.float(), None if references is None else references.float())
        require(isinstance(result, Tensor), f"the result is a {type(result).__name__}, not a tensor")
        shape = tuple(result.shape)
        wanted = f"({batch}, D)" if folder else f"({batch},)"
        fits = len(shape) == 2 if folder else len(shape) == 1
        require(fits and shape[0] == batch, f"the result of {batch} photos has shape {shape}, not {wanted}")
        require(result.is_floating_point(), f"the result holds {result.dtype}, not floating-point numbers")
        require(not bool(result.isnan().any()), f"the result of {batch} photos holds NaN")

    with subject.clause("shape"):
        for_all(test, batch=st.integers(1, 3), more=st.integers(0, 9))
        if not folder:
            clean = torch.full((1, 3, metric.min_side, metric.min_side), 0.5)
            tiny = metric.measure(_noisy(clean, 0.05), clean if metric.needs_reference else None)
            require(tuple(tiny.shape) == (1,), f"a photo of min_side pixels gave a result of shape {tuple(tiny.shape)}")
            photos = _photos(metric, 1).float()
            equal = metric.measure(photos, photos.clone() if metric.needs_reference else None)
            require(not bool(equal.isnan().any()), "the result of a photo that equals its reference is NaN")


def _dtype(subject: Subject) -> None:
    metric = subject.build()
    with subject.clause("dtype"):
        images, references = _pair(metric)
        exact = metric.measure(images, references)
        single = subject.build().measure(images.float(), None if references is None else references.float())
        require_close(single, exact, 1e-3, "float32 and float64 give different figures")


def _device(subject: Subject) -> None:
    metric = subject.build()
    with subject.clause("device"):
        images, references = _pair(metric)
        expected = metric.measure(images, references)
        for device in devices()[1:]:
            moved = [None if x is None else x.float().to(device) for x in (images, references)]
            result = metric.measure(*moved)
            require_close(result, expected, 1e-2, f"{device} and the CPU give different figures")


def _inputs(subject: Subject) -> None:
    metric = subject.build()
    with subject.clause("inputs"):
        images, references = _pair(metric)
        with inputs_kept(images=images, references=references):
            metric.measure(images, references)


def _determinism(subject: Subject) -> None:
    with subject.clause("determinism"):
        metric = subject.build()
        pair = _pair(metric)
        with global_random_state_kept():
            first = metric.measure(*pair)
        metric.measure(*_pair(metric, batch=2, more=3, seed=5))
        require(same(first, metric.measure(*pair)), "the same call gave a different figure the second time")
        require(same(first, subject.build().measure(*pair)), "a fresh instance gave a different figure")


def _batch(subject: Subject) -> None:
    with subject.clause("batch"):
        metric = subject.build()
        images, references = _pair(metric, batch=3)
        together = metric.measure(images, references)
        for i in range(len(images)):
            one = slice(i, i + 1)
            alone = metric.measure(images[one], None if references is None else references[one])
            _require_equal(together[one], alone, f"photo {i} of a batch of 3 has a different figure alone")


def _require_equal(found: Tensor, expected: Tensor, problem: str) -> None:
    """Require figures that differ by rounding only, however small they are."""
    size = float(expected.abs().max().clamp(min=1e-12))
    require_close(found / size, expected / size, CLOSE, problem)


def _direction(subject: Subject) -> None:
    """More noise must give a worse figure. Metrics without a reference are not checked, since they may prefer noise."""
    metric = subject.build()
    if not metric.needs_reference:
        return
    with subject.clause("direction"):
        clean = _photos(metric, 1)
        little, much = (float(metric.measure(_noisy(clean, sigma), clean)) for sigma in (0.02, 0.3))
        word = "lower" if metric.lower_is_better else "higher"
        better = little < much if metric.lower_is_better else little > much
        require(better, f"{word} is better, but little noise gives {little:.4g} and much noise {much:.4g}")


def _folder(subject: Subject) -> None:
    metric = subject.build()
    with subject.clause("compare"):
        clean = _photos(metric, 8)
        sets = [metric.measure(_noisy(clean, sigma), None).double().cpu() for sigma in (0.0, 0.02, 0.3)]
        references = sets[0] if metric.needs_reference else None
        with global_random_state_kept(), inputs_kept(features=sets[2], references=references):
            figures = [metric.compare(features, references) for features in sets]
        require(all(isinstance(figure, float) for figure in figures), f"it gave {figures}, not floats")
        require(not any(map(isnan, figures)), f"it gave {figures}")
        again = [metric.compare(features, references) for features in sets]
        require(figures == again, "the same call gave different figures the second time")
        fewer = metric.compare(sets[2][:5], references)
        require(isinstance(fewer, float), f"for 5 photos and 8 references it gave {fewer!r}, not a float")
        mixed = metric.compare(torch.cat([sets[0][:-1], sets[2][-1:]]), references)
        require(mixed != figures[0], "noise in the last photo changes nothing")
        if metric.needs_reference:
            better = figures[1] < figures[2] if metric.lower_is_better else figures[1] > figures[2]
            require(better, f"little noise gives {figures[1]:.4g} and much noise {figures[2]:.4g}")
