"""Reads and writes training pairs in a folder with the published layout.

FOLDER/HR/NAME.png                 the sharp photo
FOLDER/LR/NAME.png                 the degraded photo, s times smaller or already enlarged
FOLDER/upscaled/NAME.png           the LR photo, enlarged by the model's upscaler to the size of HR (optional)
FOLDER/highlevel_prompt_GT/NAME.txt    what it shows (optional)
FOLDER/lowlevel_prompt_q/NAME.txt      how good the LR image is (optional)
FOLDER/lowlevel_prompt_q_GT/NAME.txt   how good the HR image is (optional; needed to train with HR as input)

A prompt without a file is looked up in FOLDER/prompts.sqlite, which ``xpsr caption`` makes.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from xpsr_sdk.data.files import READABLE
from xpsr_sdk.data.images import write_image, write_whole
from xpsr_sdk.data.samples import DamagedImage, Example, FindPrompt, Pair, ReadPixels
from xpsr_sdk.errors import ImageError, TrainingError

UPSCALED = "upscaled"
"""The folder of images that were enlarged in advance."""
PROMPT_FOLDERS = {"high": "highlevel_prompt_GT", "low": "lowlevel_prompt_q", "hr_low": "lowlevel_prompt_q_GT"}


class PairFolder:
    """A folder of pairs, as a ``Source``.

    Args:
        folder: A folder with the published layout.
        read: Reads an image file. It may cache images.
        stored_prompt: Finds the prompt of an image that has no text file.

    Raises:
        TrainingError: The folder is missing or empty, or an HR image has no LR image.
    """

    def __init__(self, folder: Path, read: ReadPixels, stored_prompt: FindPrompt) -> None:
        self._hr = _hr_images(folder)
        self._read = read
        self._stored_prompt = stored_prompt

    def __len__(self) -> int:
        return len(self._hr)

    def example(self, index: int, hr_as_input: bool) -> Example:
        """See ``Source``."""
        path = self._hr[index]
        folder = path.parent.parent
        try:
            hr = self._read(path)
            lr = hr if hr_as_input else self._read(_lr_image(path))
            enlarged = folder / UPSCALED / path.name
            upscaled = self._read(enlarged) if enlarged.is_file() and not hr_as_input else None
        except ImageError as error:
            raise DamagedImage(str(error)) from error
        high = _read_prompt(folder / PROMPT_FOLDERS["high"] / f"{path.stem}.txt")
        if high is None:
            high = self._stored_prompt(path, "high")
        low = _read_prompt(folder / PROMPT_FOLDERS["hr_low" if hr_as_input else "low"] / f"{path.stem}.txt")
        if low is None:
            low = self._stored_prompt(path if hr_as_input else _lr_image(path), "low")
        return Example(hr, lr, high or "", low or "", str(path), upscaled)


def write_pair(folder: Path, name: str, pair: Pair, words: dict[str, Any]) -> None:
    """Write a pair and its prompts, each to its own file.

    Args:
        folder: A folder with the published layout.
        name: The name of the files, without suffix.
        pair: The images.
        words: The prompts ``high``, ``low`` and ``hr_low``. None: there is no prompt.

    Raises:
        ImageError: A file cannot be written.
    """
    assert pair.lr is not None
    for level, prompt_folder in PROMPT_FOLDERS.items():
        if words[level] is not None:
            _write_text(folder / prompt_folder / f"{name}.txt", words[level])
    # HR is written last, since a pair exists for readers as soon as its HR image does.
    write_image(pair.lr, folder / "LR" / f"{name}.png")
    if pair.upscaled is not None:
        write_image(pair.upscaled, folder / UPSCALED / f"{name}.png")
    else:  # an upscaled image of an earlier call would not belong to this LR image
        (folder / UPSCALED / f"{name}.png").unlink(missing_ok=True)
    write_image(pair.hr, folder / "HR" / f"{name}.png")


def _write_text(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(text.encode()))


def _hr_images(folder: Path) -> list[Path]:
    images = sorted(p for p in (folder / "HR").glob("*") if p.suffix.lower() in READABLE)
    if not images:
        raise TrainingError(
            f"{folder}/HR holds no images: a folder of pairs needs HR/ and LR/; there are neither shards nor photos."
        )
    for image in images:
        _lr_image(image)
    return images


def _lr_image(hr: Path) -> Path:
    lr = hr.parent.parent / "LR" / hr.name
    if not lr.is_file():
        raise TrainingError(f"{hr} has no LR image: {lr} does not exist.")
    return lr


@lru_cache(maxsize=1_000_000)
def _read_prompt(file: Path) -> str | None:
    return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else None
