"""Reads and writes training pairs in a folder with the published layout.

FOLDER/HR/NAME.png                 the sharp photo (the folder may also be called GT/)
FOLDER/LR/NAME.png                 the degraded photo, s times smaller or already enlarged (or LQ/)
FOLDER/upscaled/NAME.png           the LR photo, enlarged by the model's upscaler to the size of HR (optional)
FOLDER/highlevel_prompt_GT/NAME.txt    what it shows (optional)
FOLDER/lowlevel_prompt_q/NAME.txt      how good the LR image is (optional)
FOLDER/lowlevel_prompt_q_GT/NAME.txt   how good the HR image is (optional; needed to train with HR as input)

The names in HR/ and LR/ may differ by the extension, and by an ending that all names of a folder share.

A prompt without a file is looked up in FOLDER/prompts.sqlite, which ``xpsr caption`` makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from xpsr_sdk.data.files import READABLE
from xpsr_sdk.data.images import write_image
from xpsr_sdk.data.matching import pair_names, says_degraded
from xpsr_sdk.data.samples import DamagedImage, Example, FindPrompt, Pair, ReadPicture
from xpsr_sdk.errors import ImageError, TrainingError
from xpsr_sdk.files.reading import read_bytes
from xpsr_sdk.files.writing import write_whole

HR_FOLDERS, LR_FOLDERS = ("hr", "gt"), ("lr", "lq")
"""What the folders of the images are called, in capitals or not."""
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""How the names of compressed archives end."""
UPSCALED = "upscaled"
"""The folder of images that were enlarged in advance."""
LONGEST_PROMPT = 2**20
"""Bytes of a prompt's file that is read."""
PROMPT_FOLDERS = {"high": "highlevel_prompt_GT", "low": "lowlevel_prompt_q", "hr_low": "lowlevel_prompt_q_GT"}
WRITTEN_FOLDERS = ("HR", "LR", UPSCALED, *PROMPT_FOLDERS.values())
"""The folders that ``write_pair`` fills."""


class PairFolder:
    """A folder of pairs, as a ``Source``.

    Args:
        folder: A folder with the published layout.
        read: Reads an image file. It may cache images.
        stored_prompt: Finds the prompt of an image that has no text file.

    Raises:
        TrainingError: The folder is missing or empty, or an HR image has no LR image.
    """

    def __init__(self, folder: Path, read: ReadPicture, stored_prompt: FindPrompt) -> None:
        self._lr = _lr_by_hr(folder)
        self._hr = list(self._lr)
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
            lr = hr if hr_as_input else self._read(self._lr[path])
            enlarged = folder / UPSCALED / path.name
            upscaled = self._read(enlarged) if enlarged.is_file() and not hr_as_input else None
        except ImageError as error:
            raise DamagedImage(str(error)) from error
        high = _read_prompt(folder / PROMPT_FOLDERS["high"] / f"{path.stem}.txt")
        if high is None:
            high = self._stored_prompt(path, "high")
        low = _read_prompt(folder / PROMPT_FOLDERS["hr_low" if hr_as_input else "low"] / f"{path.stem}.txt")
        if low is None:
            low = self._stored_prompt(path if hr_as_input else self._lr[path], "low")
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


def holds_pairs(folder: Path) -> bool:
    """Whether the folders in it say that it is a folder of pairs.

    Raises:
        TrainingError: They say so, but not by a name that is known, so that LR images would be taken for sharp ones.
    """
    if _part(folder, HR_FOLDERS):
        return True
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        if says_degraded(part.name):
            raise TrainingError(
                f"{folder} looks like a folder of pairs, since there is {part.name}/ in it: call the folder of the "
                "sharp images HR/ and that of the degraded ones LR/, or name the folder of the sharp images alone."
            )
    return False


def _part(folder: Path, names: Sequence[str]) -> Path | None:
    """The first folder in it that has one of the names, in capitals or not."""
    found = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    return next((found[name] for name in names if name in found), None)


def _lr_by_hr(folder: Path) -> dict[Path, Path]:
    """The LR image of each HR image, in the order of the names."""
    images = _images(_part(folder, HR_FOLDERS))
    if not images:
        if packed := next((path.name for path in sorted(folder.iterdir()) if path.name.lower().endswith(PACKED)), None):
            raise TrainingError(f"{folder} holds {packed}, but shards are not compressed: unpack it to a .tar file.")
        raise TrainingError(
            f"{folder}/HR holds no images: a folder of pairs needs HR/ and LR/; there are neither shards nor photos."
        )
    lr_folder = _part(folder, LR_FOLDERS) or folder / "LR"
    others = {path.name: path for path in _images(lr_folder)}
    if all(image.name in others for image in images):
        return {image: others[image.name] for image in images}
    hr, lr = ({path.stem: path for path in paths} for paths in (images, others.values()))
    known = hr.keys() & lr.keys()
    partners = {name: name for name in hr} if len(known) == len(images) else pair_names(hr, lr)
    if partners is None or len(partners) != len(images):
        lost = next((image for image in images if image.name not in others and image.stem not in lr), images[0])
        raise TrainingError(f"{lost} has no LR image: {lr_folder / lost.name} does not exist.")
    return {image: lr[partners[image.stem]] for image in images}


def _images(folder: Path | None) -> list[Path]:
    """The images right in a folder; what is hidden is left out."""
    found = folder.iterdir() if folder and folder.is_dir() else ()
    return sorted(p for p in found if p.suffix.lower() in READABLE and not p.name.startswith("."))


@lru_cache(maxsize=1_000_000)
def _read_prompt(file: Path) -> str | None:
    if not file.is_file():
        return None
    return read_bytes(file, DamagedImage, LONGEST_PROMPT).decode(errors="replace").strip()
