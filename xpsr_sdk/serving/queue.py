"""A queue for loaded pipelines. It accepts requests from many threads, and batches those that are compatible."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Self

from xpsr_sdk.data.photo import LoadedPhoto, Photo, load_photo
from xpsr_sdk.engine.watching import Watch, watched_by
from xpsr_sdk.errors import ConfigError, QueueClosed, QueueFull
from xpsr_sdk.pipeline import Pipeline
from xpsr_sdk.resolved import ResolvedSettings
from xpsr_sdk.result import Result

MAY_DIFFER = {"seed", "prompt", "low_prompt", "positive", "negative", "low_negative", "color"}
"""Settings in which requests of one batch may differ."""


@dataclass(frozen=True)
class Request:
    """A photo that waits to be restored."""

    photo: LoadedPhoto
    settings: ResolvedSettings
    pipeline: Pipeline
    watch: Watch | None = None
    # The future is never marked as running, so that it can be cancelled until there is a result.
    future: Future[Result] = field(default_factory=Future)

    def kind(self) -> Hashable:
        """Requests of the same kind can go through the networks together."""
        return (id(self.pipeline), self.photo.picture.size, *self.settings.model_dump(exclude=MAY_DIFFER).values())

    def finish(self, outcome: Result | BaseException) -> None:
        """Set the result or the error. If the future was cancelled, only tell those who wait that it has ended."""
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class RestorationQueue:
    """Restores photos for many threads. Nothing else may use its pipelines at the same time.

    >>> with RestorationQueue(build_pipeline()) as queue:                  # doctest: +SKIP
    ...     futures = [queue.submit(path, seed=1) for path in paths]
    ...     images = [future.result().image for future in futures]

    A result depends only on the photo, the seed and the settings of its request. The other photos in its batch may
    change how sums are rounded, and so the levels of a result, by a few of 255 in float32.

    Args:
        pipeline: A pipeline from ``build_pipeline``. None: each photo comes with its own.
        max_batch: At most so many photos go through the networks together. They must have the same size and settings.
        queue_size: At most so many requests may wait.

    Raises:
        ConfigError: One of the numbers is less than 1.
    """

    def __init__(self, pipeline: Pipeline | None = None, *, max_batch: int = 4, queue_size: int = 64) -> None:
        for name, number in (("max_batch", max_batch), ("queue_size", queue_size)):
            if number < 1:
                raise ConfigError(f"{name} is {number}: it must be at least 1.")
        self._pipeline, self._max_batch, self._queue_size = pipeline, max_batch, queue_size
        self._waiting: list[Request] = []
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="xpsr-queue", daemon=True)
        self._worker.start()

    def submit(
        self,
        photo: Photo,
        *,
        timeout: float | None = None,
        pipeline: Pipeline | None = None,
        watch: Watch | None = None,
        **settings: Any,
    ) -> Future[Result]:
        """Put a photo into the queue.

        Args:
            photo: A path, a PIL image or an item.
            timeout: Seconds to wait for space in the queue. 0: do not wait. None: wait without a limit.
            pipeline: The pipeline that restores it. None: the queue's own.
            watch: Told how far the restoration is, in the queue's own thread: ``watch(stage, done, total)``. See
                ``xpsr_sdk.engine.watching``.
            settings: Fields of ``xpsr_sdk.config.RestoreConfig``.

        Returns:
            A future. It can be cancelled until there is a result. If all photos of a batch are cancelled while they are
            restored, the restoration ends after the current tile.

        Raises:
            ConfigError: A setting is unknown or out of range, or there is no pipeline.
            ImageError: The photo cannot be read.
            QueueFull: There was no space in the queue.
            QueueClosed: The queue is closed.
        """
        pipeline = pipeline or self._pipeline
        if pipeline is None:
            raise ConfigError("The queue has no pipeline of its own: give one with the photo.")
        chosen = pipeline.resolve(settings)
        request = Request(load_photo(photo, chosen), chosen, pipeline, watch)
        with self._changed:
            # If a callback of a result submits a photo, it runs in the worker, which must not wait for itself.
            timeout = 0 if threading.current_thread() is self._worker else timeout
            room = self._changed.wait_for(lambda: self._closed or len(self._waiting) < self._queue_size, timeout)
            if self._closed:
                raise QueueClosed("The queue is closed: it takes no more photos.")
            if not room:
                raise QueueFull(f"The queue of {self._queue_size} is full: wait, or make queue_size larger.")
            self._waiting.append(request)
            self._changed.notify_all()
        request.future.add_done_callback(self._one_is_done)
        return request.future

    def _one_is_done(self, future: Future[Result]) -> None:
        if future.cancelled():
            with self._changed:
                self._drop_cancelled()
                self._changed.notify_all()  # there is space in the queue

    def close(self, *, cancel_waiting: bool = False) -> None:
        """Accept no more photos, and wait until those in the queue are restored or cancelled."""
        with self._changed:
            self._closed = True
            if cancel_waiting:
                for request in self._waiting:
                    request.future.cancel()
            self._changed.notify_all()
        if threading.current_thread() is not self._worker:
            self._worker.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(cancel_waiting=kind is not None)

    def _work(self) -> None:
        while batch := self._next_batch():
            for request, outcome in zip(batch, self._outcomes(batch), strict=True):
                request.finish(outcome)

    def _outcomes(self, batch: list[Request]) -> list[Result | BaseException]:
        """The result or the error of each request. If a batch fails, each photo is restored alone."""
        try:
            return list(self._restore(batch))
        except _AllCancelled as error:
            return [error] * len(batch)
        except BaseException as error:  # also SystemExit, since everyone would wait forever without this thread
            return [error] if len(batch) == 1 else [self._outcomes([request])[0] for request in batch]

    def _next_batch(self) -> list[Request]:
        """The oldest request and those that can be batched with it. Empty if the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            kinds = [request.kind() for request in self._waiting]
            same = [request for request, kind in zip(self._waiting, kinds, strict=True) if kind == kinds[0]]
            batch = same[: self._max_batch]
            self._waiting = [request for request in self._waiting if all(request is not taken for taken in batch)]
            self._changed.notify_all()
            return batch

    def _drop_cancelled(self) -> None:
        for request in self._waiting:
            if request.future.cancelled():
                request.future.set_running_or_notify_cancel()  # wakes up those who wait in concurrent.futures.wait
        self._waiting = [request for request in self._waiting if not request.future.cancelled()]

    def _restore(self, batch: list[Request]) -> list[Result]:
        def watch(stage: str, done: int, total: int) -> None:
            if all(request.future.cancelled() for request in batch):
                raise _AllCancelled
            for request in batch:
                if request.watch:
                    request.watch(stage, done, total)

        with watched_by(watch):
            return batch[0].pipeline.restore(
                [request.photo for request in batch],
                [request.settings for request in batch],
            )


class _AllCancelled(Exception):
    """Every photo of a batch was cancelled."""
