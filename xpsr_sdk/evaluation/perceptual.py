"""LPIPS and DISTS, computed by pyiqa (the extra ``metrics``).

Without a weights folder pyiqa downloads what it needs, once. With one, nothing is downloaded: the folder, or
any folder below it, holds these files, each as ``.safetensors``, ``.pth`` or ``.pt`` (tensors only are read):

    LPIPS   alexnet-*           AlexNet as torchvision names its weights; the ``features.`` part is enough
            LPIPS_v0.1_alex-*   ``lin0.model.1.weight`` to ``lin4.model.1.weight``
    DISTS   vgg16-*             VGG16 as torchvision names its weights; the ``features.`` part is enough
            DISTS_weights-*     ``alpha`` and ``beta``

Those are the files of torch's hub cache (``~/.cache/torch/hub``) on a machine where the metrics have run
once: a copy of it will do. In a clone of the repository, ``python -m tests.measurements.metric_weights`` makes one
from two packages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from xpsr_sdk.errors import CheckpointError, ConfigError, ImageError

MIN_SIDE = 32
"""Pixels that the deepest features of both backbones need."""


@dataclass(frozen=True)
class Files:
    """The weights of a metric: how torchvision calls its backbone, and how the two files begin."""

    backbone: str
    backbone_file: str
    head_file: str
    head_keys: frozenset[str]


WEIGHTS = {
    "lpips": Files("alexnet", "alexnet-", "LPIPS_v0.1_alex-", frozenset(f"lin{i}.model.1.weight" for i in range(5))),
    "lpips-vgg": Files("vgg16", "vgg16-", "LPIPS_v0.1_vgg-", frozenset(f"lin{i}.model.1.weight" for i in range(5))),
    "dists": Files("vgg16", "vgg16-", "DISTS_weights-", frozenset({"alpha", "beta"})),
}
DETAILS = {"lpips": "AlexNet, v0.1", "lpips-vgg": "VGG16, v0.1", "dists": "VGG16"}


class Perceptual:
    """A learned distance between two images; 0 for equal ones.

    LPIPS: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018.
    DISTS: Ding et al., "Image Quality Assessment: Unifying Structure and Texture Similarity", TPAMI 2020; the
    images are not resized first.

    Args:
        name: ``"lpips"`` or ``"dists"``.
        weights: Folder of weight files; ``None`` lets pyiqa download them.
        device: Where to compute.

    Raises:
        ConfigError: pyiqa is not installed.
        CheckpointError: A weight file is missing, there are two, it does not fit, or it cannot be downloaded.
    """

    def __init__(self, name: str, *, weights: Path | None = None, device: str | torch.device = "cpu") -> None:
        try:
            # Not at the top: both come with the extra alone, and PSNR and SSIM need neither.
            pyiqa, models = import_module("pyiqa"), import_module("torchvision.models")
        except ImportError as error:
            raise ConfigError(
                f"{name.upper()} needs pyiqa, which cannot be imported ({error}): pip install 'xpsr-sdk[metrics]'."
            ) from error
        create = partial(pyiqa.create_metric, name, device=torch.device(device))
        with redirect_stdout(StringIO()):  # pyiqa announces its files there
            self._metric = _downloaded(create, name) if weights is None else _from_folder(create, name, weights, models)
        self._device = device
        self.description = f"{DETAILS[name]}, on RGB; pyiqa {version('pyiqa')}"

    def __call__(self, a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
        """The distance of ``a`` (restored) to ``b`` (original), both H W 3, RGB, in [0, 255].

        Raises:
            ImageError: The images differ in size, or have a side below 32 pixels.
        """
        if a.shape != b.shape or min(a.shape[:2]) < MIN_SIDE:
            raise ImageError(
                f"LPIPS and DISTS need two images of one size with at least {MIN_SIDE} pixels a side, not "
                f"{a.shape[1]} x {a.shape[0]} and {b.shape[1]} x {b.shape[0]}."
            )
        with torch.no_grad():
            x, y = (torch.tensor(image, device=self._device).permute(2, 0, 1)[None] / 255 for image in (a, b))
            return float(self._metric(x, y))

    def distance(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """The distances (B) of images ``a`` to ``b``, both B 3 H W in [0, 1], with gradients: for training."""
        distances: torch.Tensor = self._metric.net(a, b)
        return distances.flatten()


def _downloaded(create: Callable[..., Any], name: str) -> Any:
    try:
        return create()
    except OSError as error:
        raise CheckpointError(
            f"The weights of {name.upper()} cannot be downloaded ({error}): name a folder that holds them."
        ) from error


def _from_folder(create: Callable[..., Any], name: str, folder: Path, models: Any) -> Any:
    files = WEIGHTS[name]
    backbone = _backbone(models, files.backbone, _find(folder, files.backbone_file, name))
    head = _find(folder, files.head_file, name)
    state = {key: tensor for key, tensor in _read(head).items() if key in files.head_keys}
    if state.keys() != files.head_keys:
        needed = ", ".join(sorted(files.head_keys))
        raise CheckpointError(f"{head} does not hold the tensors that {name.upper()} needs: {needed}.")
    with _building(models, files.backbone, backbone):
        metric = create(pretrained=False)
    try:
        metric.net.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{head} does not fit {name.upper()}: {error}") from error
    return metric


def _backbone(models: Any, name: str, path: Path) -> Any:
    """torchvision's network NAME with its features from ``path``, the only part that the metrics use."""
    with torch.device("meta"):
        network = models.get_model(name, weights=None)
    prefix = "features."
    state = {key.removeprefix(prefix): value for key, value in _read(path).items() if key.startswith(prefix)}
    try:
        network.features.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the features of torchvision's {name}: {error}") from error
    return network


@contextmanager
def _building(models: Any, name: str, network: Any) -> Iterator[None]:
    """Let ``torchvision.models.NAME`` answer with ``network``.

    pyiqa builds its backbones with torchvision's downloaded weights, and has no option for others.
    """
    original = getattr(models, name)
    setattr(models, name, lambda **_: network)
    try:
        yield
    finally:
        setattr(models, name, original)


def _find(folder: Path, prefix: str, metric: str) -> Path:
    if not folder.is_dir():
        raise CheckpointError(f"The weights folder {folder} does not exist.")
    found = sorted(path for suffix in ("safetensors", "pth", "pt") for path in folder.rglob(f"{prefix}*.{suffix}"))
    if not found:
        raise CheckpointError(
            f"{metric.upper()} needs {prefix}*.safetensors or .pth, and {folder} holds none. Copy it from "
            "~/.cache/torch/hub of a machine that has run the metric, or make the folder with "
            "python -m tests.measurements.metric_weights in a clone of the repository."
        )
    if len(found) > 1:
        raise CheckpointError(f"{metric.upper()} finds {found[0]} and {found[1]}: keep one of them.")
    return found[0]


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, SafetensorError, UnpicklingError) as error:
        raise CheckpointError(f"The weights in {path} cannot be read ({error}).") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no state dict.")
    return state
