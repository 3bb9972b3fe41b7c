"""What a part answers is checked here where the host takes it over, for parts of all kinds.

Every call of a part is made within ``blamed_on``, and every tensor that it gives goes through ``checked_tensor``. So
each error names the part (kind, name, distribution and version) and the photo.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from traceback import walk_tb
from types import FrameType

import torch
from torch import Tensor

from xpsr_sdk.errors import BrokenPlugin, NonFiniteResult, XPSRError, one_line
from xpsr_sdk.plugin_system.marks import mark_of, name_of

ROUNDING = 0.5 / 255
"""How far a range may be left, relative to its width: half a level of an 8-bit image, as half precision rounds."""
HOST = ("xpsr_sdk.cli.", "xpsr_sdk.engine.", "xpsr_sdk.serving.", "xpsr_sdk.training.")
"""Modules that a part may call back into, through its denoiser or its callback: what they raise is not its fault."""

PASSING = (XPSRError, KeyboardInterrupt, GeneratorExit, MemoryError, torch.OutOfMemoryError)
"""What is nobody's fault, or has been told of already. The engine tries again with less when memory ran out."""

REASONS = {
    "backbone": "its weights hold NaN or infinity, or its numbers are too large for this precision, and float32 is due",
    "sampler": "all that the model gave was finite, so that it cannot sample this noise schedule or prediction type",
    "upscaler": "its weights hold NaN or infinity, or its numbers are too large for this precision, and float32 is due",
}
"""Why parts of a kind give numbers that are not finite."""

_photo = ContextVar("xpsr_photo", default="")


@contextmanager
def working_on(photo: str) -> Iterator[None]:
    """Within the block, errors about parts name this photo."""
    before = _photo.set(photo)
    try:
        yield
    finally:
        _photo.reset(before)


def of_photo() -> str:
    """The end of a sentence about the photo that is being worked on, with a blank before it; empty if there is none."""
    return f" for {_photo.get()}" if _photo.get() else ""


@contextmanager
def blamed_on(kind: str, part: object) -> Iterator[None]:
    """Within the block, whatever a part raises is a ``BrokenPlugin`` that names it, ``sys.exit`` included.

    The SDK's own errors, and what comes out of the denoiser or the callback that a sampler is handed, pass as they are.

    Args:
        kind: A key of ``xpsr_sdk.contracts.KINDS``.
        part: The part that is called. If a part within it, such as a fusion within a model, has failed, that one is
            named.
    """
    try:
        yield
    except PASSING:
        raise
    except BaseException as error:
        report = _report(error, name_of(kind, part))
        if report is None:
            raise
        raise report from error


@contextmanager
def blamed_on_parts() -> Iterator[None]:
    """Within the block, which computes networks, what a fusion in them raises is a ``BrokenPlugin`` that names it."""
    try:
        yield
    except PASSING:
        raise
    except BaseException as error:
        report = _report(error, None)
        if report is None:
            raise
        raise report from error


def wrong(kind: str, part: object, problem: str) -> BrokenPlugin:
    """The error about a part whose answer breaks its contract.

    Args:
        kind: A key of ``xpsr_sdk.contracts.KINDS``.
        part: The part.
        problem: What it did, to go on with after its name, for instance ``"gave 2 answers for 3 images"``.
    """
    return BrokenPlugin(f"The {name_of(kind, part)} {problem}{of_photo()}.")


def checked_tensor(
    kind: str,
    part: object,
    value: object,
    what: str,
    shape: Sequence[int | None],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    within: tuple[float, float] | None = None,
) -> Tensor:
    """A tensor that a part gave, if it is what the contract promises.

    Args:
        kind: A key of ``xpsr_sdk.contracts.KINDS``.
        part: Who gave it.
        value: What it gave.
        what: What that is, for instance ``"latents"``.
        shape: What it must have; None stands for any length.
        dtype: What it must have; None: any of floating-point numbers.
        device: Where it must lie; None: anywhere.
        within: Its range, lowest and highest number, but for rounding.

    Raises:
        BrokenPlugin: It is no tensor, or one of another shape, dtype, device or range.
        NonFiniteResult: It holds NaN or infinity.
    """
    if not isinstance(value, Tensor):
        raise wrong(kind, part, f"gave {_described(value)} as {what}, not a tensor")
    found = tuple(value.shape)
    if len(found) != len(shape) or any(a not in (b, None) for a, b in zip(shape, found, strict=True)):
        wanted = ", ".join("any" if side is None else str(side) for side in shape)
        raise wrong(kind, part, f"gave {what} of shape {found}, not ({wanted})")
    if dtype not in (None, value.dtype) or not value.is_floating_point():
        raise wrong(kind, part, f"gave {what} in {value.dtype}, not in {dtype or 'floating-point numbers'}")
    if device not in (None, value.device):
        raise wrong(kind, part, f"gave {what} on {value.device}, not on {device}")
    lowest, highest = extremes(value)
    if not lowest > -float("inf") or not highest < float("inf"):
        precision = str(value.dtype).removeprefix("torch.")
        raise NonFiniteResult(
            f"The {name_of(kind, part)} gave {what} that are not finite (in {precision}){of_photo()}: "
            f"{REASONS.get(kind, 'it must give finite numbers for every photo')}."
        )
    if within is not None:
        slack = ROUNDING * (within[1] - within[0])
        if lowest < within[0] - slack or highest > within[1] + slack:
            problem = f"gave {what} from {lowest:.4g} to {highest:.4g}, not from {within[0]} to {within[1]}"
            raise wrong(kind, part, problem)
    return value


def _described(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def extremes(value: Tensor) -> tuple[float, float]:
    """The lowest and the highest number of a tensor; NaN if there is one in it."""
    if not value.numel():
        return 0.0, 0.0
    lowest, highest = torch.stack(torch.aminmax(value.detach())).tolist()  # one wait for the device
    return lowest, highest


def _report(error: BaseException, default: str | None) -> BrokenPlugin | None:
    """The error about the part whose code raised ``error``; None: it was none, but the host or a signal.

    Args:
        error: As it arrives in a context manager of this module.
        default: Who is to blame if no part that a registry built is found on the way.
    """
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()}
    frames = list(walk_tb(error.__traceback__))[2:]  # those of the context manager and of the block itself
    name, own = default, frames[0][0] if frames else None
    for frame, _ in reversed(frames):
        if found := mark_of(frame.f_locals.get("self")):
            name, own = str(found), frame
            break
        if frame.f_code in handlers or _module(frame).startswith(HOST):
            return None
    if name is None:
        return None
    where = ""
    for frame, line in frames:
        if own is not None and _module(frame).partition(".")[0] == _module(own).partition(".")[0]:
            where = f" ({frame.f_code.co_filename}, line {line})"
    return BrokenPlugin(f"The {name} raised {one_line(error).removesuffix('.')}{where}{of_photo()}.")


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
