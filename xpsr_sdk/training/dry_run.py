"""Reports what a training run would do, without writing anything: ``xpsr train --dry-run``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.training.config import TrainConfig
from xpsr_sdk.training.loop import TrainingRun
from xpsr_sdk.training.memory import StepMemory, step_memory
from xpsr_sdk.training.optimizer import group_of

MEASURED_STEPS = 3


@dataclass(frozen=True)
class DryRun:
    """What a run would do.

    Attributes:
        trained: The number of trained parameters in each group.
        frozen: The number of frozen parameters in each network.
        images: The number of images.
        steps: The number of remaining steps.
        epochs: How often each image is drawn in these steps.
        seconds: The time of a step, as the mean of those that were measured.
        measured: The number of measured steps.
        memory: The memory that a step needs in one process.
        processes: The number of processes.
    """

    trained: dict[str, int]
    frozen: dict[str, int]
    images: int
    steps: int
    epochs: float
    seconds: float
    measured: int
    memory: StepMemory
    processes: int

    def parameters(self) -> Table:
        """The parameters, as a table."""
        table = Table("part", "trained", "frozen")
        for name in sorted(self.trained.keys() | self.frozen.keys()):
            table.add_row(name, *(f"{counts.get(name, 0) / 1e6:.2f} M" for counts in (self.trained, self.frozen)))
        table.add_row("total", *(f"{sum(counts.values()) / 1e6:.2f} M" for counts in (self.trained, self.frozen)))
        return table

    def sentences(self) -> Iterator[str]:
        """Sentences about memory, time and images."""
        parts = ", ".join(f"{name} {size}" for name, size in self.memory.rows() if name != "total")
        yield f"Memory of a step: {dict(self.memory.rows())['total']} of tensors ({parts})."
        hours, minutes = divmod(round(self.steps * self.seconds / 60), 60)
        yield (
            f"{self.steps} steps of {self.seconds:.2f} s, measured on {self.measured} of them: {hours} h {minutes} min"
            f" on {self.processes} {'process' if self.processes == 1 else 'processes'}."
        )
        yield f"{self.images} images, each drawn {self.epochs:.1f} times. Nothing was written."


def dry_run(config: TrainConfig, registry: Registry | None = None) -> DryRun:
    """Build all parts of a run, count the memory of a step, and time three steps. Raises the errors of ``train``."""
    # Images are drawn for as many steps as are run here, even if the run itself has fewer.
    run = TrainingRun(config.model_copy(update={"steps": max(config.steps, 1 + MEASURED_STEPS)}), registry)
    run.accelerator.wait_for_everyone()
    done = max(run.checkpoints.steps(), default=0)
    networks = {
        "unet": run.unet, "controlnet": run.controlnet, **run.text_encoders, "vae": run.backbone.vae,
        **run.terms.networks(),
    }  # fmt: skip
    batch = run.data.batch(range(config.batch_size // (config.gradient_accumulation * run.accelerator.num_processes)))
    memory = step_memory(
        networks.values(), run.trained, config.optimizer.name, lambda: run.losses(run.draw(batch))["loss"]
    )
    took = []
    for _ in range(min(MEASURED_STEPS + 1, config.steps)):
        began = time.perf_counter()
        run.one_step()
        took.append(time.perf_counter() - began)
    measured = took[1:] or took  # the first one is slower: it makes the optimiser's state, and may compile
    seconds = sum(measured) / len(measured)
    trained, frozen = Counter[str](), Counter[str]()
    for name, parameter in run.trained.items():
        trained[group_of(name)] += parameter.numel()
    for name, network in networks.items():
        frozen[name] = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    steps = config.steps - done
    epochs = steps * config.batch_size / len(run.data)
    return DryRun(
        dict(trained),
        dict(frozen),
        len(run.data),
        steps,
        epochs,
        seconds,
        len(measured),
        memory,
        run.accelerator.num_processes,
    )
