"""The default parts of XPSR, which are registered through the same hooks as those of plug-ins."""

from __future__ import annotations

from collections.abc import Iterable

from xpsr_sdk.contracts import ComponentSpec
from xpsr_sdk.plugin_system.hookspecs import hookimpl

CAPTIONERS = {
    "llava-1.5-7b": "llava-hf/llava-1.5-7b-hf",
    "llava-onevision": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "qwen2.5-vl-3b": "Qwen/Qwen2.5-VL-3B-Instruct",
    "qwen2.5-vl-7b": "Qwen/Qwen2.5-VL-7B-Instruct",
    "internvl3": "OpenGVLab/InternVL3-2B-hf",
    "smolvlm": "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    "gemma-3-4b": "google/gemma-3-4b-it",
}
"""Vision-language models that are chosen by a short name, with their ids on the hub."""


@hookimpl
def xpsr_prompt_providers() -> Iterable[ComponentSpec]:
    yield ComponentSpec(
        "measured",
        f"{__name__}.measured:MeasuredPrompts",
        "Measures blur, noise, blocks and contrast; no download.",
    )
    yield ComponentSpec("fixed", f"{__name__}.fixed:FixedPrompts", "The same words for every photo.")
    yield ComponentSpec("sidecar", f"{__name__}.sidecar:SidecarPrompts", "Text files beside the photos.")
    yield ComponentSpec("stored", f"{__name__}.stored:StoredPrompts", "What xpsr caption has stored ahead of time.")
    yield ComponentSpec(
        "ensemble", f"{__name__}.ensemble:EnsemblePrompts", "Each level from a provider of its own, or the next one."
    )
    yield ComponentSpec(
        "openai",
        f"{__name__}.openai_captioner:OpenAICaptioner",
        "A vision-language model behind an OpenAI-like endpoint.",
    )
    transformers = f"{__name__}.transformers_captioner:TransformersCaptioner"
    yield ComponentSpec("transformers", transformers, "Any vision-language model of the transformers library.")
    for name, model in CAPTIONERS.items():
        yield ComponentSpec(name, transformers, f"{model}, by transformers.", {"model": model})


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
        f"{__name__}.realesrgan_degradation:RealESRGANDegradation",
        "Second-order blur, resize, noise, JPEG (arXiv 2107.10833).",
    )
    yield ComponentSpec(
        "camera",
        f"{__name__}.camera_degradation:CameraDegradation",
        "A camera that is too far away: blur, noise, sharpening, JPEG.",
    )
    yield ComponentSpec("bicubic", f"{__name__}.bicubic_degradation:BicubicDegradation", "Bicubic downsampling alone.")


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
    yield ComponentSpec("diffusers", target, "Any scheduler of diffusers, by the name of its class.")
    euler = {"scheduler": "EulerDiscreteScheduler", "options": {"timestep_spacing": "trailing"}}
    yield ComponentSpec("euler", target, "Euler's method (arXiv 2206.00364).", euler)
    few = {"defaults": {"num_inference_steps": 4, "guidance_scale": 1.0}}
    lcm = {"scheduler": "LCMScheduler", "options": {"clip_sample": False}} | few
    yield ComponentSpec("lcm", target, "Latent consistency models and LoRAs, in 4 steps (arXiv 2310.04378).", lcm)
    tcd = {"scheduler": "TCDScheduler", "options": {"clip_sample": False}, "step_options": {"eta": 0.3}} | few
    yield ComponentSpec("tcd", target, "Trajectory consistency LoRAs, in 4 steps (arXiv 2402.19159).", tcd)
    yield ComponentSpec("hyper-sd", target, "DDIM for Hyper-SD LoRAs, in 4 steps (arXiv 2404.13686).", ddim | few)
    yield ComponentSpec("lightning", target, "Euler for Lightning LoRAs, in 4 steps (arXiv 2402.13929).", euler | few)
    turbo = {"scheduler": "EulerAncestralDiscreteScheduler", "options": {"timestep_spacing": "trailing"}} | few
    yield ComponentSpec("turbo", target, "Ancestral Euler for Turbo models, in 4 steps (arXiv 2311.17042).", turbo)
    one_step = "The estimate of a model that was distilled to one evaluation (arXiv 2406.08177)."
    yield ComponentSpec("one-step", f"{__name__}.one_step_sampler:OneStepSampler", one_step)


@hookimpl
def xpsr_backbones() -> Iterable[ComponentSpec]:
    yield ComponentSpec(
        "stable-diffusion",
        f"{__name__}.stable_diffusion:StableDiffusion",
        "Stable Diffusion 1.x and 2.x, from a diffusers folder.",
    )
    yield ComponentSpec(
        "stable-diffusion-xl",
        f"{__name__}.stable_diffusion_xl:StableDiffusionXL",
        "Stable Diffusion XL, from a diffusers folder.",
    )
    yield ComponentSpec(
        "residual",
        f"{__name__}.residual:ResidualBackbone",
        "Lossless latents: the residual to the upscaled photo.",
    )


@hookimpl
def xpsr_upscalers() -> Iterable[ComponentSpec]:
    yield ComponentSpec(
        "bicubic", f"{__name__}.bicubic_upscaler:BicubicUpscaler", "Bicubic enlargement: XPSR's default."
    )
    spandrel = f"{__name__}.spandrel_upscaler:SpandrelUpscaler"
    yield ComponentSpec("spandrel", spandrel, "Any ESRGAN-like network in a file of yours, by spandrel.")
    shipped = {"path": "realesrgan-x4plus"}
    yield ComponentSpec("realesrgan-x4plus", spandrel, "Real-ESRGAN x4+ (arXiv 2107.10833), which is shipped.", shipped)


@hookimpl
def xpsr_metrics() -> Iterable[ComponentSpec]:
    yield ComponentSpec("psnr", f"{__name__}.pixel_metrics:Psnr", "Peak signal-to-noise ratio, in dB.")
    yield ComponentSpec("ssim", f"{__name__}.pixel_metrics:Ssim", "Structural similarity (Wang et al., 2004).")
    ssim = f"{__name__}.pixel_metrics:Ssim"
    yield ComponentSpec("ssim-pyiqa", ssim, "SSIM as pyiqa measures it, and as recent papers do.", {"as_pyiqa": True})
    niqe = f"{__name__}.niqe:Niqe"
    yield ComponentSpec("niqe", niqe, "Natural image quality, without a reference (2013), as pyiqa measures it.")
    yield ComponentSpec("niqe-basicsr", niqe, "NIQE as BasicSR measures it, on MATLAB's Y.", {"luma": "ycbcr"})


@hookimpl
def xpsr_loss_terms() -> Iterable[ComponentSpec]:
    losses = f"{__name__}.xpsr_losses"
    yield ComponentSpec("diffusion", f"{losses}:DiffusionLoss", "The error of what the U-Net predicts.")
    constraint = "The Degradation-Free Constraint (arXiv 2403.05049)."
    yield ComponentSpec("constraint", f"{losses}:ConstraintLoss", constraint)
    perceptual = f"{__name__}.perceptual_loss:PerceptualLoss"
    yield ComponentSpec("perceptual", perceptual, "A metric, such as LPIPS, of the decoded estimates.")
    yield ComponentSpec("pixel", f"{__name__}.pixel_loss:PixelLoss", "The error of the decoded estimates.")
    yield ComponentSpec(
        "score-distillation",
        f"{__name__}.score_distillation:ScoreDistillation",
        "Variational score distillation with the frozen teacher (arXiv 2406.08177).",
    )
