"""Measures how much faster the optimizations of the engine are, as ratios within one run."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import ceil
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from diffusers import AutoencoderKL, UniPCMultistepScheduler
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from xpsr_sdk.builtin.stable_diffusion import StableDiffusion
from xpsr_sdk.config import PRESETS, SPEEDS, ExecutionConfig
from xpsr_sdk.contracts import parts_of
from xpsr_sdk.data.photo import load_photo
from xpsr_sdk.engine.clock import wait_for
from xpsr_sdk.engine.execution import ALL, Optimizations
from xpsr_sdk.evaluation.metrics import psnr
from xpsr_sdk.library_internals import ATTENTION_ON_CPU
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.unet import XPSRUNet
from xpsr_sdk.pipeline import Pipeline
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.result import Result

PUBLISHED = Optimizations(
    cache_condition=False, cache_text=False, skip_training_heads=False, channels_last=False, pack_weights=False
)
"""Like the published implementation: every evaluation computes everything, even the heads that only training needs."""
WORDS = {"prompt": "a photo", "low_prompt": "blurry, noisy"}
MATMUL_SIDE = {"cpu": 2048}
LARGE_MATMUL_SIDE = 8192
"""Side of the matrices for measuring the peak of a device. Their product must take much longer than its launch."""
UNET: dict[str, Any] = {"cross_attention_dim": 768}
"""The options of Stable Diffusion 1.5 that differ from diffusers' defaults."""
CONTROLNET: dict[str, Any] = {**UNET, "conditioning_embedding_out_channels": (16, 32, 96, 256)}


@dataclass(frozen=True)
class Variant:
    """A way to run the networks."""

    name: str
    optimizations: Optimizations = ALL
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    settings: dict[str, Any] = field(default_factory=dict)
    together: bool = True
    """Whether the photos of a batch go through the networks together."""

    def of(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings of a call. A given number of steps is for ``exact``; a speed preset may use a share of it."""
        steps = settings.get("num_inference_steps")
        share = SPEEDS[self.settings.get("speed", "exact")].steps_share
        given = {} if steps is None else {"num_inference_steps": ceil(steps * share)}
        return WORDS | {"seed": 0} | settings | self.settings | given


def variants(compile_mode: str | None = None) -> list[Variant]:
    """The baseline, the exact variants (with all optimizations, then without one each), and the approximate ones."""
    chosen = [Variant("baseline", PUBLISHED, settings={"tile_batch": 1}, together=False), Variant("exact")]
    for name in ("cache_condition", "cache_text", "channels_last", "pack_weights"):
        chosen.append(Variant(f"without {name}", Optimizations(**{name: False})))
    chosen.append(Variant("with training_heads", Optimizations(skip_training_heads=False)))
    chosen.append(Variant("one tile a pass", settings={"tile_batch": 1}, together=False))
    chosen += [Variant(speed, settings={"speed": speed}) for speed in ("balanced", "fast")]
    if compile_mode:
        execution = ExecutionConfig.model_validate({"compile": compile_mode})
        chosen += [
            Variant("exact compiled", execution=execution),
            Variant("fast compiled", execution=execution, settings={"speed": "fast"}),
        ]
    return chosen


@dataclass(frozen=True)
class Measurement:
    """The measurement of a variant.

    Attributes:
        variant: The name of the variant.
        size: Side of the result, in pixels.
        batch: Photos at a time.
        dtype: Precision.
        steps: Model evaluations.
        seconds: Seconds per photo, the median of the rounds, without prompts and text.
        times_baseline: How many times as fast as the first variant.
        share_of_peak: Floating-point operations, as a share of those that matrix multiplications reach in the same
            time. None for approximate variants, which do less work.
        peak_bytes: Peak memory, without the weights.
        psnr_to_exact: PSNR of the result to that of the exact variant, in dB. None if both should be the same.
        warm_up: Seconds of the first call.
    """

    variant: str
    size: int
    batch: int
    dtype: str
    steps: int
    seconds: float
    times_baseline: float
    share_of_peak: float | None
    peak_bytes: int
    psnr_to_exact: float | None
    warm_up: float


def measure(
    pipeline: Pipeline,
    chosen: Sequence[Variant],
    *,
    size: int,
    batch: int,
    rounds: int,
    settings: dict[str, Any],
    progress: Callable[[str], None] = lambda name: None,
) -> list[Measurement]:
    """Measure the variants in turns, so that other work on the machine affects all of them equally.

    Args:
        pipeline: The pipeline to measure.
        chosen: The variants. The first is the baseline.
        size: Side of the results, in pixels.
        batch: Photos at a time.
        rounds: How often each variant is timed.
        settings: The settings of all calls.
        progress: Called with the name of each variant before it runs.
    """
    photos = [picture(size // 4, seed) for seed in range(batch)]
    runs: dict[str, list[Run]] = {variant.name: [] for variant in chosen}
    progress("peak of the machine, number of operations")
    peak = matmul_peak(pipeline.unet.device, pipeline.unet.dtype)
    work = flops(pipeline, photos[0], settings)
    warm_up = {}
    for variant in chosen:
        progress(f"{variant.name}, warm-up")
        few = (
            settings if variant.execution.compile else settings | {"num_inference_steps": 2}
        )  # compiled for each shape
        warm_up[variant.name] = run(pipeline, variant, photos, few).seconds
    for _ in range(rounds):
        for variant in chosen:
            progress(variant.name)
            runs[variant.name].append(run(pipeline, variant, photos, settings))
    seconds = {name: median(each.seconds for each in done) / batch for name, done in runs.items()}
    exact = runs["exact"][0].results if "exact" in runs else None
    measured = []
    for variant in chosen:
        first, took = runs[variant.name][0], seconds[variant.name]
        plan = first.results[0].plan
        approximate = variant.settings.get("speed", "exact") != "exact"
        measured.append(
            Measurement(
                variant.name,
                size,
                batch,
                plan.dtype,
                plan.settings.num_inference_steps,
                took,
                seconds[chosen[0].name] / took,
                None if approximate else work / peak / took,
                max(each.peak_bytes for each in runs[variant.name]),
                mean_psnr(first.results, exact) if exact and approximate else None,
                warm_up[variant.name],
            )
        )
    return measured


@dataclass(frozen=True)
class Run:
    """The results of one call, its seconds without prompts and text, and its peak memory."""

    results: list[Result]
    seconds: float
    peak_bytes: int


def run(pipeline: Pipeline, variant: Variant, photos: Sequence[Image.Image], settings: dict[str, Any]) -> Run:
    """Restore photos with a variant."""
    pipeline.set_execution(variant.execution, variant.optimizations)
    resolved = pipeline.resolve(variant.of(settings))
    groups = [list(photos)] if variant.together else [[photo] for photo in photos]
    results: list[Result] = []
    seconds = 0.0
    with peak_memory(pipeline.unet.device) as peak:
        for group in groups:
            done = pipeline.restore([load_photo(photo, resolved) for photo in group], [resolved] * len(group))
            results += done
            seconds += done[0].timings["denoise"] + done[0].timings["decode"]
    return Run(results, seconds, peak())


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], int]]:
    """Yields a function that returns, after the block, the peak memory of the block in bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    process = psutil.Process()
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # returns memory that was freed before to the system
        libc.malloc_trim(0)
    start = most = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.01):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: most - start
    finally:
        done.set()
        watcher.join()


