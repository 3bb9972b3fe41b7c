"""Checkpoints: written aside and renamed when whole, verified when they are read, the newest and the best kept.

checkpoint-N/unet/, controlnet/    averaged weights in the published form
checkpoint-N/state.pt              what a run needs to go on: trained weights, optimiser, averages
checkpoint-N/manifest.json         size and SHA-256 of each file
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from xpsr_sdk.data.samples import Batch
from xpsr_sdk.errors import TrainingError, one_line
from xpsr_sdk.models.checkpoints import whole_folder, write_model
from xpsr_sdk.training.lora import merged_state
from xpsr_sdk.training.objective import StepInputs
from xpsr_sdk.training.sharding import gathered

if TYPE_CHECKING:
    from xpsr_sdk.training.loop import TrainingRun

MANIFEST = "manifest.json"


class Checkpoints:
    """The checkpoints in a run's output folder.

    Args:
        output: The folder.
        keep: How many of the newest stay.
    """

    def __init__(self, output: Path, keep: int) -> None:
        self._output, self._keep = output, keep

    def folder_of(self, step: int) -> Path:
        """Where the checkpoint after ``step`` steps is."""
        return self._output / f"checkpoint-{step}"

    def tidy(self) -> None:
        """Remove what runs left behind that were killed while they wrote."""
        for partial in self._output.glob(".checkpoint-*"):
            shutil.rmtree(partial, ignore_errors=True)

    def newest(self) -> Path | None:
        """The newest whole checkpoint, or None where there is none at all. Damaged ones are warned of.

        Raises:
            TrainingError: There are checkpoints, but all are damaged.
        """
        found = self._all()
        for folder in reversed(found):
            if not (damage := _damage(folder)):
                return folder
            warnings.warn(f"{folder} is damaged and is not gone on from: {damage}.", stacklevel=2)
        if found:
            raise TrainingError(
                f"Every checkpoint in {self._output} is damaged: delete them to begin anew, or choose another output."
            )
        return None

    def let_go(self, best: int | None) -> None:
        """Remove all but the newest, and that of the step ``best``."""
        for old in self._all()[: -self._keep]:
            if old != (best is not None and self.folder_of(best)):
                shutil.rmtree(old)

    def steps(self) -> list[int]:
        """The steps that there are checkpoints of."""
        return [_step(folder) for folder in self._all()]

    def _all(self) -> list[Path]:
        found = (folder for folder in self._output.glob("checkpoint-*") if (folder / "state.pt").is_file())
        return sorted(found, key=_step)


def save(run: TrainingRun) -> None:
    """Write a run's checkpoint. All processes must call this together; the main one writes.

    Raises:
        TrainingError: It cannot be written; older checkpoints stay as they are.
    """
    networks: dict[str, Any] = {"unet": run.unet, "controlnet": run.controlnet}
    if not run.accelerator.is_main_process:
        for network in networks.values():
            gathered(merged_state(network))  # the main process needs this one's shards
        return
    target = run.checkpoints.folder_of(run.step)
    with writing(target), whole_folder(target) as folder:
        with run.averaged_weights():
            for name, network in networks.items():
                write_model(network, folder / name, gathered(merged_state(network)))
            if run.trains_text:
                _add_rest_of_model(run, folder)
        torch.save(_state_of(run), folder / "state.pt")
        _write_manifest(folder)


def restore(run: TrainingRun, checkpoint: Path) -> None:
    """Bring a run to where it was when it wrote the checkpoint.

    Raises:
        TrainingError: The checkpoint holds other parameters than those that are trained, or of other shapes.
    """
    state = torch.load(checkpoint / "state.pt", map_location=run.device, weights_only=True)
    found, expected = ({n: x.shape for n, x in ws.items()} for ws in (state["weights"], run.trained))
    if found.keys() != expected.keys():
        raise TrainingError(f"{checkpoint} trains other parameters than this config: choose another output.")
    if found != expected:
        name = next(name for name in found if found[name] != expected[name])
        raise TrainingError(
            f"{checkpoint} is of another architecture than this config: {name} has shape"
            f" {tuple(found[name])}, not {tuple(expected[name])}; choose another output."
        )
    with torch.no_grad():
        for name, parameter in run.trained.items():
            parameter.copy_(state["weights"][name])
    run.optimizer.load_state_dict(state["optimizer"])
    if run.ema is not None:
        if state["ema"] is None:
            raise TrainingError(f"{checkpoint} holds no averages: set optimizer.ema_decay to 0, or another output.")
        run.ema.load_state_dict(state["ema"])
    if run.accelerator.scaler is not None and state["scaler"]:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    run.recent_losses.extend(state["recent_losses"])
    run.step = state["step"]


def _state_of(run: TrainingRun) -> dict[str, Any]:
    scaler = run.accelerator.scaler
    return {
        "step": run.step,
        "weights": {name: parameter.detach() for name, parameter in run.trained.items()},
        "optimizer": run.optimizer.state_dict(),
        "ema": None if run.ema is None else run.ema.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "recent_losses": list(run.recent_losses),
    }


def _add_rest_of_model(run: TrainingRun, folder: Path) -> None:
    """A run that trains its own text encoder leaves whole models: a later run can take them as its base."""
    base = run.config.model.base
    run.backbone.text_encoder.save_pretrained(folder / "text_encoder")
    for part in ("tokenizer", "scheduler", "vae"):
        shutil.copytree(base / part, folder / part)
    (folder / "model_index.json").write_text(json.dumps(run.model_index, indent=2) + "\n", encoding="utf-8")


def keep_batch(run: TrainingRun, batch: Batch, inputs: StepInputs) -> Path:
    """Write what a step that failed was fed with, to be studied: ``failed-step-N/`` in the output folder."""
    target = run.config.output / f"failed-step-{run.step}"
    if run.accelerator.is_main_process:
        tensors = {name: tensor for name, tensor in vars(inputs).items()}
        with writing(target), whole_folder(target) as folder:
            save_file(
                {name: x.detach().cpu().contiguous() for name, x in tensors.items()}, folder / "inputs.safetensors"
            )
            words = {"positions": batch.positions, "high": batch.high, "low": batch.low}
            (folder / "batch.json").write_text(json.dumps(words, indent=2, ensure_ascii=False), encoding="utf-8")
    return target


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn what goes wrong in the block into a ``TrainingError`` about ``target``."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # the last two: a full disk in torch and in safetensors
        raise TrainingError(f"{target} cannot be written: {one_line(error)}") from error


def _write_manifest(folder: Path) -> None:
    """Size and hash of every file, as they are read back; by then what is written is on the disk."""
    files = {}
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        with file.open("r+b") as content:
            os.fsync(content.fileno())
        files[str(file.relative_to(folder))] = _fingerprint(file)
    (folder / MANIFEST).write_text(json.dumps(files, indent=2), encoding="utf-8")


def _damage(folder: Path) -> str:
    """What is wrong with a checkpoint, or nothing."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        wrong = [name for name, fingerprint in files.items() if _fingerprint(folder / name) != fingerprint]
    except (OSError, ValueError, AttributeError) as error:
        return one_line(error)
    return f"{wrong[0]} is not as it was written" if wrong else ""


def _fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as content:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
