"""One metric of pyiqa. See ``xpsr_pyiqa.weights`` for where its weights come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from xpsr_pyiqa.names import HUB_MODELS, LEFT_OUT
from xpsr_pyiqa.weights import WeightFiles
from xpsr_sdk import ConfigError, Options
from xpsr_sdk.toolkit import did_you_mean

SMALLEST_SIDES = {"niqe": 96, "niqe_matlab": 96}
SMALLEST_SIDE = 32
"""Pixels that the deepest features of the usual networks need."""
SEED = 123
"""Of metrics that crop at random."""


class WeightOptions(Options):
    """Where the weights of a metric come from."""

    weights: Path | None = Field(
        None, description="Folder with the files of weights. None: pyiqa's cache, and what it lacks is downloaded."
    )
    allow_pickle: bool = Field(
        False, description="Read files that hold more than tensors. Pickled code can do anything: trust its source."
    )


LICENSE = "code of pyiqa: PolyForm Noncommercial 1.0.0; weights: those of their authors, many for research alone"


class PyiqaMetric:
    """A metric of single photos. See ``xpsr_sdk.Metric`` for the contract.

    Raises:
        ConfigError: There is no such metric.
        CheckpointError: A file of weights is missing or unusable.
    """

    license = LICENSE

    class Config(WeightOptions):
        """The options."""

        metric: str = Field("lpips", description="The name of the metric in pyiqa.")

    def __init__(self, config: Config | None = None) -> None:
        self._config = config or self.Config()
        settings = settings_of(self._config.metric)
        self.needs_reference = settings["metric_mode"] == "FR"
        self.lower_is_better = bool(settings.get("lower_better", False))
        self.min_side = SMALLEST_SIDES.get(self._config.metric, SMALLEST_SIDE)
        files = WeightFiles(self._config.weights, self._config.allow_pickle)
        self._net = files.build(self._config.metric, torch.device("cpu"))
        self._device = torch.device("cpu")
        self.storable = not self._config.metric.startswith(HUB_MODELS)
        variant = ", ".join(f"{key} {value}" for key, value in settings["metric_opts"].items())
        self.details = "; ".join([f"{variant}, on RGB; pyiqa {version('pyiqa')}", *files.used])

    def measure(self, images: Tensor, references: Tensor | None) -> Tensor:
        """One figure for each photo, B; see ``xpsr_sdk.Metric``."""
        net = self._net_on(images.device)
        photos = [images.float()] if references is None else [images.float(), references.float()]
        with _fixed_seed():
            result = net(*photos)
        figures: Tensor = result[0] if isinstance(result, tuple) else result
        return figures.reshape(len(images), -1).mean(dim=1)

    def _net_on(self, device: torch.device) -> Any:
        """Built anew on another device, since some of its tensors are no buffers, and would stay behind."""
        if device != self._device:
            files = WeightFiles(self._config.weights, self._config.allow_pickle)
            self._net, self._device = files.build(self._config.metric, device), device
        return self._net


def settings_of(name: str) -> dict[str, Any]:
    """The settings of a metric in pyiqa.

    Raises:
        ConfigError: There is no such metric of single photos.
    """
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    if name in LEFT_OUT:
        raise ConfigError(f"The metric {name} of pyiqa cannot be chosen here: {LEFT_OUT[name]}.")
    if name not in DEFAULT_CONFIGS:
        raise ConfigError(f"pyiqa has no metric {name!r}. {did_you_mean(name, DEFAULT_CONFIGS)}")
    settings: dict[str, Any] = DEFAULT_CONFIGS[name]
    return settings


@contextmanager
def _fixed_seed() -> Iterator[None]:
    """Within the block, the global generators of the CPU give the same numbers each time; afterwards they go on."""
    before = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed GPUs too: metrics choose their crops on the CPU alone.
        torch.default_generator.manual_seed(SEED)
        np.random.seed(SEED)
        try:
            yield
        finally:
            np.random.set_state(before)
