"""Decides to which file each restored photo is written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from xpsr_sdk.config import OutputConfig
from xpsr_sdk.data.files import READABLE, WRITABLE, find_images, listed
from xpsr_sdk.errors import ConfigError

OTHER_JPEG = dict.fromkeys((".jfif", ".jpe"), ".jpg")
"""Other suffixes of JPEG files, and that of their results."""
STANDARD = Path("-")
"""Stands for standard input or standard output."""
Job = tuple[Path, Path]
"""A photo, and the file that its restored version goes to."""


def plan_result_files(inputs: Iterable[Path], output: Path, written: OutputConfig) -> list[Job]:
    """Pair each photo with the file for its restored version.

    Photos of the same name from several folders go to folders of those names.

    Args:
        inputs: Photos, folders of them, or standard input.
        output: A folder, a file for a single photo, or standard output.
        written: Type and names of the results.

    Raises:
        ConfigError: There are no photos, or two photos (or a photo and its own result) would have the same file.
    """
    sources = list(inputs)
    names_file = output == STANDARD or (output.suffix.lower() in WRITABLE and not output.is_dir())
    _check_output(sources, output, written, names_file)
    if names_file:
        jobs = [(sources[0], output)]
        _refuse_shared(jobs)
        return jobs
    found = [(source, photo, name) for source in sources for photo, name in _photos(source, output, written)]
    if max(Counter(name for _, _, name in found).values(), default=0) > 1:
        folders = {source: _folder(source, sources) for source in sources}
        found = [(source, photo, folders[source] / name) for source, photo, name in found]
    jobs = [(photo, output / name) for _, photo, name in found]
    if not jobs:
        raise ConfigError(f"There are no images in {', '.join(map(str, sources))} ({listed(READABLE)}).")
    if written.suffix:  # results of an earlier run, beside their photos
        results = {target.resolve() for _, target in jobs}
        jobs = [(photo, target) for photo, target in jobs if photo.resolve() not in results]
    _refuse_shared(jobs)
    return jobs


def type_of_result(photo: Path, target: Path, written: OutputConfig) -> str:
    """The type of a result as a suffix. On standard output: the one that is asked for, else that of the photo."""
    return (_named(photo, written) if target == STANDARD else target).suffix.lower()


def _check_output(sources: list[Path], output: Path, written: OutputConfig, names_file: bool) -> None:
    if names_file and (len(sources) > 1 or sources[0].is_dir()):
        raise ConfigError(f"{output} is the name of a file, but there may be several photos: name a folder.")
    if names_file and output != STANDARD and (written.format or written.suffix):
        option = "--format" if written.format else "--suffix"
        raise ConfigError(
            f"The name and type of the result are given by {output}: leave out {option}, or name a folder."
        )
    if not names_file and not output.is_dir() and _is_another_image_type(output.suffix.lower()):
        raise ConfigError(f"{output}: {output.suffix} cannot be written; use one of {listed(WRITABLE)}.")
    is_one = len(sources) == 1 and not sources[0].is_dir()
    if not names_file and is_one and output.suffix and not output.exists():  # q.xyz is meant as a file, not a folder
        raise ConfigError(
            f"{output}: {output.suffix} cannot be written; use one of {listed(WRITABLE)}. If this is to be a folder, "
            "make it first."
        )
    if output.exists() and not output.is_dir() and not names_file:
        raise ConfigError(f"{output} is a file: name a folder, or an image file ({listed(WRITABLE)}).")


def _folder(source: Path, sources: list[Path]) -> Path:
    """Where the photos of an input are below the folder that all inputs have in common."""
    folders = {each: each if each.is_dir() else each.parent for each in sources}
    common = os.path.commonpath([folder.absolute() for folder in folders.values()])
    return folders[source].absolute().relative_to(common)


def _refuse_shared(jobs: list[Job]) -> None:
    taken: dict[Path, Path] = {}
    for photo, target in jobs:
        if target.resolve() == photo.resolve() and target != STANDARD:
            raise ConfigError(f"{photo} would be overwritten by its own result: choose another output.")
        if target in taken:
            raise ConfigError(f"{taken[target]} and {photo} would both be written to {target}.")
        taken[target] = photo


def _is_another_image_type(suffix: str) -> bool:
    from PIL import Image  # imported late, to keep --help quick

    return suffix in (READABLE | Image.registered_extensions().keys()) - WRITABLE


def _photos(source: Path, output: Path, written: OutputConfig) -> Iterator[tuple[Path, Path]]:
    """The photos of an input, each with its name below the output folder.

    If the output folder lies inside the input folder, its files are left out: they are results of an earlier run.
    """
    if not source.is_dir():
        yield source, _named(Path("stdin" if source == STANDARD else source.name), written)
        return
    results = output.resolve()
    holds_results = source.resolve() in results.parents
    photos = [p for p in find_images(source) if not (holds_results and p.resolve().is_relative_to(results))]
    names = [_named(photo.relative_to(source), written) for photo in photos]
    shared = Counter(names)
    for photo, name in zip(photos, names, strict=True):
        own = photo.relative_to(source)
        # if there are a.heic and a.png, the result of a.heic is a.heic.png
        is_renamed = shared[name] > 1 and own.suffix.lower() != name.suffix.lower()
        yield photo, name.with_name(f"{own.name}{written.suffix or ''}{name.suffix}") if is_renamed else name


def _named(photo: Path, written: OutputConfig) -> Path:
    kept = photo.suffix if photo.suffix.lower() in WRITABLE else OTHER_JPEG.get(photo.suffix.lower(), ".png")
    return photo.with_name(photo.stem + (written.suffix or "") + (f".{written.format}" if written.format else kept))
