"""Training images in shards of the WebDataset format: tar files, in which the files with one key are a sample.

    KEY.hr.png     the sharp photo
    KEY.lr.png     the degraded photo (optional: if it is missing, it is made during training)
    KEY.upscaled.png  the LR photo, enlarged by an upscaler (optional: if it is missing, it is made during training)
    KEY.json       {"high": what it shows, "low": how good the LR image is, "hr_low": how good the HR image is,
                    "sha256": of the source file's bytes, "size": [width, height]}; each may be missing or null

The layout of img2dataset is read, too: KEY.jpg is the sharp photo, and KEY.txt what it shows. A key is the path of a
file up to the first dot of its name.

The tar files are not compressed, so that any sample can be read without those before it. Other image types than PNG
can be read as well. https://github.com/webdataset/webdataset describes the format, and has a library that reads it.
"""

from __future__ import annotations

import io
import json
import tarfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict

from xpsr_sdk.data.decoding import decoding, pillow_formats
from xpsr_sdk.data.files import READABLE
from xpsr_sdk.data.images import MAX_TRAINING_MEGAPIXELS, refuse_large
from xpsr_sdk.data.picture import Picture, from_pil
from xpsr_sdk.data.samples import DamagedImage, Example, Pair
from xpsr_sdk.errors import ImageError, TrainingError
from xpsr_sdk.files.reading import check_regular, parse_json, validated

ReadPart = Callable[[Path, int, int], Picture]
"""``read(file, start, size)`` reads an image from ``size`` bytes of a file, from the byte ``start`` on."""


LONGEST_WORDS = 2**20
"""Bytes of a sample's JSON file that are read."""


class Words(BaseModel):
    """What a sample's JSON file says; what else it holds is left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    high: str | None = None
    low: str | None = None
    hr_low: str | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Span:
    """The position of a member in a shard, in bytes."""

    start: int
    size: int


class ShardFolder:
    """A folder of shards, as a ``Source``.

    Args:
        folder: Folder with ``*.tar``.
        read: Reads an image from a shard. It may cache images.
        crop: Side of the crops, in pixels. Images that are known to be smaller are left out; a warning says how many.

    Raises:
        TrainingError: A shard is damaged, a sample has no HR image, or none is large enough.
    """

    def __init__(self, folder: Path, read: ReadPart, crop: int) -> None:
        self._read = read
        found = [(shard, key, parts) for shard in find_shards(folder) for key, parts in _samples(shard).items()]
        self._samples = [sample for sample in found if _is_large_enough(*sample, crop)]
        if not self._samples:
            raise TrainingError(f"The shards in {folder} hold no image of at least {crop} pixels (data.crop).")
        if left_out := len(found) - len(self._samples):
            warnings.warn(
                f"{left_out} of {len(found)} images in {folder} are left out: smaller than {crop} pixels.", stacklevel=2
            )

    def __len__(self) -> int:
        return len(self._samples)

    def example(self, index: int, hr_as_input: bool) -> Example:
        """See ``Source``."""
        shard, key, parts = self._samples[index]
        words = _words(shard, key, parts)
        high = words.high if "high" in words.model_fields_set else _text(shard, parts)
        try:
            with decoding(f"{shard}: the image {key}"):
                hr = self._part(shard, parts["hr"])
                of_lr = parts.get("lr")
                lr = hr if hr_as_input else None if of_lr is None else self._part(shard, of_lr)
                ahead = None if hr_as_input or of_lr is None else parts.get("upscaled")
                upscaled = None if ahead is None else self._part(shard, ahead)
        except ImageError as error:
            raise DamagedImage(str(error)) from error
        low = words.hr_low if hr_as_input else words.low
        name = f"{shard}: {key}"
        return Example(hr, lr, high or "", low if lr is None else low or "", name, upscaled)

    def _part(self, shard: Path, span: Span) -> Picture:
        return self._read(shard, span.start, span.size)


def find_shards(folder: Path) -> list[Path]:
    """The shards of a folder, sorted by name."""
    return sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))


def read_part(shard: Path, start: int, size: int) -> Picture:
    """Read an image from a shard."""
    with Image.open(io.BytesIO(_bytes(shard, Span(start, size))), formats=pillow_formats()) as image:
        refuse_large(name := f"An image in {shard}", *image.size, MAX_TRAINING_MEGAPIXELS)
        return from_pil(image, name)


def _bytes(shard: Path, span: Span) -> bytes:
    with shard.open("rb") as file:
        file.seek(span.start)
        return file.read(span.size)


def _samples(shard: Path) -> dict[str, dict[str, Span]]:
    """The samples of a shard by key, with the positions of their ``hr``, ``lr``, ``upscaled`` and ``json``."""
    samples: dict[str, dict[str, Span]] = {}
    check_regular(shard, TrainingError)
    try:
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                key, part = _key_and_part(member.name)
                if member.isfile() and part:
                    samples.setdefault(key, {})[part] = Span(member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise TrainingError(
            f"{shard} is damaged or cut off ({error}): delete it, and let xpsr data prepare make it again."
        ) from error
    for key, parts in samples.items():
        if "photo" in parts:
            parts.setdefault("hr", parts["photo"])
        if "hr" not in parts:
            raise TrainingError(f"{shard}: the sample {key} has no HR image: {key}.hr.png is missing.")
    return samples


def _key_and_part(name: str) -> tuple[str, str]:
    """The key of a file in a shard, and which part of the sample it is; "": none. Hidden files are none."""
    path = PurePosixPath(name)
    stem, _, kind = path.name.partition(".")
    part, _, suffix = kind.lower().rpartition(".")
    if not stem or stem.startswith("."):
        return "", ""
    is_part = kind in ("json", "txt") or (part in ("", "hr", "lr", "upscaled") and f".{suffix}" in READABLE)
    return str(path.with_name(stem)), (part or (kind if kind in ("json", "txt") else "photo")) if is_part else ""


def _text(shard: Path, parts: Mapping[str, Span]) -> str | None:
    """What a sample's text file says."""
    return _bytes(shard, parts["txt"]).decode(errors="replace").strip() if "txt" in parts else None


def _words(shard: Path, key: str, parts: Mapping[str, Span]) -> Words:
    """The content of a sample's JSON file."""
    if "json" not in parts:
        return Words()
    where = f"{shard}: {key}.json"
    if parts["json"].size > LONGEST_WORDS:
        raise DamagedImage(f"{where} is refused as too large: it has more than {LONGEST_WORDS // 2**20} MiB.")
    return validated(Words, parse_json(_bytes(shard, parts["json"]), where, DamagedImage), where, DamagedImage)


def _is_large_enough(shard: Path, key: str, parts: Mapping[str, Span], crop: int) -> bool:
    try:
        size = _words(shard, key, parts).size
    except DamagedImage:  # is told when it is drawn
        return True
    return size is None or min(size) >= crop


class ShardWriter:
    """Writes samples into a tar file. The same samples give the same bytes."""

    def __init__(self, file: Any) -> None:
        self._tar = tarfile.TarFile(fileobj=file, mode="w", format=tarfile.GNU_FORMAT)

    def write(self, key: str, pair: Pair, words: Mapping[str, Any]) -> None:
        """Add a sample."""
        for part, image in {"hr": pair.hr, "lr": pair.lr, "upscaled": pair.upscaled}.items():
            if image is not None:
                self._add(f"{key}.{part}.png", _png(image))
        text = json.dumps({**words, "size": list(pair.hr.size)}, ensure_ascii=False)
        self._add(f"{key}.json", text.encode())

    def close(self) -> None:
        """Write the end of the tar file."""
        self._tar.close()

    def _add(self, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
