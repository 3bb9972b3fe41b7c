"""Describes the images of a folder in advance, and stores the prompts."""

from __future__ import annotations

import platform
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from xpsr_sdk.config import Component
from xpsr_sdk.contracts import Item, PromptKey, PromptLevel, PromptProvider, Prompts
from xpsr_sdk.data.files import find_images
from xpsr_sdk.data.images import MAX_TRAINING_MEGAPIXELS, read_picture, sha256_of
from xpsr_sdk.data.photo import LoadedPhoto
from xpsr_sdk.errors import ConfigError, ImageError, one_line
from xpsr_sdk.files.remote import RemotePath
from xpsr_sdk.plugin_system.registry import Registry, default_registry
from xpsr_sdk.prompts.describe import describe, joined
from xpsr_sdk.prompts.store import STORE_NAME, PromptStore, SeenImage, StoredPrompt
from xpsr_sdk.runners.local import LocalRunner
from xpsr_sdk.runners.work import Done, PartlyFailed, Runner

GIVE_UP_AFTER = 50
"""If the provider fails for so many images in a row, it is not asked about the others."""


@dataclass(frozen=True)
class Part:
    """Part ``index``, counted from 0, of ``count`` parts of a folder. The path of an image decides where it belongs."""

    index: int
    count: int

    def holds(self, path: str) -> bool:
        """Whether the image at that path belongs to this part."""
        return zlib.crc32(path.encode(errors="surrogateescape")) % self.count == self.index


class Photo(NamedTuple):
    """An image to describe: its file, and its name in the store."""

    file: Path
    name: str


class Batch(NamedTuple):
    """Images that the provider gets together.

    Attributes:
        photos: The images.
        is_rest: Whether the provider failed for these images of a batch, but described others of it.
    """

    photos: Sequence[Photo]
    is_rest: bool = False


class Description(NamedTuple):
    """What a worker tells of a batch.

    Attributes:
        images: The images that could be read.
        failed: Those that could not, each with the reason.
        missing: The levels that were asked for, by content.
        answers: What the provider answered, by content.
    """

    images: dict[Path, SeenImage]
    failed: dict[Path, str]
    missing: dict[str, tuple[PromptLevel, ...]]
    answers: dict[str, Prompts]

    def fails(self, photo: Photo) -> bool:
        """Whether the image could not be read, or the provider failed for it."""
        if photo.file in self.failed:
            return True
        prompts = self.answers.get(self.images[photo.file].sha256)
        return prompts is not None and bool(prompts.errors)

    def of(self, photos: Iterable[Photo]) -> Description:
        """What is told of some of the images, all of which could be read."""
        images = {photo.file: self.images[photo.file] for photo in photos}
        contents = {image.sha256 for image in images.values()}
        missing = {content: levels for content, levels in self.missing.items() if content in contents}
        return Description(images, {}, missing, {c: said for c, said in self.answers.items() if c in contents})


@dataclass
class Captioned:
    """The report on the images.

    Attributes:
        described: The number of images that were described.
        known: The number of images that had all prompts already.
        failed: The images that could not be read, each with the reason.
        unprompted: The images for which the provider failed, each with the reason.
        given_up: Why the provider was not asked about the other images; empty if it was asked about all.
    """

    described: int = 0
    known: int = 0
    failed: dict[Path, str] = field(default_factory=dict)
    unprompted: dict[Path, str] = field(default_factory=dict)
    given_up: str = ""


def caption_folder(
    folder: Path,
    *,
    prompt_provider: Component = "measured",
    levels: Sequence[PromptLevel] = ("high", "low"),
    store: Path | None = None,
    batch_size: int = 16,
    workers: int = 1,
    runner: Runner | None = None,
    part: tuple[int, int] = (0, 1),
    max_megapixels: float = MAX_TRAINING_MEGAPIXELS,
    registry: Registry | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
    on_failure: Callable[[Path, str], object] = lambda photo, reason: None,
) -> Captioned:
    """Describe every image in ``folder`` and its subfolders, and store the prompts.

    An image is not described again if a prompt with the same content, provider, model and question is stored. Each
    batch is one transaction, so that a run that is killed loses only the current batches. Images that cannot be read,
    and errors of the provider, are reported, not raised.

    Args:
        folder: The folder of images.
        prompt_provider: The prompt provider.
        levels: What to describe: the content (``high``), the quality (``low``), or both.
        store: The file of prompts. None: ``prompts.sqlite`` in ``folder``.
        batch_size: How many images the provider gets at a time.
        workers: Number of processes, each with its own provider. If there are several, they are spawned, so a script
            that uses them needs the usual ``if __name__ == "__main__":``.
        runner: Where the images are described. None: in ``workers`` processes of this machine.
        part: The part of the images to describe, counted from 0, and the number of parts: ``(1, 8)`` is the second of
            eight. Other machines or commands can describe the others.
        max_megapixels: Images with more megapixels are reported as failed, however small their files are.
        registry: The registry in which the provider is looked up. None: the built-in and the installed plug-ins.
        progress: ``progress(done, total)``, called after each batch.
        on_failure: ``on_failure(photo, reason)``, called for each image that failed or whose prompts are missing.

    Raises:
        ConfigError: There are no images, or the store cannot be used.
        PluginError: The provider is unknown or broken, or a worker cannot import a plug-in, see ``Registry``.
    """
    registry = registry or default_registry()
    provider = registry.create("prompt_provider", prompt_provider)  # raises errors of wrong options at once
    keys = {level: prompt_key(provider, prompt_provider, registry, level) for level in levels}
    found = find_images(folder)
    if not found:
        raise ConfigError(f"{folder} holds no images.")
    photos = [photo for photo in found if Part(*part).holds(photo.relative_to(folder).as_posix())]
    with closing(PromptStore(store or folder / STORE_NAME, writable=True)) as file:
        file.add([], [])  # creates the file, so that workers find it
        work = CaptionWork(prompt_provider, keys, registry, file.file, max_megapixels)
        desk = _Desk(file, keys, photos, batch_size, progress, on_failure)
        desk.describe_all(runner or LocalRunner(workers), work)
    return desk.report


