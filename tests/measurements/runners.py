"""Measures what runners cost, for docs/guides/clusters.md.

    python -m tests.measurements.runners overhead --runner ray       # milliseconds a photo with empty work
    python -m tests.measurements.runners scaling --runner local      # photos a second of 1 and 2 workers, nano
    python -m tests.measurements.runners memory --runner ray         # of the driver, with 200,000 empty inputs

Set OMP_NUM_THREADS=1 for the scaling: a worker is then a core.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from xpsr_sdk import PipelineConfig, Registry
from xpsr_sdk.cli.restoration import RestorationWork
from xpsr_sdk.config import OutputConfig, RunnerConfig
from xpsr_sdk.runners.choice import find_runner
from xpsr_sdk.runners.work import Runner

PHOTO = Path("examples/photo.jpg")


class Empty:
    """Work that does nothing."""

    @contextmanager
    def warm(self) -> Iterator[Callable[[int], int]]:
        yield abs


def timed(runner: Runner, work: Any, inputs: list[Any] | range, workers: int) -> tuple[float, int]:
    """Seconds from the first results, when all workers are warm, to the last; and the number of inputs of that time."""
    skipped = 4 * workers
    start = 0.0
    for number, done in enumerate(runner.run(work, inputs)):
        done.result()
        if number == skipped:
            start = time.perf_counter()
    return time.perf_counter() - start, len(inputs) - skipped - 1


def overhead(config: RunnerConfig, count: int) -> None:
    """Print milliseconds a photo with empty work."""
    seconds, inputs = timed(find_runner(config), Empty(), range(count), config.workers)
    print(f"{config.runner}, {config.workers} workers: {1000 * seconds / inputs:.2f} ms a photo")


def scaling(config: RunnerConfig, count: int) -> None:
    """Print photos a second of 1 and 2 workers."""
    rates = {}
    for workers in (1, 2):
        runner = find_runner(config.model_copy(update={"workers": workers, "worker_timeout": 600.0}))
        with tempfile.TemporaryDirectory() as folder:
            settings = PipelineConfig(device="cpu", scale=2, num_inference_steps=2, seed=0)
            work = RestorationWork(settings, OutputConfig(), Registry([]))
            jobs = [(PHOTO.resolve(), Path(folder, f"{number}.png")) for number in range(count)]
            seconds, inputs = timed(runner, work, jobs, workers)
        rates[workers] = inputs / seconds
        print(f"{config.runner}, {workers} workers: {rates[workers]:.3f} photos/s", flush=True)
    print(f"efficiency of two workers: {rates[2] / rates[1] / 2:.2f}")


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
    given = parser.parse_args()
    chosen = RunnerConfig(runner=given.runner, workers=given.workers, worker_gpus=0 if given.runner == "ray" else None)
    counts = {"overhead": 5000, "scaling": 30, "memory": 200_000}
    {"overhead": overhead, "scaling": scaling, "memory": memory}[given.what](chosen, given.count or counts[given.what])
