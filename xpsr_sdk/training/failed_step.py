"""Writes the inputs of a failed step, so that they can be examined: ``failed-step-N/`` in a run's output folder.

inputs.safetensors    images, latents, noise, timesteps and encoded prompts
batch.json            the images' positions in the run, and their prompts
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from xpsr_sdk.data.samples import Batch
from xpsr_sdk.files.writing import whole_folder
from xpsr_sdk.training.files import writing
from xpsr_sdk.training.objective import StepInputs


def write_failed_step(target: Path, batch: Batch, inputs: StepInputs) -> None:
    """Write the folder ``target``. If it fails, no incomplete folder remains.

    Raises:
        TrainingError: It cannot be written.
    """
    # Tensors are copied, since some share memory, which safetensors does not accept.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in inputs.tensors().items()}
    words = {"positions": batch.positions, "high": batch.high, "low": batch.low}
    with writing(target), whole_folder(target) as folder:
        save_file(tensors, folder / "inputs.safetensors")
        (folder / "batch.json").write_text(json.dumps(words, indent=2, ensure_ascii=False), encoding="utf-8")