def prompt_key(provider: PromptProvider, choice: Component, registry: Registry, level: PromptLevel) -> PromptKey:
    """Everything that the provider's descriptions of that level depend on, except the image."""
    if hasattr(provider, "prompt_key"):
        key: PromptKey = provider.prompt_key(level)
        return key
    name = choice if isinstance(choice, str) else choice["name"]
    return PromptKey(name, registry.config("prompt_provider", choice).model_dump_json())


@dataclass(frozen=True)
class CaptionWork:
    """Describes batches. Workers only look into the store: it is written where ``caption_folder`` was called."""

    provider: Component
    keys: Mapping[PromptLevel, PromptKey]
    registry: Registry
    store: Path
    max_megapixels: float
    machine: str = field(default_factory=platform.node)

    @contextmanager
    def warm(self) -> Iterator[Callable[[Batch], Description]]:
        """See ``Work``."""
        provider: PromptProvider = self.registry.create("prompt_provider", self.provider)
        with closing(PromptStore(self.store)) as store:
            yield _Captioner(self, provider, store).describe


class _Captioner:
    """The provider of a worker, and the store as it sees it."""

    def __init__(self, work: CaptionWork, provider: PromptProvider, store: PromptStore) -> None:
        self.work, self.provider, self.store = work, provider, store
        # SQLite is not meant to be read over a network.
        self.sees_store = work.machine == platform.node() and not isinstance(work.store, RemotePath)

    def describe(self, batch: Batch) -> Description:
        """Describe a batch.

        Raises:
            PartlyFailed: Some images failed, and may be described by another worker: one that can reach them, say.
        """
        found = self._described(batch.photos)
        failed = [photo for photo in batch.photos if found.fails(photo)]
        if failed:
            others = [photo for photo in batch.photos if not found.fails(photo)]
            rest = found.of(others)
            is_rest = bool(rest.answers)
            raise PartlyFailed(found, Batch(failed, is_rest), (Batch(others), rest) if others else None)
        return found

    def _described(self, photos: Sequence[Photo]) -> Description:
        """Contents that are stored already, such as copies, are not described."""
        found = Description({}, {}, {}, {})
        views: dict[str, list[tuple[list[PromptLevel], Item]]] = {}
        for photo in photos:
            try:
                picture = read_picture(photo.file, self.work.max_megapixels)
                status = photo.file.stat()
                content = sha256_of(photo.file)
                missing = self._missing(content)
                if missing and content not in views:  # decoded here, no larger than a provider needs
                    views[content] = list(LoadedPhoto(picture, photo.file, content).views(missing))
            except (ImageError, OSError) as error:
                found.failed[photo.file] = str(error) if isinstance(error, ImageError) else one_line(error)
                continue
            found.images[photo.file] = SeenImage(photo.name, status.st_size, status.st_mtime_ns, content)
            found.missing[content] = missing
        found.answers.update(self._ask(views))
        return found

    def _missing(self, content: str) -> tuple[PromptLevel, ...]:
        return missing_levels(self.store, self.work.keys, content) if self.sees_store else tuple(self.work.keys)

    def _ask(self, views: Mapping[str, Sequence[tuple[list[PromptLevel], Item]]]) -> dict[str, Prompts]:
        """The provider's answers about each content, of which it sees views for some levels each."""
        by_levels: dict[tuple[PromptLevel, ...], list[tuple[str, Item]]] = defaultdict(list)
        for content, seen in views.items():
            for levels, item in seen:
                by_levels[tuple(levels)].append((content, item))
        answers: dict[str, list[Prompts]] = defaultdict(list)
        for asked, items in by_levels.items():
            for (content, _), said in zip(
                items, describe(self.provider, [item for _, item in items], asked), strict=True
            ):
                answers[content].append(said)
        return {content: joined(said) for content, said in answers.items()}


