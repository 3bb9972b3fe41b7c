"""Describes the images of a folder ahead of time, into a store of prompts."""

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
from xpsr_sdk.data.images import read_image
from xpsr_sdk.data.workers import end_with_parent
from xpsr_sdk.errors import ConfigError, ImageError, XPSRError, one_line
from xpsr_sdk.plugin_system.registry import Registry, default_registry
from xpsr_sdk.prompts.describe import describe
from xpsr_sdk.prompts.store import STORE_NAME, PromptStore, SeenImage, StoredPrompt

GIVE_UP_AFTER = 50
"""Images in a row that the provider has no words for, after which it is not asked about the others."""


@dataclass(frozen=True)
class Part:
    """Part ``index``, counted from 0, of ``count`` parts of a folder. The path of an image decides where it belongs."""

    index: int
    count: int

    def holds(self, path: str) -> bool:
        """Whether the image at that path belongs to this part."""
        return zlib.crc32(path.encode(errors="surrogateescape")) % self.count == self.index


class Job(NamedTuple):
    """What is to be described, by whom, and where it goes. As ``caption_folder``."""

    folder: Path
    provider: Component
    levels: tuple[PromptLevel, ...]
    store: Path
    batch_size: int
    registry: Registry


@dataclass
class Captioned:
    """What became of the images.

    Attributes:
        described: How many were described.
        known: How many had all prompts already.
        failed: Those that could not be read, each with the reason.
        unprompted: Those for which the provider failed, each with the reason.
        given_up: Why the provider was not asked about the rest, if it was not.
    """

    described: int = 0
    known: int = 0
    failed: dict[Path, str] = field(default_factory=dict)
    unprompted: dict[Path, str] = field(default_factory=dict)
    given_up: str = ""

    def add(self, other: Captioned) -> None:
        """Take in what became of others."""
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
    registry: Registry | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Captioned:
    """Have every image below ``folder`` described, and store the prompts.

    What is stored already under the same content, provider, model and question is not asked again. Each batch is one
    transaction, so that a run that is killed loses the batches in flight only. Images that cannot be read, and prompts
    that cannot be had, are reported, not raised.

    Args:
        folder: The images.
        prompt_provider: Who describes them.
        levels: What is asked: the content (``high``), the quality (``low``), or both.
        store: The file of prompts. None: ``prompts.sqlite`` in ``folder``.
        batch_size: Images that the provider is handed at a time.
        workers: Processes, each with a provider of its own. More than one are started afresh (by spawning), so that a
            script that asks for them needs the usual ``if __name__ == "__main__":``.
        part: Which part of the images to describe, counted from 0, and how many parts there are: ``(1, 8)`` is the
            second of eight. Other machines or commands describe the others.
        registry: Where the provider is looked up; None: the built-in and the installed plug-ins.
        progress: ``progress(done, total)``, after each batch.

    Raises:
        ConfigError: There are no images, or the store cannot be used.
        PluginError: The provider is unknown or broken, or a worker cannot import a plug-in, see ``Registry``.
    """
    share = Part(*part)
    registry = registry or default_registry()
    job = Job(folder, prompt_provider, tuple(levels), store or folder / STORE_NAME, batch_size, registry)
    registry.create("prompt_provider", prompt_provider)  # wrong options are told before anything starts
    photos = find_images(folder)
    if not photos:
        raise ConfigError(f"{folder} holds no images.")
    total = len(_photos_of(job, share, photos))
    whole = PromptStore(job.store, writable=True)
    whole.add([], [])  # made here, so that workers find it
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
    """Describe a part in this process: for each batch, its size and what became of it."""
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
        self.in_vain = 0

    def caption(self, photos: Sequence[Path]) -> Captioned:
        """Describe a batch, and store what was said in one transaction."""
        outcome = Captioned()
        images: dict[Path, SeenImage] = {}
        items: dict[str, Item] = {}
        missing: dict[str, tuple[PromptLevel, ...]] = {}
        for photo in photos:
            try:
                images[photo], item = self._look(photo)
                content = images[photo].sha256
                missing[content] = self._missing(content)
                if missing[content] and content not in items:
                    items[content] = item or read_image(photo)
            except (ImageError, OSError) as error:
                images.pop(photo, None)
                outcome.failed[photo] = str(error) if isinstance(error, ImageError) else one_line(error)
        said = self._ask(items, missing)
        self.store.add(self._rows(said, missing), images.values())
        self._count(outcome, images, said)
        return outcome

    def _look(self, photo: Path) -> tuple[SeenImage, Item | None]:
        """The hash of an image, and the image if it was read: not if it is as it was when it was described."""
        status = photo.stat()
        name = self.store.name_of(photo)
        seen = self.store.seen(name)
        if seen and seen.is_still(status):
            return seen, None
        item = read_image(photo)
        return SeenImage(name, status.st_size, status.st_mtime_ns, str(item.sha256)), item

    def _missing(self, content: str) -> tuple[PromptLevel, ...]:
        """The levels of a content that are not stored."""
        return tuple(level for level, key in self.keys.items() if not self.store.has(content, level, key))

    def _ask(self, items: dict[str, Item], missing: dict[str, tuple[PromptLevel, ...]]) -> dict[str, Prompts]:
        """What the provider says of each content at the levels that are missing."""
        alike: dict[tuple[PromptLevel, ...], list[str]] = defaultdict(list)
        for content in items:
            alike[missing[content]].append(content)
        said: dict[str, Prompts] = {}
        for levels, contents in alike.items():
            answers = describe(self.provider, [items[content] for content in contents], levels)
            said |= zip(contents, answers, strict=True)
        return said

    def _rows(self, said: dict[str, Prompts], missing: dict[str, tuple[PromptLevel, ...]]) -> list[StoredPrompt]:
        """What is stored: descriptions, and that a level is not offered; failures are asked again."""
        return [
            StoredPrompt(content, level, self.keys[level], getattr(prompts, level), prompts.source.get(level, ""))
            for content, prompts in said.items()
            for level in missing[content]
            if level not in prompts.errors
        ]

    def _count(self, outcome: Captioned, images: dict[Path, SeenImage], said: dict[str, Prompts]) -> None:
        for photo, image in images.items():
            prompts = said.get(image.sha256)
            if prompts is None:
                outcome.known += 1
                continue
            if prompts.errors:
                outcome.unprompted[photo] = "; ".join(dict.fromkeys(prompts.errors.values()))
            if prompts.source:
                outcome.described += 1
            self.in_vain = self.in_vain + 1 if prompts.errors and not prompts.source else 0
        if self.in_vain >= GIVE_UP_AFTER:
            reason = next(reversed(outcome.unprompted.values()))
            outcome.given_up = f"the provider had no words for {self.in_vain} images in a row, the last time: {reason}"


