"""The parts that XPSR is made of, registered through the same hooks as anybody's."""

from __future__ import annotations

from collections.abc import Iterable

from xpsr_sdk.contracts import ComponentSpec
from xpsr_sdk.hookspecs import hookimpl


@hookimpl
def xpsr_prompt_providers() -> Iterable[ComponentSpec]:
    yield ComponentSpec(
        "measured",
        f"{__name__}.measured:MeasuredPrompts",
        "Measures blur, noise, blocks and contrast; no download.",
    )
    yield ComponentSpec("fixed", f"{__name__}.fixed:FixedPrompts", "The same words for every photo.")


@hookimpl
def xpsr_fusion_attentions() -> Iterable[ComponentSpec]:
    yield ComponentSpec(
        "xpsr",
        f"{__name__}.semantic_fusion:SemanticFusionAttention",
        "Semantic-Fusion Attention (arXiv 2403.05049).",
    )


@hookimpl
def xpsr_degradation_models() -> Iterable[ComponentSpec]:
    yield ComponentSpec(
        "realesrgan",
        f"{__name__}.realesrgan:RealESRGANDegradation",
        "Second-order blur, resize, noise, JPEG (arXiv 2107.10833).",
    )
    yield ComponentSpec("bicubic", f"{__name__}.bicubic:BicubicDegradation", "Bicubic downsampling alone.")


@hookimpl
def xpsr_samplers() -> Iterable[ComponentSpec]:
    target = f"{__name__}.samplers:DiffusersSampler"
    # The published code runs a UniPC that ends at the smallest sigma of the schedule instead of at zero.
    unipc = {"scheduler": "UniPCMultistepScheduler", "options": {"final_sigmas_type": "sigma_min"}}
    yield ComponentSpec("unipc", target, "UniPC (arXiv 2302.04867): XPSR's default.", unipc)
    dpm = {"scheduler": "DPMSolverMultistepScheduler"}
    yield ComponentSpec("dpmpp-2m", target, "DPM-Solver++ 2M (arXiv 2211.01095).", dpm)
    ddim = {"scheduler": "DDIMScheduler", "options": {"clip_sample": False, "timestep_spacing": "trailing"}}
    yield ComponentSpec("ddim", target, "DDIM (arXiv 2010.02502).", ddim)
    euler = {"scheduler": "EulerDiscreteScheduler", "options": {"timestep_spacing": "trailing"}}
    yield ComponentSpec("euler", target, "Euler's method (arXiv 2206.00364).", euler)


@hookimpl
def xpsr_backbones() -> Iterable[ComponentSpec]:
    yield ComponentSpec(
        "stable-diffusion",
        f"{__name__}.stable_diffusion:StableDiffusion",
        "Stable Diffusion 1.x and 2.x, from a diffusers folder.",
    )
    yield ComponentSpec(
        "residual",
        f"{__name__}.residual:ResidualBackbone",
        "Lossless latents: the residual to bicubic, unshuffled.",
    )
