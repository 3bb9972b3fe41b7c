"""Stable Diffusion with a tiny autoencoder for ``xpsr_sdk``: ``tiny-vae``."""

from __future__ import annotations

from xpsr_sdk import ComponentSpec, hookimpl


@hookimpl
def xpsr_backbones() -> list[ComponentSpec]:
    summary = "Stable Diffusion 1.x and 2.x with a tiny autoencoder: quick to decode."
    return [ComponentSpec("tiny-vae", f"{__name__}.backbone:TinyVAEStableDiffusion", summary)]
