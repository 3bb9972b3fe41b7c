"""Checkpoints of a run. They are written under a temporary name and renamed when complete, and verified when they are
read. The newest ones and the best one are kept.

checkpoint-N/unet/, controlnet/    EMA weights in the published layout
checkpoint-N/state.pt              the state_dict() of the run: trained weights, optimiser, EMA weights, step
checkpoint-N/manifest.json         size and SHA-256 of each file
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, RootModel

from xpsr_sdk.errors import TrainingError, one_line
from xpsr_sdk.files.leftovers import is_temporary
from xpsr_sdk.files.reading import check_regular, read_json, validated
from xpsr_sdk.files.writing import whole_folder
from xpsr_sdk.training.files import writing

STATE = "state.pt"
MANIFEST = "manifest.json"
NAME = re.compile(r"checkpoint-(0|[1-9]\d{0,15})")
"""Other folders, such as copies that somebody made, are left alone."""


class RunState(BaseModel):
    """What a state file must hold, see ``TrainingRun.state_dict``."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    step: NonNegativeInt
    weights: dict[str, torch.Tensor]
    loss_terms: dict[str, torch.Tensor] = {}
    optimizer: dict[str, Any]
    ema: dict[str, Any] | None
    scaler: dict[str, Any] | None
    recent_losses: list[float]


class Fingerprint(BaseModel):
    """What a manifest says of a file."""

    size: NonNegativeInt
    sha256: str


class Manifest(RootModel[dict[str, Fingerprint]]):
    """What a manifest must hold: each file of the checkpoint but itself."""


class Checkpoints:
    """The checkpoints in a run's output folder.

    Args:
        output: The folder.
        keep: How many of the newest checkpoints are kept.
    """

    def __init__(self, output: Path, keep: int) -> None:
        self._output, self._keep = output, keep

    def folder_of(self, step: int) -> Path:
        """The folder of the checkpoint after ``step`` steps."""
        return self._output / f"checkpoint-{step}"

    def write(self, step: int, write_models: Callable[[Path], object], state: Callable[[], Mapping[str, Any]]) -> None:
        """Write the checkpoint after ``step`` steps. If it fails, no incomplete checkpoint remains.

        Args:
            step: The number of finished steps.
            write_models: Writes the models into a folder.
            state: Returns everything else that the run needs to continue: its ``state_dict``.

        Raises:
            TrainingError: The checkpoint cannot be written. Older checkpoints stay as they are.
        """
        target = self.folder_of(step)
        with writing(target), whole_folder(target) as folder:
            write_models(folder)
            torch.save(_canonical(state()), folder / STATE)
            _write_manifest(folder)

    def read_state(self, checkpoint: Path, device: torch.device) -> dict[str, Any]:
        """The run's state in a checkpoint.

        Raises:
            TrainingError: It is not the state of a run.
        """
        file = checkpoint / STATE
        try:
            # accelerate calls the CPU of several processes cpu:0, which torch.load does not know.
            state = torch.load(file, map_location=device if device.type != "cpu" else "cpu", weights_only=True)
        except Exception as error:  # what is no such file fails anywhere
            raise TrainingError(f"{file} cannot be read: {one_line(error)}; choose another output.") from error
        validated(RunState, state, str(file), TrainingError)
        found: dict[str, Any] = state
        return found

    def newest(self) -> Path | None:
        """The newest undamaged checkpoint, or None if there are no checkpoints. Damaged ones cause a warning.

        Raises:
            TrainingError: There are checkpoints, but all are damaged.
        """
        found = self._all()
        for folder in reversed(found):
            if not (damage := _damage(folder)):
                return folder
            warnings.warn(f"{folder} is damaged, and the run does not continue from it: {damage}.", stacklevel=2)
        if found:
            raise TrainingError(
                f"Every checkpoint in {self._output} is damaged: delete them to start again, or choose another output."
            )
        return None

    def remove_partial(self) -> None:
        """Remove incomplete checkpoints of runs that were killed while they wrote."""
        for partial in self._output.glob(".checkpoint-*"):
            if is_temporary(partial.name):
                shutil.rmtree(partial, ignore_errors=True)

    def remove_old(self, best: int | None) -> None:
        """Remove all checkpoints except the newest, and except that of the step ``best``."""
        for old in self._all()[: -self._keep]:
            if old != (best is not None and self.folder_of(best)):
                shutil.rmtree(old)

    def steps(self) -> list[int]:
        """The steps of all checkpoints."""
        return [_step(folder) for folder in self._all()]

    def _all(self) -> list[Path]:
        folders = self._output.glob("checkpoint-*")
        found = (folder for folder in folders if NAME.fullmatch(folder.name) and (folder / STATE).is_file())
        return sorted(found, key=_step)


def _canonical(value: Any) -> Any:
    """A copy of a state but for its tensors, in which equal values are pickled as equal bytes.

    Pickle writes an object that occurs twice only once, so that the bytes would tell which equal texts and tuples are
    one object, and that is not the same after a resume.
    """
    if isinstance(value, dict):
        return {_canonical(name): _canonical(inner) for name, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_canonical, value))
    return sys.intern(value) if type(value) is str else value


def _write_manifest(folder: Path) -> None:
    """Write the size and the hash of every file, after everything is flushed to the disk."""
    files = {}
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        with file.open("r+b") as content:
            os.fsync(content.fileno())
        files[file.relative_to(folder).as_posix()] = _fingerprint(file).model_dump()
    (folder / MANIFEST).write_text(json.dumps(files, indent=2), encoding="utf-8")


def _damage(folder: Path) -> str:
    """What is wrong with a checkpoint, or an empty text."""
    try:
        file = folder / MANIFEST
        files = validated(Manifest, read_json(file, TrainingError), str(file), TrainingError).root
        if STATE not in files:
            return f"{MANIFEST} does not list {STATE}"
        for name in files:
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                return f"{MANIFEST} names a file outside of the checkpoint, {name!r}"
        wrong = [name for name, fingerprint in files.items() if _fingerprint(folder / name) != fingerprint]
    except TrainingError as error:
        return str(error).rstrip(".")
    except (OSError, ValueError) as error:
        return one_line(error)
    return f"{wrong[0]} has changed since it was written" if wrong else ""


def _fingerprint(file: Path) -> Fingerprint:
    check_regular(file, TrainingError)
    with file.open("rb") as content:
        return Fingerprint(size=file.stat().st_size, sha256=hashlib.file_digest(content, "sha256").hexdigest())


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
