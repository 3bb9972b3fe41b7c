"""Describes the images of a folder in advance, and stores the prompts."""

from __future__ import annotations

import multiprocessing
import warnings
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

from xpsr_sdk.config import Component
from xpsr_sdk.contracts import Item, PromptKey, PromptLevel, PromptProvider, Prompts
from xpsr_sdk.data.files import find_images
from xpsr_sdk.data.images import MAX_TRAINING_MEGAPIXELS, read_image
from xpsr_sdk.data.workers import end_with_parent
from xpsr_sdk.errors import ConfigError, ImageError, XPSRError, one_line
from xpsr_sdk.plugin_system.registry import Registry, default_registry
from xpsr_sdk.prompts.describe import describe
from xpsr_sdk.prompts.store import STORE_NAME, PromptStore, SeenImage, StoredPrompt

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


class Job(NamedTuple):
    """The arguments of ``caption_folder``, for worker processes."""

    folder: Path
    provider: Component
    levels: tuple[PromptLevel, ...]
    store: Path
    batch_size: int
    registry: Registry
    max_megapixels: float


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

    def add(self, other: Captioned) -> None:
        """Add the report on other images."""
        self.described += other.described
        self.known += other.known
        self.failed |= other.failed
        self.unprompted |= other.unprompted
        self.given_up = self.given_up or other.given_up