def missing_levels(store: PromptStore, keys: Mapping[PromptLevel, PromptKey], content: str) -> tuple[PromptLevel, ...]:
    """The levels of an image's content that are not stored yet."""
    return tuple(level for level, key in keys.items() if not store.has(content, level, key))


class _Desk:
    """Sorts out what is known, stores what the workers tell, and keeps the report."""

    def __init__(
        self,
        store: PromptStore,
        keys: Mapping[PromptLevel, PromptKey],
        photos: Sequence[Path],
        batch_size: int,
        progress: Callable[[int, int], object],
        on_failure: Callable[[Path, str], object],
    ) -> None:
        self.report = Captioned()
        self._store, self._keys, self._photos, self._batch_size = store, keys, photos, batch_size
        self._progress, self._on_failure = progress, on_failure
        self._done, self._failures_in_a_row = 0, 0

    def describe_all(self, runner: Runner, work: CaptionWork) -> None:
        """Describe the images. A batch that was lost twice is described image by image, so that one costs no other."""
        lost = [photo for done in self._run(runner, work, self._batches()) for photo in done.given.photos]
        if lost:
            for done in self._run(runner, work, [Batch([photo]) for photo in lost]):
                self._fail(self.report.unprompted, done.given.photos[0].file, done.reason)
                self._tell(1)
        self.report.failed = dict(sorted(self.report.failed.items()))
        self.report.unprompted = dict(sorted(self.report.unprompted.items()))

    def _run(self, runner: Runner, work: CaptionWork, batches: Iterable[Batch]) -> list[Done[Batch, Description]]:
        """Take what the workers tell, until all is done or given up. Gives the batches that failed as a whole."""
        lost = []
        with closing(runner.run(work, batches)) as results:
            for done in results:
                if isinstance(done.error, ConfigError):
                    raise done.error
                if done.error is not None:
                    lost.append(done)
                else:
                    self._take(done.result(), done.given.is_rest)
                    self._tell(len(done.given.photos))
                if self.report.given_up:
                    return []
        return lost

    def _batches(self) -> Iterator[Batch]:
        """The images that are not known, in batches."""
        batch: list[Photo] = []
        for file in self._photos:
            photo = Photo(file, self._store.name_of(file))
            if self._is_known(photo):
                self.report.known += 1
                self._done += 1
                continue
            batch.append(photo)
            if len(batch) == self._batch_size:
                yield Batch(batch)
                batch = []
        if batch:
            yield Batch(batch)
        self._tell(0)

    def _is_known(self, photo: Photo) -> bool:
        """Whether the image has not changed since it was stored, and has all prompts."""
        seen = self._store.seen(photo.name)
        try:
            is_same = seen is not None and seen.is_still(photo.file.stat())
        except OSError:  # is told by the worker
            return False
        return is_same and seen is not None and not missing_levels(self._store, self._keys, seen.sha256)

    def _tell(self, more: int) -> None:
        self._done += more
        self._progress(self._done, len(self._photos))

    def _fail(self, where: dict[Path, str], photo: Path, reason: str) -> None:
        where[photo] = reason
        self._on_failure(photo, reason)

    def _take(self, found: Description, is_rest: bool) -> None:
        """Store the prompts of a batch in one transaction, and count its images."""
        self._store.add(self._rows(found), found.images.values())
        for photo, reason in found.failed.items():
            self._fail(self.report.failed, photo, reason)
        for photo, image in found.images.items():
            prompts = found.answers.get(image.sha256)
            if prompts is None:
                self.report.known += 1
                continue
            if prompts.errors:
                self._fail(self.report.unprompted, photo, "; ".join(dict.fromkeys(prompts.errors.values())))
            if prompts.source:
                self.report.described += 1
            if prompts.source or not prompts.errors:
                self._failures_in_a_row = 0
            elif not is_rest:
                self._failures_in_a_row += 1
        if self._failures_in_a_row >= GIVE_UP_AFTER:
            reason = next(reversed(self.report.unprompted.values()))
            self.report.given_up = (
                f"the provider failed for {self._failures_in_a_row} images in a row. The last error: {reason}"
            )

    def _rows(self, found: Description) -> list[StoredPrompt]:
        """The rows to store: descriptions, and levels that are not offered. Failures are not stored."""
        return [
            StoredPrompt(content, level, self._keys[level], getattr(prompts, level), prompts.source.get(level, ""))
            for content, prompts in found.answers.items()
            for level in found.missing[content]
            if level not in prompts.errors
        ]