def prompt_key(provider: PromptProvider, job: Job, level: PromptLevel) -> PromptKey:
    """What the provider's descriptions of that level depend on beside the image."""
    if hasattr(provider, "prompt_key"):
        key: PromptKey = provider.prompt_key(level)
        return key
    name = job.provider if isinstance(job.provider, str) else job.provider["name"]
    return PromptKey(name, job.registry.config("prompt_provider", job.provider).model_dump_json())


def _in_processes(job: Job, parts: Sequence[Part]) -> Iterator[tuple[int, Captioned]]:
    """Each part in a process of its own; what becomes of the batches, as it comes.

    Raises:
        XPSRError: One of a worker's own, or that it died.
    """
    context = multiprocessing.get_context("spawn")  # torch has threads by now, and a fork with threads may hang
    workers: dict[Connection, multiprocessing.process.BaseProcess] = {}
    try:
        for part in parts:
            ours, theirs = context.Pipe(duplex=False)
            started = context.Process(target=_work, args=(job, part, theirs), daemon=True)
            started.start()  # which fails if the worker cannot be handed the job
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
                            f"A worker died with exit code {worker.exitcode}; what it had stored stays."
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
    """A worker: describes its part for as long as somebody wants to know."""
    end_with_parent()
    warnings.showwarning = lambda message, *_: pipe.send(UserWarning(str(message)))  # told by whoever asked
    try:
        for outcome in _caption(job, part):
            pipe.send(outcome)
    except (KeyboardInterrupt, BrokenPipeError):  # whoever wants to know is gone
        return
    except Exception as error:
        pipe.send(error)
