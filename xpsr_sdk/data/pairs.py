"""Training pairs in a folder of the published form.

FOLDER/HR/NAME.png                 the sharp photo
FOLDER/LR/NAME.png                 the same, degraded, s times smaller or already enlarged
FOLDER/highlevel_prompt_GT/NAME.txt    what it shows (optional)
FOLDER/lowlevel_prompt_q/NAME.txt      how good the LR image is (optional)
FOLDER/lowlevel_prompt_q_GT/NAME.txt   how good the HR image is (optional; needed to train with HR as input)

A prompt that is in none of these is looked for in FOLDER/prompts.sqlite, which ``xpsr caption`` makes.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from xpsr_sdk.data.images import READABLE
from xpsr_sdk.data.samples import DamagedImage, Example, ReadPixels
from xpsr_sdk.errors import ImageError, TrainingError
from xpsr_sdk.prompts.store import STORE_NAME, PromptStore


class PairFolder:
    """A folder of pairs, as a ``Source``.

    Args:
        folder: Folder of the published form.
        read: Reads an image file; may remember what it read.

    Raises:
        TrainingError: It is missing, empty or has no LR image for an HR image.
    """

    def __init__(self, folder: Path, read: ReadPixels) -> None:
        self._hr = _hr_images(folder)
        self._read = read
        self._stored = PromptStore(folder / STORE_NAME)

    def __len__(self) -> int:
        return len(self._hr)

    def example(self, index: int, hr_as_input: bool) -> Example:
        """See ``Source``."""
        path = self._hr[index]
        folder = path.parent.parent
        try:
            hr = self._read(path)
            lr = hr if hr_as_input else self._read(_lr_image(path))
        except ImageError as error:
            raise DamagedImage(str(error)) from error
        high = _read_prompt(folder / "highlevel_prompt_GT" / f"{path.stem}.txt")
        if high is None:
            high = self._stored.text_of(path, "high")
        low = _read_prompt(
            folder / ("lowlevel_prompt_q_GT" if hr_as_input else "lowlevel_prompt_q") / f"{path.stem}.txt"
        )
        if low is None:
            low = self._stored.text_of(path if hr_as_input else _lr_image(path), "low")
        return Example(hr, lr, high or "", low or "", str(path))


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
