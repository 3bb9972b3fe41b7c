"""Restores the photos of jobs one after the other: loads the model, waits in the queue, and keeps the result."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from xpsr_sdk.config import PipelineConfig, RestoreConfig
from xpsr_sdk.contracts import Prompts
from xpsr_sdk.errors import XPSRError, one_line, print_traceback
from xpsr_sdk.result import Result
from xpsr_sdk.serving.queue import RestorationQueue
from xpsr_sdk.web.catalogue import UPSCALER_ALONE
from xpsr_sdk.web.files import write_for_page, write_thumbnail
from xpsr_sdk.web.jobs import ENDED, Job
from xpsr_sdk.web.models import Models

Recipe = Callable[[PipelineConfig, str, int], Mapping[str, str]]
"""``recipe(config, photo, seed)``: how to make a result again."""


class Restorer:
    """Restores the photos of jobs. What becomes of each is in the job.

    Args:
        models: Loads models.
        queue_size: How many photos may wait.
        recipe: How to make a result again.
    """

    def __init__(self, models: Models, queue_size: int, recipe: Recipe) -> None:
        self._models, self._recipe = models, recipe
        self._queue = RestorationQueue(max_batch=1, queue_size=queue_size)
        self._starter = ThreadPoolExecutor(1, "xpsr-web-start")  # one, so that photos keep their order
        self._savers = ThreadPoolExecutor(1, "xpsr-web-save")  # so that the next photo need not wait
        self._in_thread = threading.local()
        self._is_closed = False

    def close(self) -> None:
        """Wait for what is being done; nothing else is begun."""
        self._is_closed = True
        self._starter.shutdown(cancel_futures=True)
        self._queue.close(cancel_waiting=True)
        self._savers.shutdown(cancel_futures=True)

    def warm_up(self, config: PipelineConfig) -> None:
        """Load a model in the background."""
        self._starter.submit(self._models.pipeline, config)

    def start(self, job: Job) -> None:
        """Restore the photo of a job after those of earlier ones."""
        self._starter.submit(self._start, job)

    def cancel(self, job: Job) -> None:
        """End a job, whatever is being done."""
        if job.future:
            job.future.cancel()
        job.finish("cancelled")

    @contextmanager
    def hearing_warnings(self) -> Iterator[None]:
        """Within the block, warnings about a photo become notes of its job, such as that memory ran out."""
        before = warnings.showwarning

        def hear(message: Warning | str, category: type[Warning], *where: Any, **how: Any) -> None:
            job: Job | None = getattr(self._in_thread, "job", None)
            if job is None:
                before(message, category, *where, **how)
            elif issubclass(category, UserWarning) and str(message) not in job.notes:
                job.notes.append(str(message).replace(str(job.photo.file), job.photo.name))

        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = hear
            yield

    def _start(self, job: Job) -> None:
        """Load the model, and put the photo into the queue of restorations."""
        if job.state in ENDED:
            return
        self._in_thread.job = job
        try:
            if not self._models.is_warm(job.config):
                job.go("loading", "Loading the model")
            pipeline = self._models.pipeline(job.config)
            given = job.config.model_dump(include=set(RestoreConfig.model_fields), exclude_none=True)
            settings = given | {"metadata": "keep"}  # what is kept is chosen at the download
            job.plan(pipeline.resolve(settings).num_inference_steps)
            if job.go("waiting"):
                job.future = self._queue.submit(
                    job.photo.file, pipeline=pipeline, watch=partial(self._follow, job), **settings
                )
                job.future.add_done_callback(partial(self._restored, job))
        except Exception as error:
            self._fail(job, error)
        finally:
            self._in_thread.job = None
        if job.state in ENDED and job.future:  # cancelled in between
            job.future.cancel()

    def _follow(self, job: Job, stage: str, done: int, total: int) -> None:
        self._in_thread.job = job
        job.watch(stage, done, total)

    def _restored(self, job: Job, future: Future[Result]) -> None:
        if future.cancelled():
            job.finish("cancelled")
        elif error := future.exception():
            self._fail(job, error)
        elif not self._is_closed and job.go("saving", "Saving"):
            self._savers.submit(self._save, job, future.result())

    def _save(self, job: Job, result: Result) -> None:
        self._in_thread.job = job
        try:
            file = job.photo.folder / f"{job.id}.png"
            result.save(file)
            write_for_page(result.picture, job.photo.folder, f"{job.id}-view")
            write_thumbnail(result.picture, job.photo.folder, f"{job.id}-small")
            width, height = result.picture.size
            job.details = {
                "width": width,
                "height": height,
                "seconds": round(result.timings["total"], 1),
                "seed": None if job.config.model == UPSCALER_ALONE else result.seed,
                "prompts": _described(result.prompts),
                "tiles": result.plan.tiles,
                "device": result.plan.device,
                **self._recipe(job.config, job.photo.name, result.seed),
            }
            job.file = file
            job.finish("done")
        except Exception as error:
            self._fail(job, error)
        finally:
            self._in_thread.job = None

    def _fail(self, job: Job, error: BaseException) -> None:
        print_traceback()
        words = str(error) if isinstance(error, XPSRError) else one_line(error)
        job.finish("failed", words.replace(str(job.photo.file), job.photo.name))


def _described(prompts: Prompts) -> dict[str, dict[str, str | None]]:
    """The descriptions under the names of the settings that replace them, each with who gave it."""
    found: dict[str, dict[str, str | None]] = {}
    if prompts.high is not None:
        found["prompt"] = {"text": prompts.high, "source": prompts.source.get("high")}
    if prompts.low is not None:
        found["low_prompt"] = {"text": prompts.low, "source": prompts.source.get("low")}
    return found
