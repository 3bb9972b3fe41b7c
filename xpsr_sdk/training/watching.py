"""What a run tells about itself: a log in its output folder, figures and pictures of validation, and trackers.

log.jsonl              a line every log_every steps
validation.jsonl       a line for each look at held-out images
validation/step-N.png  what was seen: LR, bicubic, restored, HR
config.json            the config
trackers/              TensorBoard's files, if it is installed
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from PIL import Image

from xpsr_sdk.data.images import write_image, write_whole
from xpsr_sdk.errors import ConfigError, ImageError, TrainingError, did_you_mean
from xpsr_sdk.evaluation.report import LOWER_IS_BETTER
from xpsr_sdk.training.config import TrainConfig, ValidationSection
from xpsr_sdk.training.state import Checkpoints, writing

PROJECT = "xpsr"


class Log:
    """Writes what happens in a run; in other processes than the main one it writes nothing.

    Args:
        config: The run.
        accelerator: Its processes, device and trackers.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator) -> None:
        self._config, self._accelerator = config, accelerator
        self._folder = config.output
        self._checkpoints = Checkpoints(config.output, config.keep_checkpoints)

    def begin(self, step: int) -> None:
        """Forget what was logged beyond ``step``, from where the run goes on, and start the trackers."""
        if self._accelerator.is_main_process:
            for name in ("log.jsonl", "validation.jsonl"):
                if (self._folder / name).exists():
                    lines = [line for line in read_lines(self._folder / name) if line["step"] <= step]
                    self._write(self._folder / name, "".join(json.dumps(line) + "\n" for line in lines))
            self._write(self._folder / "config.json", self._config.model_dump_json(indent=2, exclude_unset=True) + "\n")
        flat = {name: str(value) for name, value in self._config.model_dump(mode="json").items()}
        options = {"tensorboard": {"purge_step": step + 1}, "wandb": {"name": self._folder.name}}
        if self._accelerator.log_with:
            self._accelerator.init_trackers(PROJECT, config=flat, init_kwargs=options)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of a step, beside the peak of the memory."""
        line = {"step": step, **values, "peak_memory": _peak_memory(self._accelerator.device)}
        if self._accelerator.is_main_process:
            self._append(self._folder / "log.jsonl", line)
        self._accelerator.log({name: value for name, value in line.items() if name != "step"}, step=step)

    def write_figures(self, step: int, figures: Mapping[str, float], grid: Image.Image) -> None:
        """Log figures of held-out images, and the picture of some. The figures come last: they say that it is done."""
        try:
            write_image(grid, self._folder / "validation" / f"step-{step}.png")
        except ImageError as error:
            raise TrainingError(str(error)) from error
        self._append(self._folder / "validation.jsonl", {"step": step, **figures})
        self._accelerator.log({f"validation/{name}": value for name, value in figures.items()}, step=step)
        for tracker in self._accelerator.trackers:
            if hasattr(tracker, "log_images"):
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"validation": np.asarray(grid)[None]}, step=step, **layout)

    def has_figures(self, step: int) -> bool:
        """Whether held-out images were looked at after ``step`` steps."""
        return any(line["step"] == step for line in self._figures())

    def best(self, section: ValidationSection) -> int | None:
        """The step of the best checkpoint that there is, of those that were looked at."""
        metric = section.best or section.metrics[0]
        sign = -1 if metric in LOWER_IS_BETTER else 1
        there = set(self._checkpoints.steps())
        scores = {line["step"]: sign * line[metric] for line in self._figures() if line["step"] in there}
        return max(scores, key=lambda step: scores[step], default=None)

    def close(self) -> None:
        """Let the trackers write what they still hold."""
        for tracker in self._accelerator.trackers:  # not end_training, which would end the processes' group as well
            tracker.finish()

    def _figures(self) -> list[dict[str, Any]]:
        file = self._folder / "validation.jsonl"
        return read_lines(file) if file.exists() else []

    def _append(self, file: Path, line: Mapping[str, Any]) -> None:
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")

    def _write(self, file: Path, text: str) -> None:
        try:
            write_whole(file, lambda out: out.write(text.encode()))
        except ImageError as error:
            raise TrainingError(str(error)) from error


def trackers_of(config: TrainConfig) -> tuple[str, ...]:
    """The trackers of a run.

    Raises:
        ConfigError: One is unknown or not installed.
    """
    installed = {str(tracker.value) for tracker in get_available_trackers()}
    if config.trackers is None:
        return ("tensorboard",) if "tensorboard" in installed else ()
    for name in config.trackers:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ConfigError(f"trackers: there is no tracker {name!r}. {did_you_mean(name, LOGGER_TYPE_TO_CLASS)}")
        if name not in installed:
            raise ConfigError(f"trackers: {name} is not installed: pip install {name}.")
    return config.trackers


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a log; one that was cut off by a kill is left out."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _peak_memory(device: torch.device) -> float:
    """In GiB: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset / 2**30)
    import resource  # which Windows does not have

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
