"""The shuffled degradation of BSRGAN (arXiv 2103.14006) for ``xpsr_sdk``: ``bsrgan``."""

from __future__ import annotations

from xpsr_sdk import ComponentSpec, hookimpl


@hookimpl
def xpsr_degradation_models() -> list[ComponentSpec]:
    summary = "Blurs, downsampling, noise, JPEG and a camera in random order (arXiv 2103.14006)."
    return [ComponentSpec("bsrgan", f"{__name__}.degradation:BSRGANDegradation", summary)]
