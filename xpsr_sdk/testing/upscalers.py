"""Checks an upscaler against the contract of ``xpsr_sdk.Upscaler``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from xpsr_sdk.data.images import resize, to_tensor
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.testing.restoring import check_restoration
from xpsr_sdk.testing.subject import Choice, Subject, check_construction, for_all, require
from xpsr_sdk.testing.tensors import (
    LEVEL,
    correlation,
    devices,
    global_random_state_kept,
    inputs_kept,
    require_close,
    require_tensor,
    same,
)
from xpsr_sdk.testing.tiny import photo, write_whole_model

SEAM = 2.01 / 255
"""How much two tiles may differ where they meet: two levels of 8 bits, which is invisible. Deep networks depend a
little even on pixels that are far away."""


def check_upscaler(choice: Choice, registry: Registry | None = None) -> None:
    """Check an upscaler against the whole contract of [Upscaler][xpsr_sdk.contracts.Upscaler].

    Args:
        choice: Its name, or ``{"name": ..., <options>}``.
        registry: The registry that holds it, for instance ``Registry([my_plugin])``. None: the installed plug-ins.

    Raises:
        ContractViolation: A clause is broken; the message says which one, and how to fix it.
    """
    subject = Subject.of("upscaler", choice, registry)
    check_construction(subject)
    with subject.clause("exceptions"):
        subject.build().upscale(_photos(1, 8, 8))
    for check in (_shape, _dtype_and_device, _range, _inputs, _determinism, _batch, _alignment, _halo):
        check(subject)
    _unload(subject)
    with subject.clause("restoration"), TemporaryDirectory() as folder:
        write_whole_model(Path(folder, "model"))
        check_restoration(Path(folder, "model"), subject.registry, upscaler=subject.choice)


def _photos(batch: int = 1, rows: int = 9, columns: int = 7, seed: int = 0) -> Tensor:
    """Different photos, B 3 rows columns."""
    return torch.cat([to_tensor(photo(columns, rows, seed + i)) for i in range(batch)])


def _squares(side: int, seed: int = 0) -> Tensor:
    """Squares of random colors, three pixels wide, 1 3 side side, so that there are edges everywhere."""
    count = -(-side // 3)
    colors = torch.rand(1, 3, count, count, generator=torch.Generator().manual_seed(seed))
    return interpolate(colors, scale_factor=3)[..., :side, :side]


def _shape(subject: Subject) -> None:
    upscaler = subject.build()
    scale = upscaler.scale

    def test(batch: int, rows: int, columns: int) -> None:
        result = upscaler.upscale(_photos(batch, rows, columns))
        require_tensor(
            result, (batch, 3, scale * rows, scale * columns), f"the result of {batch} images of {rows} x {columns}"
        )

    with subject.clause("shape"):
        for_all(test, batch=st.integers(1, 3), rows=st.integers(1, 13), columns=st.integers(1, 13))


def _dtype_and_device(subject: Subject) -> None:
    upscaler = subject.build()
    for device in devices():
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            image = _photos().to(device, dtype)
            with subject.clause("dtype"):
                try:
                    result = upscaler.upscale(image)
                except RuntimeError as error:
                    # torch lacks some float16 operations on the CPU, where float16 is not used in practice.
                    if dtype == torch.float16 and device.type == "cpu" and "'Half'" in str(error):
                        continue
                    raise
                require(result.dtype == dtype, f"an image in {dtype} gave one in {result.dtype}")
            with subject.clause("device"):
                require(result.device == image.device, f"an image on {image.device} gave one on {result.device}")


def _range(subject: Subject) -> None:
    upscaler = subject.build()
    size = (1, 3, 12, 12)
    flat = {"black": torch.zeros(size), "white": torch.ones(size), "gray": torch.full(size, 0.5)}
    busy = {"a checkerboard": torch.eye(2).repeat(6, 6).expand(size).clone(), "squares": _squares(12)}
    images = flat | busy | {"noise": torch.rand(size, generator=torch.Generator().manual_seed(0))}
    with subject.clause("range"):
        for name, image in images.items():
            result = upscaler.upscale(image)
            require_tensor(result, (1, 3, 12 * upscaler.scale, 12 * upscaler.scale), f"the result of {name}")
            low, high = float(result.min()), float(result.max())
            require(low >= 0 and high <= 1, f"{name} came out between {low:.4g} and {high:.4g}")


def _inputs(subject: Subject) -> None:
    with subject.clause("inputs"):
        image = _photos(batch=2)
        with inputs_kept(image=image):
            result = subject.build().upscale(image)
        require(result.data_ptr() != image.data_ptr(), "it returned its input tensor")


def _determinism(subject: Subject) -> None:
    with subject.clause("determinism"):
        upscaler, image = subject.build(), _photos()
        with global_random_state_kept():
            first = upscaler.upscale(image)
        upscaler.upscale(_photos(batch=2, rows=5, seed=1).bfloat16())
        require(same(first, upscaler.upscale(image)), "the same call gave a different result the second time")
        require(same(first, subject.build().upscale(image)), "a fresh instance gave a different result")


def _batch(subject: Subject) -> None:
    with subject.clause("batch"):
        upscaler = subject.build()
        images = torch.cat([_photos(2), torch.zeros(1, 3, 9, 7)])
        together = upscaler.upscale(images)
        for i in range(len(images)):
            alone = upscaler.upscale(images[i : i + 1])
            problem = f"image {i} of a batch of {len(images)} differs from the same image alone"
            require_close(together[i : i + 1], alone, LEVEL, problem)


def _alignment(subject: Subject) -> None:
    """Squares of random colors must have the same position and channel as in a bicubic enlargement."""
    with subject.clause("alignment"):
        upscaler = subject.build()
        scale, image = upscaler.scale, _squares(24)
        side, border = 24 * scale, 3 * scale
        result = upscaler.upscale(image)
        enlarged = resize(image, side, side)

        def likeness(rows: int = 0, columns: int = 0, channels: int = 0) -> float:
            """The correlation with the bicubic enlargement, moved by so many pixels and channels; no border."""
            moved = enlarged.roll((channels, rows, columns), (1, 2, 3))
            inner = slice(border, side - border)
            return correlation(result[..., inner, inner], moved[..., inner, inner])

        own = likeness()
        require(own > 0.5, f"the result has a correlation of only {own:.2f} with a bicubic enlargement")
        for channels in (1, 2):
            found = likeness(channels=channels) <= own
            require(found, "a channel of the result resembles another channel of the photo more than its own")
        steps = range(-scale, scale + 1)
        nearest = max(((rows, columns) for rows in steps for columns in steps), key=lambda place: likeness(*place))
        moved = f"the picture is shifted by {nearest[0]} pixels of the result down and {nearest[1]} to the right"
        require(likeness(*nearest) <= own + 0.01, moved)  # another position may correlate slightly better by chance


def _halo(subject: Subject) -> None:
    """The middle of a large photo must not depend on what is further away than the halo."""
    with subject.clause("halo"):
        upscaler = subject.build()
        scale, halo, beyond, middle = upscaler.scale, upscaler.halo, 12, 9
        image = _squares(2 * (beyond + halo) + middle)
        whole = upscaler.upscale(image)
        tile = upscaler.upscale(image[..., beyond:-beyond, beyond:-beyond])
        ours = _middle(whole, scale * (beyond + halo)), _middle(tile, scale * halo)
        require_close(*ours, SEAM, f"pixels that are more than {halo} pixels away change the result")


def _middle(image: Tensor, border: int) -> Tensor:
    return image[..., border : image.shape[-2] - border, border : image.shape[-1] - border]


def _unload(subject: Subject) -> None:
    with subject.clause("unload"):
        upscaler: Any = subject.build()
        upscaler.unload()
        image = _photos()
        first = upscaler.upscale(image)
        for times in (1, 2):
            for _ in range(times):
                upscaler.unload()
            require(same(first, upscaler.upscale(image)), "after unload() it gives a different result")
