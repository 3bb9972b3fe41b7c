"""The device, the precision, the processes and the trackers of a run, set up with accelerate."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs

from xpsr_sdk.errors import ConfigError, did_you_mean
from xpsr_sdk.hardware.devices import find_device
from xpsr_sdk.library_internals import reset_accelerate
from xpsr_sdk.training.config import LossSection, TrainConfig


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Set up the device, the processes and the trackers of a run.

    Raises:
        ConfigError: The device, the precision, the batch size and the number of processes do not fit together, or a
            tracker is unknown or not installed.
    """
    device = find_device(config.device)
    if config.precision == "float16" and device.type == "cpu":
        raise ConfigError("precision is float16, which needs a GPU for training: use bfloat16.")
    is_launched = "RANK" in os.environ  # by accelerate launch or torchrun
    reset_accelerate(keep_processes=is_launched)  # an earlier run may have used another precision or device
    if device.type == "cuda" and device.index is not None and not is_launched:
        torch.cuda.set_device(device)
    accelerator = Accelerator(
        mixed_precision={"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[config.precision],
        cpu=device.type == "cpu",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=_may_leave_some_unused(config.loss))],
        log_with=list(trackers_of(config)) or None,
        project_dir=config.output / "trackers",
    )
    shares = config.gradient_accumulation * accelerator.num_processes
    if config.batch_size % shares:
        raise ConfigError(
            f"batch_size is {config.batch_size}: it must be a multiple of {shares}, the gradient_accumulation"
            f" ({config.gradient_accumulation}) times the processes ({accelerator.num_processes})."
        )
    return accelerator


def _may_leave_some_unused(loss: LossSection) -> bool:
    """Whether a parameter may get no gradient in a step: the constraint's heads without it, or those of other terms."""
    used = {label for label, term in loss.terms.items() if term.weight}
    return not {"constraint"} <= used <= {"diffusion", "constraint", "perceptual"}


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
