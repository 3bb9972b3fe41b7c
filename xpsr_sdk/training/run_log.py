"""The reports of a run: a log in its output folder, the results of validation, and trackers.

log.jsonl              a line every log_every steps
validation.jsonl       a line of metrics for each validation
validation/step-N.png  some held-out images: LR, bicubic, restored, HR
config.json            the config
trackers/              TensorBoard's files, if it is installed
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from accelerate import Accelerator
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xpsr_sdk.data.images import write_image
from xpsr_sdk.errors import ImageError, TrainingError
from xpsr_sdk.evaluation.chosen import ChosenMetric
from xpsr_sdk.files.reading import json_lines, read_bytes
from xpsr_sdk.files.writing import write_whole
from xpsr_sdk.hardware.process_memory import peak_memory
from xpsr_sdk.training.config import TrainConfig
from xpsr_sdk.training.files import writing

PROJECT = "xpsr"
LARGEST_LOG = 2**30
"""Bytes of a log that is read."""


class RunLog:
    """The log of a run and of its validation. Only the main process writes files.

    Args:
        config: The run.
        accelerator: Its processes, device and trackers.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator) -> None:
        self._config, self._accelerator = config, accelerator
        self._folder = config.output

    def start(self, step: int) -> None:
        """Start the trackers, and remove lines after ``step``, the step from which the run continues."""
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

    def log_step(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of a step, and the peak memory."""
        line = {"step": step, **values, "peak_memory": peak_memory(self._accelerator.device)}
        if self._accelerator.is_main_process:
            self._append(self._folder / "log.jsonl", line)
        self._accelerator.log({name: value for name, value in line.items() if name != "step"}, step=step)

    def log_validation(
        self, step: int, metrics: Mapping[str, float], grid: Image.Image, restored: Sequence[Image.Image] = ()
    ) -> None:
        """Log the metrics of held-out images, and pictures. The line is written last: it marks the end."""
        try:
            write_image(grid, self._folder / "validation" / f"step-{step}.png")
            write_numbered(restored, self._folder / "validation" / f"step-{step}")
        except ImageError as error:
            raise TrainingError(str(error)) from error
        self._append(self._folder / "validation.jsonl", {"step": step, **metrics})
        self._accelerator.log({f"validation/{name}": value for name, value in metrics.items()}, step=step)
        for tracker in self._accelerator.trackers:
            if hasattr(tracker, "log_images"):
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"validation": np.asarray(grid)[None]}, step=step, **layout)

    def has_validation(self, step: int) -> bool:
        """Whether the run was validated after ``step`` steps."""
        return any(line["step"] == step for line in self._validations())

    def best_step(self, chosen: ChosenMetric, steps: Iterable[int]) -> int | None:
        """The step among ``steps`` with the best validation by that metric, or None if none was validated."""
        sign = -1 if chosen.metric.lower_is_better else 1
        candidates = set(steps)
        lines = [line for line in self._validations() if isinstance(line.get(chosen.name), int | float)]
        scores = {line["step"]: sign * line[chosen.name] for line in lines if line["step"] in candidates}
        return max(scores, key=lambda step: scores[step], default=None)

    def close(self) -> None:
        """Let the trackers write everything that they still hold."""
        for tracker in self._accelerator.trackers:  # end_training would also end the process group
            tracker.finish()

    def _validations(self) -> list[dict[str, Any]]:
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


def write_numbered(images: Sequence[Image.Image], folder: Path) -> None:
    """Write images as ``0000.png``, ``0001.png`` and so on.

    Raises:
        ImageError: A file cannot be written.
    """
    for number, image in enumerate(images):
        write_image(image, folder / f"{number:04}.png")


class LogLine(BaseModel):
    """A line of a log: the step, and what was measured at it."""

    model_config = ConfigDict(extra="allow")

    step: Annotated[int, Field(strict=True, ge=0)]


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a log. A line that is incomplete, because the process was killed, is left out.

    Raises:
        TrainingError: The log cannot be read.
    """
    found = []
    for values in json_lines(read_bytes(file, TrainingError, LARGEST_LOG).decode(errors="replace").split("\n")):
        with suppress(ValidationError):
            found.append(LogLine.model_validate(values).model_dump())
    return found
