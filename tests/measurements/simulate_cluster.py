"""Predicts how a run scales to many workers, and draws docs/images/cluster-scaling.png.

    python -m tests.measurements.simulate_cluster

An event model of ``xpsr_sdk.runners.crew``: the driver hands one input at a time to each worker, and spends
``dispatch`` seconds on each. A worker starts, loads its models once, and then fetches, works and sends. Some workers
are slow, and some die and are replaced. ``dispatch`` was measured by ``tests.measurements.runners``, and the work of
nano is the processor time of its first photo; the other numbers are assumptions.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, replace
from pathlib import Path

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
PLOT = Path("docs/images/cluster-scaling.png")


@dataclass(frozen=True)
class Model:
    """What a run is made of. Times are in seconds.

    Attributes:
        name: What is done.
        service: Mean time of the work on an input.
        inputs: The number of inputs.
        dispatch: Time that the driver spends on an input, on whose own the inputs wait.
        storage: Mean time to fetch an input and to send its output.
        start: Mean time to start a worker and to load its models.
        spread: Standard deviation of the logarithm of each of these times, but the driver's.
        slow: The share of workers that take ``slow_factor`` times as long.
        slow_factor: See ``slow``.
        deaths: How often a worker dies in an hour.
    """

    name: str
    service: float
    inputs: int
    dispatch: float
    storage: float = 0.1
    start: float = 60.0
    spread: float = 0.3
    slow: float = 0.02
    slow_factor: float = 2.0
    deaths: float = 0.05


def simulated(model: Model, workers: int, seed: int = 0) -> float:
    """Seconds until all inputs are done."""
    random_ = random.Random(seed)

    def drawn(mean: float) -> float:
        return mean * random_.lognormvariate(-(model.spread**2) / 2, model.spread)

    pace = [model.slow_factor if random_.random() < model.slow else 1.0 for _ in range(workers)]
    free = [(drawn(model.start), worker) for worker in range(workers)]
    heapq.heapify(free)
    left, driver, end = model.inputs, 0.0, 0.0
    while left:
        ready, worker = heapq.heappop(free)
        driver = max(driver, ready) + model.dispatch
        busy = pace[worker] * drawn(model.service) + drawn(model.storage)
        if random_.random() < busy * model.deaths / 3600:  # the input is tried again, and the worker replaced
            heapq.heappush(free, (driver + busy / 2 + drawn(model.start), worker))
            continue
        left -= 1
        end = max(end, driver + busy)
        heapq.heappush(free, (driver + busy, worker))
    return end


def efficiency(model: Model, workers: int) -> float:
    """Photos a second of many workers, as a share of as many times what one does once it is warm."""
    ideal = model.inputs * (model.service + model.storage) / workers
    return ideal / simulated(model, workers)


DISPATCH = 0.005
"""Measured with Ray on one busy core, which driver, workers and Ray's own processes shared."""
MODELS = (
    Model("nano, a small photo on a CPU core", service=7.3, inputs=200_000, dispatch=DISPATCH),
    Model("a 7B captioner, batches of 16 photos", service=8.0, inputs=62_500, dispatch=DISPATCH, start=180.0),
    Model("Stable Diffusion, 4 megapixels on a GPU", service=20.0, inputs=50_000, dispatch=DISPATCH, storage=0.5),
)


def main() -> None:
    """Print the table and draw the plot."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    print("| work | inputs | 2 workers | 64 workers | 1,000 workers |\n|---|---|---|---|---|")
    for model in MODELS:
        shares = {workers: efficiency(model, workers) for workers in WORKERS}
        cells = [f"{workers * shares[workers] / (model.service + model.storage):,.1f}/s ({shares[workers]:.0%})"
                 for workers in (2, 64, 1000)]  # fmt: skip
        print(f"| {model.name} | {model.inputs:,} | {' | '.join(cells)} |")
        axes.plot(WORKERS, [100 * share for share in shares.values()], marker="o", label=model.name)
    without = replace(MODELS[0], slow=0.0, deaths=0.0, start=1.0)
    print(f"Without slow and dying workers and starts, the first: {efficiency(without, 64):.0%} of 64 workers.")
    axes.set(xscale="log", xlabel="workers", ylabel="efficiency (%)", ylim=(0, 105))
    axes.legend(loc="lower left")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(PLOT, dpi=110)


if __name__ == "__main__":
    main()
