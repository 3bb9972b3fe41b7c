"""A folder of sharp photos for training, which are degraded when they are drawn.

Their high-level prompts are looked up in FOLDER/prompts.sqlite, which ``xpsr caption`` makes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from xpsr_sdk.data.files import find_images
from xpsr_sdk.data.images import MAX_TRAINING_MEGAPIXELS, read_picture
from xpsr_sdk.data.matching import says_degraded, says_sharp
from xpsr_sdk.data.samples import DamagedImage, Example, FindPrompt, ReadPicture
from xpsr_sdk.errors import ImageError, TrainingError


class PhotoFolder:
    """A folder of photos and its subfolders, as a ``Source``.

    Photos that are damaged or smaller than the crop are left out. A warning says how many.

    Args:
        folder: Folder of photos.
        read: Reads an image file. It may cache images.
        crop: Side of the crops, in pixels.
        stored_prompt: Finds the high-level prompt of a photo.

    Raises:
        TrainingError: No photo is large enough, or the names say that there are pairs.
    """

    def __init__(self, folder: Path, read: ReadPicture, crop: int, stored_prompt: FindPrompt) -> None:
        found = find_images(folder)
        self._photos = [photo for photo in found if _smaller_side(photo) >= crop]
        _refuse_pairs(folder, found)
        self._read = read
        self._stored_prompt = stored_prompt
        if not self._photos:
            raise TrainingError(f"{folder} holds no photo of at least {crop} pixels in each direction (data.crop).")
        if left_out := len(found) - len(self._photos):
            warnings.warn(
                f"{left_out} of {len(found)} photos in {folder} are left out: damaged, or smaller than {crop} pixels.",
                stacklevel=2,
            )

    def __len__(self) -> int:
        return len(self._photos)

    def example(self, index: int, hr_as_input: bool) -> Example:
        """See ``Source``."""
        photo = self._photos[index]
        try:
            hr = self._read(photo)
        except ImageError as error:
            raise DamagedImage(str(error)) from error
        high = self._stored_prompt(photo, "high") or ""
        return Example(hr, hr if hr_as_input else None, high, None, str(photo))


def _refuse_pairs(folder: Path, photos: Sequence[Path]) -> None:
    """Degraded images beside their sharp ones are no photos to train on."""
    degraded = next((photo for photo in photos if says_degraded(photo.stem)), None)
    if degraded and any(says_sharp(photo.stem) for photo in photos):
        raise TrainingError(
            f"{folder} looks like pairs, since there is {degraded.relative_to(folder)}: put the sharp images into HR/ "
            "and the degraded ones into LR/."
        )


def _smaller_side(photo: Path) -> int:
    """The smaller side according to the file's header, or 0 if the file is not an image."""
    try:
        return min(read_picture(photo, MAX_TRAINING_MEGAPIXELS).size)
    except ImageError:
        return 0
