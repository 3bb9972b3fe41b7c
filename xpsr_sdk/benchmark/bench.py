"""Measures how much faster the optimizations of the engine are, as ratios within one run."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from xpsr_sdk.benchmark.variants import Variant
from xpsr_sdk.data.photo import load_photo
from xpsr_sdk.engine.clock import wait_for
from xpsr_sdk.engine.execution import Optimizations
from xpsr_sdk.evaluation.metrics import psnr
from xpsr_sdk.library_internals import ATTENTION_ON_CPU
from xpsr_sdk.pipeline import Pipeline
from xpsr_sdk.result import Result

MATMUL_SIDE = {"cpu": 2048}
LARGE_MATMUL_SIDE = 8192
"""Side of the matrices for measuring the peak of a device. Their product must take much longer than its launch."""


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
        few = settings if variant.execution.compile else settings | {"num_inference_steps": 2}
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
                variant=variant.name,
                size=size,
                batch=batch,
                dtype=plan.dtype,
                steps=plan.settings.num_inference_steps,
                seconds=took,
                times_baseline=seconds[chosen[0].name] / took,
                share_of_peak=None if approximate else work / peak / took,
                peak_bytes=max(each.peak_bytes for each in runs[variant.name]),
                psnr_to_exact=mean_psnr(first.results, exact) if exact and approximate else None,
                warm_up=warm_up[variant.name],
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


def as_records(measured: Sequence[Measurement]) -> list[dict[str, Any]]:
    """The measurements as values that JSON can hold."""
    return [asdict(each) for each in measured]