def flops(pipeline: Pipeline, photo: Image.Image, settings: dict[str, Any]) -> float:
    """Floating-point operations of the exact variant for a photo, extrapolated from two short calls to all steps."""
    pipeline.explain(photo, **settings)  # plans the memory now: in a counted call, planning would be counted, too
    attention = {ATTENTION_ON_CPU: lambda query, key, value, *_, **options: sdpa_flop_count(query, key, value)}
    # The counter does not know the operations with packed weights.
    counted = Variant("counted", Optimizations(pack_weights=False))
    steps = pipeline.resolve(settings).num_inference_steps
    counts = []
    for few in (1, 2):
        with FlopCounterMode(display=False, custom_mapping=attention) as counter:
            run(pipeline, counted, [photo], settings | {"num_inference_steps": few})
        counts.append(counter.get_total_flops())
    return counts[0] + (steps - 1) * (counts[1] - counts[0])


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix multiplication, the best of ten."""
    side = MATMUL_SIDE.get(device.type, LARGE_MATMUL_SIDE)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        wait_for(device)
        began = time.perf_counter()
        a @ b
        wait_for(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def mean_psnr(results: Sequence[Result], references: Sequence[Result]) -> float:
    """The mean PSNR over all channels, in dB."""
    pairs = zip(results, references, strict=True)
    scores = [psnr(np.asarray(a.image), np.asarray(b.image), channel="rgb", crop=0) for a, b in pairs]
    return float(np.mean(scores))


def picture(side: int, seed: int) -> Image.Image:
    """An artificial photo for measurements, with smooth colours and grain."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), float)
    return Image.fromarray((smooth + generator.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8))


@torch.no_grad()
def random_stable_diffusion(device: torch.device, dtype: torch.dtype) -> Pipeline:
    """XPSR for Stable Diffusion 1.5 in full size, with random weights, which are as fast as trained weights."""
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    registry = Registry([])
    with torch.device("meta"), registry.in_force():
        unet, controlnet = XPSRUNet(**UNET), XPSRControlNet(**CONTROLNET)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    backbone: Any = StableDiffusion()
    backbone.tokenizer = CLIPTokenizer.from_pretrained(PRESETS / "nano" / "tokenizer")
    backbone.text_encoder = CLIPTextModel(text).to(device, dtype)
    backbone.scheduler = UniPCMultistepScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    unet, controlnet, backbone.vae = (_filled(model, device, dtype) for model in (unet, controlnet, vae))
    pipeline = Pipeline(**parts_of(backbone), unet=unet, controlnet=controlnet)
    with registry.in_force():
        pipeline.configure(backbone=backbone)
    return pipeline


def _filled(model: nn.Module, device: torch.device, dtype: torch.dtype) -> Any:
    """Move a model from the meta device to a real one, with small random weights."""
    model = nn.Module.to(model, dtype=dtype).to_empty(device=device).eval()
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.uniform_(-1, 1).mul_(weight[0].numel() ** -0.5)
        else:
            weight.fill_(float(name.endswith("weight")))
    return model


def as_records(measured: Sequence[Measurement]) -> list[dict[str, Any]]:
    """The measurements as values that JSON can hold."""
    return [asdict(each) for each in measured]
