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
from xpsr_sdk.web.catalogue import UPSCALER_ALONE
from xpsr_sdk.web.files import StoredPhoto

State = Literal["waiting", "loading", "restoring", "saving", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")
STAGES = {
    "prompts": "Describing the photo",
    "text": "Reading the prompts",
    "upscale": "Enlarging",
    "denoise": "Restoring",
    "decode": "Decoding",
}
"""The stages of a restoration, in words."""
SHARES = {"prompts": 0.0, "text": 0.05, "upscale": 0.1, "decode": 0.9}
"""How much of a region is done when a stage begins, roughly; for ``denoise`` see ``Job.plan``."""
EVALUATIONS_OF_UPSCALER = 2
"""As many evaluations of the model take roughly as long as an upscaler."""


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
    _regions: tuple[int, int] = (0, 1)
    _evaluations: int = 1
    _shares: dict[str, float] = field(default_factory=dict)

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
        if stage == "regions":
            self._regions = (done, total)
            return
        within, words = self._within(stage, done, total)
        before, regions = self._regions
        place = f"Part {before + 1} of {regions}: " if regions > 1 else ""
        self.stage = f"{place}{words[0].lower() if place else words[0]}{words[1:]}"
        self.share = max(self.share, min((before + within) / regions, 0.99))

    def _within(self, stage: str, done: int, total: int) -> tuple[float, str]:
        """How much of a region is done, and what is being done."""
        words, begun = STAGES.get(stage, stage), self._shares.get(stage, 0.0)
        if not total:
            return begun, words
        if stage == "denoise":
            step, tile = divmod(done, total)
            words += f": step {min(step + 1, self._evaluations)} of {self._evaluations}"
            words += f", tile {tile + 1} of {total}" if total > 1 else ""
            return begun + (self._shares["decode"] - begun) * min(done / (total * self._evaluations), 1), words
        last = 1.0 if self.config.model == UPSCALER_ALONE else self._shares["denoise"]
        words += f": tile {min(done + 1, total)} of {total}" if total > 1 else " in one tile"
        return begun + (last - begun) * done / total, words

    def go(self, state: State, stage: str = "") -> bool:
        """Set the state, unless the job has ended, as another thread may have cancelled it. Whether it goes on."""
        with self._lock:
            if self.state in ENDED:
                return False
            self.state, self.stage = state, stage
            return True

    def plan(self, evaluations: int) -> None:
        """Say how many evaluations of the model there will be at most, before the job is watched."""
        self._evaluations = evaluations
        upscaling = EVALUATIONS_OF_UPSCALER / (EVALUATIONS_OF_UPSCALER + evaluations)
        begun, end = SHARES["upscale"], SHARES["decode"]
        self._shares = SHARES | {"denoise": begun + (end - begun) * upscaling}

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
