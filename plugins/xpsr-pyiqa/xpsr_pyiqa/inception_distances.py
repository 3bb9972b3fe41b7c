"""FID and KID: how far the features of two folders are from each other.

Heusel et al., arXiv 1706.08500; Binkowski et al., arXiv 1801.01401. The features are those of clean-fid (Parmar et al.,
arXiv 2104.11222): whole photos, resized by Pillow's bicubic filter to 299 x 299.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xpsr_pyiqa.metric import LICENSE, WeightOptions
from xpsr_pyiqa.weights import WeightFiles
from xpsr_sdk import ConfigError

SIDE = 299


class FrechetInceptionDistance:
    """The Frechet distance of two normal distributions. See ``xpsr_sdk.FolderMetric`` for the contract."""

    Config = WeightOptions
    needs_reference = True
    lower_is_better = True
    min_side = 32
    license = LICENSE
    summary = "Frechet distance"

    def __init__(self, config: WeightOptions | None = None) -> None:
        config = config or WeightOptions()
        files = WeightFiles(config.weights, config.allow_pickle)
        self._net = files.build("fid", torch.device("cpu")).model
        about = f"{self.summary}, clean resizing to {SIDE} x {SIDE}, whole images; pyiqa {version('pyiqa')}"
        self.details = "; ".join([about, *files.used])

    def measure(self, images: Tensor, references: Tensor | None = None) -> Tensor:
        """The features of each photo, B 2048."""
        resized = torch.stack([_resized(image) for image in images.detach().cpu()]).to(images.device)
        features: Tensor = self._net.to(images.device)((resized - 128) / 128, False, False)[0]
        return features.flatten(1)

    def compare(self, features: Tensor, references: Tensor | None) -> float:
        """The distance of two folders, from N 2048 and M 2048."""
        assert references is not None
        _check_counts(features, references)
        means = features.mean(dim=0) - references.mean(dim=0)
        a, b = _centered(features), _centered(references)
        # The trace of the root of the product of both covariances, without the covariances themselves.
        root = torch.linalg.matrix_norm(a @ b.T, ord="nuc")
        return float(means.square().sum() + a.square().sum() + b.square().sum() - 2 * root)


class KernelInceptionDistance(FrechetInceptionDistance):
    """The squared maximum mean discrepancy with the kernel (x . y / 2048 + 1) ** 3, unbiased, of all photos at once."""

    summary = "kernel distance, unbiased, of all photos at once"

    def compare(self, features: Tensor, references: Tensor | None) -> float:
        """The distance of two folders, from N 2048 and M 2048."""
        assert references is not None
        _check_counts(features, references)
        own, others = _kernel(features, features), _kernel(references, references)
        within = sum((k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (own, others))
        return float(within - 2 * _kernel(features, references).mean())


def _resized(image: Tensor) -> Tensor:
    """3 H W in [0, 1] as 3 299 299 in [0, 255]."""
    channels = [Image.fromarray(c.numpy()) for c in (image * 255).float()]
    resized = [np.asarray(c.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).clip(0, 255) for c in channels]
    return torch.from_numpy(np.stack(resized))


def _centered(features: Tensor) -> Tensor:
    """So that its product with itself is the covariance."""
    return (features - features.mean(dim=0)) / (len(features) - 1) ** 0.5


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _check_counts(features: Tensor, references: Tensor) -> None:
    if min(len(features), len(references)) < 2:
        raise ConfigError("Distances of folders need at least 2 photos in each.")
