"""Keeps the photos and the results of all visitors for a while, and gives each visitor only their own."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xpsr_sdk.config import PipelineConfig
from xpsr_sdk.data.images import read_picture
from xpsr_sdk.data.photo import load_photo
from xpsr_sdk.errors import ImageError, QueueFull, XPSRError
from xpsr_sdk.web.dials import Dials
from xpsr_sdk.web.files import Storage, StoredPhoto, named_as, opened_photo, shown_name, write_for_page, write_thumbnail
from xpsr_sdk.web.jobs import ENDED, Job
from xpsr_sdk.web.limits import Limits
from xpsr_sdk.web.restorer import Restorer

SWEEP_SECONDS = 5.0
"""How often old files are looked for."""


class NotThere(XPSRError):
    """There is no such photo or result, or it is somebody else's."""


class Desk:
    """Everything that happens between an upload and a download.

    Args:
        dials: Reads settings.
        restorer: Restores photos.
        limits: What is allowed.
    """

    def __init__(self, dials: Dials, restorer: Restorer, limits: Limits) -> None:
        self._dials, self.restorer, self._limits = dials, restorer, limits
        self.storage = Storage(limits.max_disk_gb * 1e9)
        self._photos: dict[str, StoredPhoto] = {}
        self._jobs: dict[str, Job] = {}
        self._times: dict[str, float] = {}
        self._lock = threading.RLock()
        self._closed = threading.Event()
        threading.Thread(target=self._sweep, name="xpsr-web-sweep", daemon=True).start()

    def close(self) -> None:
        """Cancel everything, and delete all files."""
        if self._closed.is_set():
            return
        self._closed.set()
        for job in list(self._jobs.values()):
            self.restorer.cancel(job)
        self.restorer.close()
        self.storage.close()

    def warm_up(self) -> None:
        """Load the first model in the background."""
        self.restorer.warm_up(self._dials.read({}))

    def add_photo(self, visitor: str, file: Path, name: str) -> StoredPhoto:
        """Take a file that was uploaded.

        Raises:
            ImageError: It is no still image, or it is too large.
        """
        photo = opened_photo(file, shown_name(name), visitor, self._limits.max_megapixels)
        with self._lock:
            self._photos[photo.id] = photo
            self._touch(photo)
        return photo

    def photo(self, visitor: str, photo_id: str) -> StoredPhoto:
        """A photo of the visitor's.

        Raises:
            NotThere: There is none of this name.
        """
        with self._lock:
            photo = self._photos.get(photo_id)
            if photo is None or photo.visitor != visitor:
                raise NotThere("There is no such photo: it was deleted, or is another visitor's.")
            self._touch(photo)
            return photo

    def photos(self, visitor: str) -> list[StoredPhoto]:
        """All photos of the visitor's, oldest first."""
        with self._lock:
            return [photo for photo in self._photos.values() if photo.visitor == visitor]

    def restore(self, visitor: str, photo_id: str, given: Mapping[str, Any], title: str = "") -> Job:
        """Put a photo into the queue.

        Raises:
            NotThere: There is no such photo.
            ConfigError: A setting is wrong.
            ImageError: The result would be too large or too small.
            QueueFull: Too many photos wait.
        """
        photo = self.photo(visitor, photo_id)
        config = self._dials.read(given)
        self._check_size(photo, config)
        kept = {name: value for name, value in given.items() if value is not None}
        job = Job(photo, config, kept, title, self._limits.minutes_each)
        with self._lock:
            waiting = [other for other in self._jobs.values() if other.state not in ENDED]
            if len(waiting) >= self._limits.queue_size:
                raise QueueFull(f"{len(waiting)} photos are waiting, which is the most: try again later.")
            if sum(other.photo.visitor == visitor for other in waiting) >= self._limits.photos_each:
                raise QueueFull(f"{self._limits.photos_each} of your photos are waiting, which is the most.")
            self._jobs[job.id] = job
        self.restorer.start(job)
        return job

    def job(self, visitor: str, job_id: str) -> Job:
        """A job of the visitor's.

        Raises:
            NotThere: There is none of this name.
        """
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None or job.photo.visitor != visitor:
                raise NotThere("There is no such result: it was deleted, or is another visitor's.")
            self._touch(job.photo)
            return job

    def jobs(self, visitor: str) -> list[dict[str, Any]]:
        """What the page is told of all jobs of the visitor's, oldest first."""
        with self._lock:
            return [self.about(job) for job in self._jobs.values() if job.photo.visitor == visitor]

    def about(self, job: Job) -> dict[str, Any]:
        """What the page is told of a job, with its place in the queue."""
        with self._lock:
            before = list(self._jobs.values())
            before = before[: before.index(job)] if job in before else []
            return job.about(sum(other.state not in ENDED for other in before))

    @property
    def waiting(self) -> int:
        """How many photos wait or are being restored."""
        with self._lock:
            return sum(job.state not in ENDED for job in self._jobs.values())

    def cancel(self, visitor: str, job_id: str) -> None:
        """End a job that has not ended, else delete it with its result."""
        job = self.job(visitor, job_id)
        if job.state in ENDED:
            with self._lock:
                self._jobs.pop(job_id, None)
            for file in job.photo.folder.glob(f"{job.id}*"):
                file.unlink(missing_ok=True)
        else:
            self.restorer.cancel(job)

    def delete_photo(self, visitor: str, photo_id: str) -> None:
        """Delete a photo with all its results."""
        self._delete(self.photo(visitor, photo_id))

    def view(self, visitor: str, photo_id: str, small: bool) -> Path:
        """A photo as browsers can show it.

        Raises:
            NotThere: There is no photo of this name.
            ImageError: It is damaged, which shows when its pixels are decoded.
        """
        photo = self.photo(visitor, photo_id)
        write = write_thumbnail if small else write_for_page
        try:
            picture = read_picture(photo.file, self._limits.max_megapixels)
            return write(picture, photo.folder, "small" if small else "view")
        except ImageError as error:  # which names files of the server
            raise ImageError(f"{photo.name} is damaged: it cannot be shown.") from error

    def result(self, visitor: str, job_id: str) -> Job:
        """A job of the visitor's that has a result.

        Raises:
            NotThere: There is none of this name, or it has no result yet.
        """
        job = self.job(visitor, job_id)
        if job.state != "done" or job.file is None or not job.file.exists():
            raise NotThere("There is no result yet.")
        return job

    def _check_size(self, photo: StoredPhoto, config: PipelineConfig) -> None:
        """Refuse at once what would be refused when it is restored."""
        with named_as(photo.file, photo.name):
            width, height = load_photo(photo.file, config).target_size(config)
        if width * height > self._limits.max_result_megapixels * 1e6:
            raise ImageError(
                f"The result of {photo.name} would be {width}x{height}, which is {width * height / 1e6:.1f} megapixels:"
                f" {self._limits.max_result_megapixels:g} is the most here."
            )

    def _touch(self, photo: StoredPhoto) -> None:
        self._times[photo.id] = time.monotonic()

    def _delete(self, photo: StoredPhoto) -> None:
        with self._lock:
            for job in [job for job in self._jobs.values() if job.photo is photo]:
                self.restorer.cancel(job)
                del self._jobs[job.id]
            self._photos.pop(photo.id, None)
            self._times.pop(photo.id, None)
        shutil.rmtree(photo.folder, ignore_errors=True)

    def _sweep(self) -> None:
        """Delete what nobody has asked for in a while, until the desk is closed."""
        while not self._closed.wait(SWEEP_SECONDS):
            old = time.monotonic() - 60 * self._limits.keep_minutes
            with self._lock:
                busy = {job.photo.id for job in self._jobs.values() if job.state not in ENDED}
                gone = [photo for photo in self._photos.values() if self._times[photo.id] < old]
            for photo in gone:
                if photo.id not in busy:
                    self._delete(photo)