def caption_folder(
    folder: Path,
    *,
    prompt_provider: Component = "measured",
    levels: Sequence[PromptLevel] = ("high", "low"),
    store: Path | None = None,
    batch_size: int = 16,
    workers: int = 1,
    part: tuple[int, int] = (0, 1),
    max_megapixels: float = MAX_TRAINING_MEGAPIXELS,
    registry: Registry | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
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
        part: The part of the images to describe, counted from 0, and the number of parts: ``(1, 8)`` is the second of
            eight. Other machines or commands can describe the others.
        max_megapixels: Images with more megapixels are reported as failed, however small their files are.
        registry: The registry in which the provider is looked up. None: the built-in and the installed plug-ins.
        progress: ``progress(done, total)``, called after each batch.

    Raises:
        ConfigError: There are no images, or the store cannot be used.
        PluginError: The provider is unknown or broken, or a worker cannot import a plug-in, see ``Registry``.
    """
    share = Part(*part)
    registry = registry or default_registry()
    job = Job(
        folder, prompt_provider, tuple(levels), store or folder / STORE_NAME, batch_size, registry, max_megapixels
    )
    registry.create("prompt_provider", prompt_provider)  # raises errors of wrong options before anything starts
    photos = find_images(folder)
    if not photos:
        raise ConfigError(f"{folder} holds no images.")
    total = len(_photos_of(job, share, photos))
    whole = PromptStore(job.store, writable=True)
    whole.add([], [])  # creates the file, so that workers find it
    parts = [Part(share.index + share.count * i, share.count * workers) for i in range(workers)]
    report, done = Captioned(), 0
    for size, outcome in _in_processes(job, parts) if workers > 1 else _caption(job, share):
        report.add(outcome)
        done += size
        progress(done, total)
    whole.close()
    return report


def _photos_of(job: Job, part: Part, photos: Sequence[Path]) -> list[Path]:
    return [photo for photo in photos if part.holds(photo.relative_to(job.folder).as_posix())]


def _caption(job: Job, part: Part) -> Iterator[tuple[int, Captioned]]:
    """Describe a part in this process. Yields the size and the report of each batch."""
    captioner = _Captioner(job)
    photos = _photos_of(job, part, find_images(job.folder))
    try:
        for first in range(0, len(photos), job.batch_size):
            batch = photos[first : first + job.batch_size]
            outcome = captioner.caption(batch)
            yield len(batch), outcome
            if outcome.given_up:
                return
    finally:
        captioner.store.close()


class _Captioner:
    """The provider and the store of a process."""

    def __init__(self, job: Job) -> None:
        self.provider: PromptProvider = job.registry.create("prompt_provider", job.provider)
        self.keys = {level: prompt_key(self.provider, job, level) for level in job.levels}
        self.store = PromptStore(job.store, writable=True)
        self.failures_in_a_row = 0
        self.max_megapixels = job.max_megapixels

    def caption(self, photos: Sequence[Path]) -> Captioned:
        """Describe a batch, and store the prompts in one transaction."""
        outcome = Captioned()
        images: dict[Path, SeenImage] = {}
        items: dict[str, Item] = {}
        missing: dict[str, tuple[PromptLevel, ...]] = {}
        for photo in photos:
            try:
                images[photo], item = self._identify(photo)
                content = images[photo].sha256
                missing[content] = self._missing(content)
                if missing[content] and content not in items:
                    items[content] = item or read_image(photo, self.max_megapixels)
            except (ImageError, OSError) as error:
                images.pop(photo, None)
                outcome.failed[photo] = str(error) if isinstance(error, ImageError) else one_line(error)
        answers = self._ask(items, missing)
        self.store.add(self._rows(answers, missing), images.values())
        self._count(outcome, images, answers)
        return outcome

    def _identify(self, photo: Path) -> tuple[SeenImage, Item | None]:
        """The hash of an image. The image is read, and returned as well, only if it has changed since it was stored."""
        status = photo.stat()
        name = self.store.name_of(photo)
        seen = self.store.seen(name)
        if seen and seen.is_still(status):
            return seen, None
        item = read_image(photo, self.max_megapixels)
        return SeenImage(name, status.st_size, status.st_mtime_ns, str(item.sha256)), item

    def _missing(self, content: str) -> tuple[PromptLevel, ...]:
        """The levels of an image's content that are not stored yet."""
        return tuple(level for level, key in self.keys.items() if not self.store.has(content, level, key))

    def _ask(self, items: dict[str, Item], missing: dict[str, tuple[PromptLevel, ...]]) -> dict[str, Prompts]:
        """The provider's answers about each content, at its missing levels."""
        by_levels: dict[tuple[PromptLevel, ...], list[str]] = defaultdict(list)
        for content in items:
            by_levels[missing[content]].append(content)
        answers: dict[str, Prompts] = {}
        for levels, contents in by_levels.items():
            described = describe(self.provider, [items[content] for content in contents], levels)
            answers |= zip(contents, described, strict=True)
        return answers

    def _rows(self, answers: dict[str, Prompts], missing: dict[str, tuple[PromptLevel, ...]]) -> list[StoredPrompt]:
        """The rows to store: descriptions, and levels that are not offered. Failures are not stored."""
        return [
            StoredPrompt(content, level, self.keys[level], getattr(prompts, level), prompts.source.get(level, ""))
            for content, prompts in answers.items()
            for level in missing[content]
            if level not in prompts.errors
        ]

    def _count(self, outcome: Captioned, images: dict[Path, SeenImage], answers: dict[str, Prompts]) -> None:
        for photo, image in images.items():
            prompts = answers.get(image.sha256)
            if prompts is None:
                outcome.known += 1
                continue
            if prompts.errors:
                outcome.unprompted[photo] = "; ".join(dict.fromkeys(prompts.errors.values()))
            if prompts.source:
                outcome.described += 1
            self.failures_in_a_row = self.failures_in_a_row + 1 if prompts.errors and not prompts.source else 0
        if self.failures_in_a_row >= GIVE_UP_AFTER:
            reason = next(reversed(outcome.unprompted.values()))
            outcome.given_up = (
                f"the provider failed for {self.failures_in_a_row} images in a row. The last error: {reason}"
            )


def prompt_key(provider: PromptProvider, job: Job, level: PromptLevel) -> PromptKey:
    """Everything that the provider's descriptions of that level depend on, except the image."""
    if hasattr(provider, "prompt_key"):
        key: PromptKey = provider.prompt_key(level)
        return key
    name = job.provider if isinstance(job.provider, str) else job.provider["name"]
    return PromptKey(name, job.registry.config("prompt_provider", job.provider).model_dump_json())


def _in_processes(job: Job, parts: Sequence[Part]) -> Iterator[tuple[int, Captioned]]:
    """Describe each part in its own process. Yields the size and the report of each batch as it is finished.

    Raises:
        XPSRError: A worker raised it, or a worker died.
    """
    # Workers are spawned: torch has started threads, and a fork of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, multiprocessing.process.BaseProcess] = {}
    try:
        for part in parts:
            ours, theirs = context.Pipe(duplex=False)
            started = context.Process(target=_work, args=(job, part, theirs), daemon=True)
            started.start()  # fails if the job cannot be pickled
            workers[ours] = started
            theirs.close()
        while workers:
            for pipe in wait(list(workers)):
                assert isinstance(pipe, Connection)
                try:
                    message = pipe.recv()
                except EOFError:
                    worker = workers.pop(pipe)
                    worker.join()
                    if worker.exitcode:
                        raise XPSRError(
                            f"A worker died with exit code {worker.exitcode}; the prompts that it stored are kept."
                        ) from None
                    continue
                if isinstance(message, Warning):
                    warnings.warn(message, stacklevel=2)
                    continue
                if isinstance(message, Exception):
                    raise message
                yield message
    finally:
        for worker in workers.values():
            worker.terminate()


def _work(job: Job, part: Part, pipe: Connection) -> None:
    """A worker: describes its part, and sends the reports to the parent process."""
    end_with_parent()
    warnings.showwarning = lambda message, *_: pipe.send(UserWarning(str(message)))  # the parent shows them
    try:
        for outcome in _caption(job, part):
            pipe.send(outcome)
    except (KeyboardInterrupt, BrokenPipeError):  # the parent process has ended
        return
    except Exception as error:
        pipe.send(error)
