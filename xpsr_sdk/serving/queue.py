"""A queue for one loaded pipeline: it takes requests from many threads and batches those that are compatible."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Self

from torch import Tensor

from xpsr_sdk.data.photo import LoadedPhoto, Photo, load_photo
from xpsr_sdk.errors import ConfigError, QueueClosed, QueueFull
from xpsr_sdk.pipeline import Pipeline
from xpsr_sdk.resolved import ResolvedSettings
from xpsr_sdk.result import Result

OWN = {"seed", "prompt", "low_prompt", "positive", "negative", "low_negative", "color"}
"""Settings in which requests of one batch may differ."""


@dataclass(frozen=True)
class Request:
    """A photo that waits to be restored."""

    photo: LoadedPhoto
    settings: ResolvedSettings
    # Never marked as running, so that it can be cancelled until its result is there.
    future: Future[Result] = field(default_factory=Future)

    def kind(self) -> Hashable:
        """Requests of the same kind can go through the networks together."""
        return (self.photo.picture.size, *self.settings.model_dump(exclude=OWN).values())

    def finish(self, outcome: Result | BaseException) -> None:
        """Hand the result, or the failure, to whoever waits, be it for the end of a cancelled one."""
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class RestorationQueue:
    """Restores photos for many threads with one pipeline, which nobody else may call meanwhile.

    >>> with RestorationQueue(build_pipeline()) as queue:                  # doctest: +SKIP
    ...     futures = [queue.submit(path, seed=1) for path in paths]
    ...     images = [future.result().image for future in futures]

    The result depends on a request's own photo, seed and settings. What it was batched with may change the order in
    which numbers are added up, and by that a value of 255 by a few in float32.

    Args:
        pipeline: From ``build_pipeline``.
        max_batch: Photos that go through the networks together, if they are of one size and want the same.
        queue_size: Requests that may wait.

    Raises:
        ConfigError: One of the numbers is less than 1.
    """

    def __init__(self, pipeline: Pipeline, *, max_batch: int = 4, queue_size: int = 64) -> None:
        for name, number in (("max_batch", max_batch), ("queue_size", queue_size)):
            if number < 1:
                raise ConfigError(f"{name} is {number}: it must be at least 1.")
        self._pipeline, self._max_batch, self._queue_size = pipeline, max_batch, queue_size
        self._waiting: list[Request] = []
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="xpsr-queue", daemon=True)
        self._worker.start()

    def submit(self, photo: Photo, *, timeout: float | None = None, **settings: Any) -> Future[Result]:
        """Put a photo into the queue.

        Args:
            photo: A path, a PIL image or an item.
            timeout: Seconds to wait for room in the queue; 0: do not wait; None: wait without a limit.
            settings: Fields of ``xpsr_sdk.config.RestoreConfig``.

        Returns:
            A future. Its ``cancel`` works until the result is there; a photo that is being restored is then dropped
            after the current step.

        Raises:
            ConfigError: A setting is unknown or out of range.
            ImageError: The photo cannot be read.
            QueueFull: There was no room in the queue.
            QueueClosed: The queue takes no more.
        """
        chosen = self._pipeline.resolve(settings)
        request = Request(load_photo(photo, chosen), chosen)
        with self._changed:
            # The worker itself, in a callback of a result, would wait for itself.
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
                self._changed.notify_all()  # there is room

    def close(self, *, cancel_waiting: bool = False) -> None:
        """Take no more photos, and return when those in the queue are restored, or cancelled."""
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
        """A result or a failure each; the failure of one, whose file may be damaged, is not that of the others."""
        try:
            return list(self._restore(batch))
        except _NobodyWaits as error:
            return [error] * len(batch)
        except BaseException as error:  # a part that exits would leave everybody waiting
            return [error] if len(batch) == 1 else [self._outcomes([request])[0] for request in batch]

    def _next_batch(self) -> list[Request]:
        """The oldest request and those that can go with it; none: the queue is closed and empty."""
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
                request.future.set_running_or_notify_cancel()  # tells those in concurrent.futures.wait
        self._waiting = [request for request in self._waiting if not request.future.cancelled()]

    def _restore(self, batch: list[Request]) -> list[Result]:
        def stop_if_unwanted(_step: int, _timestep: int, _latents: Tensor) -> None:
            if all(request.future.cancelled() for request in batch):
                raise _NobodyWaits

        return self._pipeline.restore(
            [request.photo for request in batch], [request.settings for request in batch], callback=stop_if_unwanted
        )


class _NobodyWaits(Exception):
    """Every photo of a batch was cancelled."""
