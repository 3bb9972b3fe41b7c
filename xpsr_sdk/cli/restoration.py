"""The restoration of photos as a work that a runner spreads."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from xpsr_sdk.cli.result_files import STANDARD, Job, type_of_result
from xpsr_sdk.config import OutputConfig, PipelineConfig
from xpsr_sdk.engine.watching import watched_by
from xpsr_sdk.errors import ImageError
from xpsr_sdk.files.locks import file_claim
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.serving.how_far import HowFar

if TYPE_CHECKING:
    from xpsr_sdk import Pipeline
    from xpsr_sdk.config import RestoreConfig
    from xpsr_sdk.data.picture import Picture
    from xpsr_sdk.result import Result


@dataclass(frozen=True)
class Restored:
    """What is told of a photo that was restored and written."""

    width: int
    height: int
    seconds: float
    peak_memory: float
    seed: int
    high: str | None
    low: str | None


class Untouched(Enum):
    """Why a photo was not restored, though nothing failed."""

    EXISTS = "another run has written the result in the meantime"
    LEFT = "another run is restoring it"


def tell_nobody(share: float, words: str) -> None:
    """Progress that nobody waits for."""


@dataclass(frozen=True)
class RestorationWork:
    """Restores photos and writes the results.

    Attributes:
        settings: Those of the pipeline.
        written: Type and names of the results.
        registry: Where the parts of the pipeline are looked up.
        overwrite: Whether photos are restored whose results exist.
        progress: ``progress(share, words)``: how much of a photo is done, and what is being done. It is called in the
            process of the worker.
    """

    settings: PipelineConfig
    written: OutputConfig
    registry: Registry
    overwrite: bool = False
    progress: Callable[[float, str], None] = tell_nobody

    @contextmanager
    def warm(self) -> Iterator[Callable[[Job], Restored | Untouched]]:
        """See ``Work``."""
        from xpsr_sdk import build_pipeline  # loads torch
        from xpsr_sdk.cli.terminal import quiet_libraries

        quiet_libraries()
        pipeline = build_pipeline(self.settings, registry=self.registry)

        def restore(job: Job) -> Restored | Untouched:
            target = job[1]
            with ExitStack() as held, warnings.catch_warnings():  # what is told of one photo is told of the next, too
                warnings.simplefilter("default", UserWarning)
                if target != STANDARD and not held.enter_context(file_claim(target)):
                    return Untouched.LEFT
                if target != STANDARD and target.is_file() and not self.overwrite:
                    return Untouched.EXISTS
                return self._restore(pipeline, *job)

        yield restore

    def _restore(self, pipeline: Pipeline, source: Path, target: Path) -> Restored:
        from xpsr_sdk.data.images import check_fits  # imported late, to keep --help quick
        from xpsr_sdk.data.photo import load_photo
        from xpsr_sdk.hardware.process_memory import peak_memory

        file_format = type_of_result(source, target, self.written).removeprefix(".") if target == STANDARD else None
        settings = pipeline.resolve({})
        photo = load_photo(opened_photo(source, settings), settings)
        check_fits(target, *photo.target_size(settings), file_format)
        far = HowFar(settings.num_inference_steps, upscaler_alone=self.settings.model == "none")

        def hear(stage: str, done: int, total: int) -> None:
            far.hear(stage, done, total)
            self.progress(far.share, far.words)

        with watched_by(hear):
            result = pipeline.restore([photo], [settings])[0]
        if file_format:
            _save_to_standard_output(result, file_format, self.written.quality)
        else:
            result.save(target, quality=self.written.quality)
        seconds, memory, prompts = result.timings["total"], peak_memory(result.plan.device), result.prompts
        return Restored(*result.picture.size, seconds, memory, result.seed, prompts.high, prompts.low)


def _save_to_standard_output(result: Result, file_format: str, quality: int | None) -> None:
    try:
        result.save(sys.stdout.buffer, file_format, quality)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # whoever read the output has had enough
        raise
    except OSError as error:
        raise ImageError(f"Standard output cannot be written to: {error.strerror or error}.") from None


def opened_photo(source: Path, settings: RestoreConfig) -> Path | Picture:
    """The photo of standard input, or the path of another one."""
    from xpsr_sdk.data.images import picture_in  # not for --help

    if source != STANDARD:
        return source
    return picture_in(sys.stdin.buffer.read(), settings.max_megapixels, "standard input")
