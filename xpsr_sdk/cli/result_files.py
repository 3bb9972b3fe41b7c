"""Decides to which file each restored photo is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from xpsr_sdk.data.files import READABLE, WRITABLE, find_images, listed
from xpsr_sdk.errors import ConfigError


def plan_result_files(inputs: Iterable[Path], output: Path, file_type: str | None = None) -> list[tuple[Path, Path]]:
    """Pair each photo with the file for its restored version.

    Args:
        inputs: Photos, and folders of photos.
        output: A folder, or a file for a single photo.
        file_type: Type of the results in a folder, for instance ``png``. None: that of the photo, or PNG if its type
            cannot be written.

    Raises:
        ConfigError: There are no photos, or two photos (or a photo and its own result) would have the same file.
    """
    sources = list(inputs)
    names_file = output.suffix.lower() in WRITABLE and not output.is_dir()
    if names_file and (len(sources) > 1 or sources[0].is_dir()):
        raise ConfigError(f"{output} is the name of a file, but there may be several photos: name a folder.")
    if names_file and file_type:
        raise ConfigError(f"The type of the result is given by {output}: leave out --format, or name a folder.")
    if not output.is_dir() and _is_another_image_type(output.suffix.lower()):
        raise ConfigError(f"{output}: {output.suffix} cannot be written; use one of {listed(WRITABLE)}.")
    if output.is_file() and not names_file:
        raise ConfigError(f"{output} is a file: name a folder, or an image file ({listed(WRITABLE)}).")
    jobs = [
        (photo, output if names_file else output / name)
        for source in sources
        for photo, name in _photos(source, output, file_type)
    ]
    if not jobs:
        raise ConfigError(f"There are no images in {', '.join(map(str, sources))} ({listed(READABLE)}).")
    _refuse_shared(jobs)
    return jobs


def _refuse_shared(jobs: list[tuple[Path, Path]]) -> None:
    taken: dict[Path, Path] = {}
    for photo, target in jobs:
        if target.resolve() == photo.resolve():
            raise ConfigError(f"{photo} would be overwritten by its own result: choose another output.")
        if target in taken:
            raise ConfigError(f"{taken[target]} and {photo} would both be written to {target}.")
        taken[target] = photo


def _is_another_image_type(suffix: str) -> bool:
    from PIL import Image  # imported late, to keep --help quick

    return suffix in (READABLE | Image.registered_extensions().keys()) - WRITABLE


def _photos(source: Path, output: Path, file_type: str | None) -> Iterator[tuple[Path, Path]]:
    """The photos of an input, each with its name below the output folder.

    If the output folder lies inside the input folder, its files are left out: they are results of an earlier run.
    """
    if not source.is_dir():
        yield source, _named(Path(source.name), file_type)
        return
    results = output.resolve()
    holds_results = source.resolve() in results.parents
    photos = [p for p in find_images(source) if not (holds_results and p.resolve().is_relative_to(results))]
    names = [_named(photo.relative_to(source), file_type) for photo in photos]
    shared = Counter(names)
    for photo, name in zip(photos, names, strict=True):
        own = photo.relative_to(source)
        # if there are a.heic and a.png, the result of a.heic is a.heic.png
        yield photo, own.with_name(own.name + name.suffix) if shared[name] > 1 and name != own else name


def _named(photo: Path, file_type: str | None) -> Path:
    if file_type:
        return photo.with_suffix(f".{file_type}")
    return photo if photo.suffix.lower() in WRITABLE else photo.with_suffix(".png")
