"""One restoration of one photo: how far it is, and what came out."""

from __future__ import annotations

import secrets
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from xpsr_sdk.config import PipelineConfig
from xpsr_sdk.errors import XPSRError
from xpsr_sdk.result import Result
from xpsr_sdk.serving.how_far import HowFar
from xpsr_sdk.web.catalogue import UPSCALER_ALONE
from xpsr_sdk.web.files import StoredPhoto

State = Literal["waiting", "loading", "restoring", "saving", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")


class TooSlow(XPSRError):
    """A restoration took longer than it may."""


@dataclass
class Job:
    """A restoration that a visitor has asked for.

    Attributes:
        photo: What is restored.
        config: With these settings.
        given: What the visitor has chosen, as the page sends it.
        title: What tells it apart from others, such as the value of the dial that a sheet compares.
        minutes: The longest that it may take.
        state: How far it is.
        error: Why it failed.
        notes: Warnings.
        share: How much is done, from 0 to 1.
        stage: What is being done, in words.
        details: What came out: size, seed, prompts and so on.
        file: The result, in all its depth.
        end: Ends with the job, whatever came out.
        future: The restoration in the queue.
    """

    photo: StoredPhoto
    config: PipelineConfig
    given: dict[str, Any]
    title: str
    minutes: float
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    state: State = "waiting"
    error: str = ""
    notes: list[str] = field(default_factory=list)
    share: float = 0.0
    stage: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    file: Path | None = None
    end: Future[None] = field(default_factory=Future)
    future: Future[Result] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _began: float = 0.0
    _far: HowFar = field(default_factory=lambda: HowFar(1))

    def __post_init__(self) -> None:
        self.end.set_running_or_notify_cancel()  # whoever stops waiting does not cancel it for others

    def watch(self, stage: str, done: int, total: int) -> None:
        """Follow the restoration: see ``xpsr_sdk.engine.watching``.

        Raises:
            TooSlow: It takes longer than it may.
        """
        if self.state == "waiting":
            self._began = time.monotonic()
            self.go("restoring")
        if time.monotonic() - self._began > 60 * self.minutes:
            raise TooSlow(f"It took longer than {self.minutes:g} minutes, the most here: try a smaller result.")
        self._far.hear(stage, done, total)
        self.share, self.stage = self._far.share, self._far.words

    def go(self, state: State, stage: str = "") -> bool:
        """Set the state, unless the job has ended, as another thread may have cancelled it. Whether it goes on."""
        with self._lock:
            if self.state in ENDED:
                return False
            self.state, self.stage = state, stage
            return True

    def plan(self, evaluations: int) -> None:
        """Say how many evaluations of the model there will be at most, before the job is watched."""
        self._far = HowFar(evaluations, self.config.model == UPSCALER_ALONE)

    def finish(self, state: State, error: str = "") -> None:
        """Set the state with which it ends, unless it has ended already."""
        with self._lock:
            if self.state in ENDED:
                return
            self.state, self.error = state, error
        self.end.set_result(None)

    def about(self, ahead: int) -> dict[str, Any]:
        """What the page is told; ``ahead``: how many are before it."""
        return {
            "id": self.id,
            "photo": self.photo.id,
            "name": self.photo.name,
            "title": self.title,
            "state": self.state,
            "ahead": ahead if self.state == "waiting" else 0,
            "share": round(1.0 if self.state == "done" else self.share, 3),
            "stage": self.stage,
            "seconds": round(time.monotonic() - self._began) if self.state == "restoring" else None,
            "error": self.error,
            "notes": self.notes,
            "given": self.given,
            "result": self.details,
        }
