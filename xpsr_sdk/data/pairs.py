"""Training pairs in a folder of the published form.

    FOLDER/HR/NAME.png                 the sharp photo
    FOLDER/LR/NAME.png                 the same, degraded, s times smaller or already enlarged
    FOLDER/highlevel_prompt_GT/NAME.txt    what it shows (optional)
    FOLDER/lowlevel_prompt_q/NAME.txt      how good the LR image is (optional)
    FOLDER/lowlevel_prompt_q_GT/NAME.txt   how good the HR image is (optional; needed to train with HR as input)

A folder whose name holds a ``*`` (``dataset_*``) stands for all that match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xpsr_sdk.data.images import SUFFIXES, read_image, resize
from xpsr_sdk.errors import TrainingError


@dataclass(frozen=True)
class Batch:
    """What a training step reads.

    Attributes:
        hr: B 3 H W in [-1, 1].
        lr: The input, resized to the HR size, B 3 H W in [0, 1].
        high: Content of each image.
        low: Quality of each input.
    """

    hr: Tensor
    lr: Tensor
    high: list[str]
    low: list[str]


class PairFolder:
    """Draws random, aligned crops out of folders of pairs.

    Args:
        folders: Folders of the published form.
        crop: Side of the HR crops, in pixels; a multiple of the scale.
        hr_as_input: Share of the images whose input is the HR image itself.
        keep_in_memory: How many decoded images to keep.

    Raises:
        TrainingError: A folder is missing, empty or has no LR image for an HR image.
    """

    def __init__(self, folders: Sequence[Path], crop: int, hr_as_input: float, keep_in_memory: int) -> None:
        self._hr = [hr for folder in _expand(folders) for hr in _hr_images(folder)]
        self._crop, self._hr_as_input = crop, hr_as_input
        self._read = lru_cache(maxsize=keep_in_memory)(_levels)

    def __len__(self) -> int:
        return len(self._hr)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Batch:
        """The images of ``indices``, cropped and flipped as ``generator`` says."""
        crops = [self._pair(index, generator) for index in indices]
        return Batch(
            hr=torch.cat([hr for hr, _, _, _ in crops]) * 2 - 1,
            lr=torch.cat([lr for _, lr, _, _ in crops]),
            high=[high for _, _, high, _ in crops],
            low=[low for _, _, _, low in crops],
        )

    def _pair(self, index: int, generator: torch.Generator) -> tuple[Tensor, Tensor, str, str]:
        path = self._hr[index]
        folder = path.parent.parent
        hr = self._read(path)
        from_hr = float(torch.rand((), generator=generator)) < self._hr_as_input
        lr = hr if from_hr else self._read(_lr_image(path))
        hr_crop, lr_crop = self._aligned_crops(hr, lr, path, generator)
        if torch.rand((), generator=generator) < 0.5:
            hr_crop, lr_crop = hr_crop.flip(-1), lr_crop.flip(-1)
        high = _prompt(folder / "highlevel_prompt_GT", path.stem)
        low = _prompt(folder / ("lowlevel_prompt_q_GT" if from_hr else "lowlevel_prompt_q"), path.stem)
        return hr_crop, resize(lr_crop, self._crop, self._crop).clamp(0, 1), high, low

    def _aligned_crops(
        self, hr: NDArray[np.uint8], lr: NDArray[np.uint8], path: Path, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        scale = max(hr.shape[0] // lr.shape[0], 1)
        side = self._crop // scale
        if min(lr.shape[:2]) < side or hr.shape[0] != lr.shape[0] * scale or hr.shape[1] != lr.shape[1] * scale:
            raise TrainingError(
                f"{path}: HR is {hr.shape[1]}x{hr.shape[0]} and LR {lr.shape[1]}x{lr.shape[0]}; HR must be a whole"
                f" number of times as large as LR, and at least {self._crop} pixels in each direction."
            )
        if self._crop % scale:
            raise TrainingError(
                f"crop is {self._crop}: it must be a multiple of the scale, which is {scale} for {path}."
            )
        top, left = (int(torch.randint(size - side + 1, (), generator=generator)) for size in lr.shape[:2])
        return (
            _tensor(hr[top * scale :, left * scale :][: self._crop, : self._crop]),
            _tensor(lr[top:, left:][:side, :side]),
        )


def _tensor(levels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(levels.copy()).permute(2, 0, 1)[None].float() / 255


def _expand(folders: Sequence[Path]) -> list[Path]:
    found = []
    for folder in folders:
        matches = sorted(folder.parent.glob(folder.name)) if "*" in folder.name else [folder]
        if not matches:
            raise TrainingError(f"No folder matches {folder}.")
        found += matches
    return found


def _hr_images(folder: Path) -> list[Path]:
    images = sorted(p for p in (folder / "HR").glob("*") if p.suffix.lower() in SUFFIXES)
    if not images:
        raise TrainingError(f"{folder}/HR holds no images: a folder of pairs needs HR/ and LR/.")
    for image in images:
        _lr_image(image)
    return images


def _lr_image(hr: Path) -> Path:
    lr = hr.parent.parent / "LR" / hr.name
    if not lr.is_file():
        raise TrainingError(f"{hr} has no LR image: {lr} does not exist.")
    return lr


def _levels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(read_image(path).image)


@lru_cache(maxsize=1_000_000)
def _read_prompt(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""


def _prompt(folder: Path, stem: str) -> str:
    return _read_prompt(folder / f"{stem}.txt")
