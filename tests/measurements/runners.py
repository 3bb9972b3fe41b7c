"""Measures what runners cost, for docs/guides/clusters.md.

    python -m tests.measurements.runners overhead --runner ray       # milliseconds a photo with empty work
    python -m tests.measurements.runners scaling --work nano         # photos a second of 1 and 2 workers
    python -m tests.measurements.runners memory --runner ray         # of the driver, with 200,000 empty inputs

Set OMP_NUM_THREADS=1 for the scaling: a worker is then a core.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from xpsr_sdk import PipelineConfig, Registry
from xpsr_sdk.cli.restoration import RestorationWork
from xpsr_sdk.config import OutputConfig, RunnerConfig
from xpsr_sdk.contracts import PromptKey, PromptLevel
from xpsr_sdk.prompts.caption_folder import Batch, CaptionWork, Photo
from xpsr_sdk.runners.choice import find_runner
from xpsr_sdk.runners.work import Runner

PHOTO = Path("examples/photo.jpg")
ORIGINAL = Path("examples/photo-original.jpg")
BATCH = 16
"""Photos that are described together."""


class Empty:
    """Work that does nothing."""

    @contextmanager
    def warm(self) -> Iterator[Callable[[int], int]]:
        yield abs


class Took(NamedTuple):
    """What an input took: seconds, and seconds of a core in the command, its workers and its cluster together."""

    seconds: float
    cpu: float


def timed(runner: Runner, work: Any, inputs: Sequence[Any], skipped: int) -> Took:
    """What an input took from an early result on, when all workers were warm, to the last."""
    start = cpu = 0.0
    for number, done in enumerate(runner.run(work, inputs)):
        done.result()
        if number == skipped:
            start, cpu = time.perf_counter(), cpu_seconds()
        elif number == len(inputs) - 1:
            start, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    return Took(start / (len(inputs) - skipped - 1), cpu / (len(inputs) - skipped - 1))


def cpu_seconds() -> float:
    """What this process and all that it started have taken of the cores."""
    total = 0.0
    for process in (own := psutil.Process(), *own.children(recursive=True)):
        with suppress(psutil.Error):  # it ended
            total += sum(process.cpu_times()[:2])
    return total


def overhead(config: RunnerConfig, count: int) -> None:
    """Print milliseconds a photo with empty work."""
    took = timed(find_runner(config), Empty(), range(count), 4 * config.workers)
    print(f"{config.runner}, {config.workers} workers: {1000 * took.seconds:.2f} ms a photo")


def nano(folder: Path, count: int) -> tuple[Any, list[Any]]:
    """Restoring a photo with nano, and so many inputs."""
    settings = PipelineConfig(device="cpu", scale=2, num_inference_steps=2, seed=0)
    jobs = [(PHOTO.resolve(), folder / f"{number}.png") for number in range(count)]
    return RestorationWork(settings, OutputConfig(), Registry([])), jobs


def fixed(folder: Path, count: int) -> tuple[Any, list[Any]]:
    """Reading photos and describing them with a fixed text, and so many batches, all of different photos."""
    photos = [Photo(folder / f"{number}.jpg", f"{number}.jpg") for number in range(count * BATCH)]
    for photo in photos:
        photo.file.write_bytes(ORIGINAL.read_bytes() + photo.name.encode())
    levels: list[PromptLevel] = ["high", "low"]
    keys = {level: PromptKey("fixed", "") for level in levels}
    provider = {"name": "fixed", "high": "a house", "low": "sharp"}
    work = CaptionWork(provider, keys, Registry([]), folder / "prompts.sqlite", 100.0)
    return work, [Batch(photos[first : first + BATCH]) for first in range(0, len(photos), BATCH)]


def scaling(config: RunnerConfig, count: int, make: Callable[[Path, int], tuple[Any, list[Any]]], photos: int) -> None:
    """Print photos a second of 1 and 2 workers, with so many photos in an input.

    Other programs on the same cores make the seconds longer, but hardly the seconds of a core.
    """
    taken = {}
    for workers in (1, 2):
        runner = find_runner(config.model_copy(update={"workers": workers, "worker_timeout": 600.0}))
        with tempfile.TemporaryDirectory() as folder:
            took = timed(runner, *make(Path(folder), count), 2 * workers)
        taken[workers] = took
        rate, cpu = photos / took.seconds, 1000 * took.cpu / photos
        print(f"{config.runner}, {make.__name__}, {workers} workers: {rate:.3g} photos/s, {cpu:.1f} ms of a core each")
    print(f"efficiency of two workers: {taken[1].seconds / taken[2].seconds / 2:.2f}", end="")
    print(f", by the seconds of a core: {taken[1].cpu / taken[2].cpu:.2f}", flush=True)


def memory(config: RunnerConfig, count: int) -> None:
    """Print the memory of this process before and while many inputs pass it."""
    process = psutil.Process(os.getpid())
    runner, peak, begin = find_runner(config), 0, 0
    results = runner.run(Empty(), iter(range(count)))
    for number, done in enumerate(results):
        done.result()
        if number == 1000:
            begin = process.memory_info().rss
        if number % 1000 == 0:
            peak = max(peak, process.memory_info().rss)
    deque(results, maxlen=0)
    print(f"{config.runner}: {begin / 1e6:.0f} MB after 1,000 inputs, at most {peak / 1e6:.0f} MB of {count:,}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overhead", "scaling", "memory"])
    parser.add_argument("--runner", default="local")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--count", type=int)
    parser.add_argument("--work", choices=["nano", "fixed"], default="nano", help="what scaling is measured with")
    given = parser.parse_args()
    cluster = {"worker_gpus": 0, "address": "local"} if given.runner == "ray" else {}
    chosen = RunnerConfig(runner=given.runner, workers=given.workers, **cluster)
    number = given.count or {"overhead": 5000, "scaling": 30, "memory": 200_000}[given.what]
    if given.what == "scaling":
        logging.basicConfig(format="%(message)s")
        logging.getLogger("xpsr_sdk.runners").setLevel(logging.INFO)  # tells when each worker is warm
        scaling(chosen, number, *((nano, 1) if given.work == "nano" else (fixed, BATCH)))
    else:
        {"overhead": overhead, "memory": memory}[given.what](chosen, number)
