"""``xpsr upscale``: restore and enlarge photos."""

from __future__ import annotations

import signal
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from xpsr_sdk.cli.components import part_options, with_options
from xpsr_sdk.cli.interrupts import interrupts
from xpsr_sdk.cli.options import setting
from xpsr_sdk.cli.places import Place
from xpsr_sdk.cli.progress import photo_progress
from xpsr_sdk.cli.restoration import RestorationWork, Restored, Untouched, opened_photo
from xpsr_sdk.cli.result_files import STANDARD, Job, plan_result_files, type_of_result
from xpsr_sdk.cli.runner_options import runner_options
from xpsr_sdk.cli.terminal import (
    complain,
    json_line,
    quiet_libraries,
    quiet_option,
    say,
    warnings_on_stderr,
)
from xpsr_sdk.config import (
    ExecutionConfig,
    OutputConfig,
    PipelineConfig,
    load_config,
    read_toml,
    with_settings,
)
from xpsr_sdk.data.files import LOSSY, listed
from xpsr_sdk.errors import ConfigError, ImageError, WorkerLost, XPSRError, visible
from xpsr_sdk.files.line_file import LineFile
from xpsr_sdk.files.locks import is_claimed, remove_abandoned
from xpsr_sdk.files.reading import check_regular
from xpsr_sdk.files.remote import RemotePath
from xpsr_sdk.plugin_system.registry import Registry, default_registry
from xpsr_sdk.runners.work import Done, Runner

EXECUTION = ("offload", "quantize")
"""The options that set fields of ``execution``."""
LAST_BREATH = 3.0
"""Seconds in which a worker whose machine is lost may still hold its photo."""


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=Place())
@click.option(
    "-o",
    "--output",
    required=True,
    type=Place(),
    help="Folder, or a file for one photo; - is standard output.",
)
@setting(OutputConfig, "format")
@setting(OutputConfig, "quality")
@setting(OutputConfig, "suffix")
@click.option(
    "--overwrite", is_flag=True, help="Restore photos again whose results exist already; by default they are skipped."
)
@click.option("--log", type=Place(), help="Log file; one line of JSON is appended for each photo.")
@click.option(
    "--config", type=click.Path(path_type=Path), help="TOML file with settings; command-line options override it."
)
@setting(PipelineConfig, "scale")
@setting(PipelineConfig, "width")
@setting(PipelineConfig, "height")
@setting(PipelineConfig, "max_side")
@setting(PipelineConfig, "megapixels")
@setting(PipelineConfig, "model")
@setting(PipelineConfig, "checkpoint")
@setting(PipelineConfig, "checkpoint_weights")
@setting(PipelineConfig, "vae")
@setting(PipelineConfig, "lora")
@setting(PipelineConfig, "embedding")
@setting(PipelineConfig, "upscaler")
@part_options("upscaler")
@setting(PipelineConfig, "upscaler_tile")
@setting(PipelineConfig, "prompt_provider")
@part_options("prompt-provider")
@setting(PipelineConfig, "prompt")
@setting(PipelineConfig, "low_prompt")
@setting(PipelineConfig, "negative")
@setting(PipelineConfig, "low_negative")
@setting(PipelineConfig, "long_prompts")
@setting(PipelineConfig, "prompt_weights")
@setting(PipelineConfig, "num_inference_steps", "--steps")
@setting(PipelineConfig, "guidance_scale", "--guidance")
@setting(PipelineConfig, "fidelity")
@setting(PipelineConfig, "sampler")
@part_options("sampler")
@setting(PipelineConfig, "seed")
@setting(PipelineConfig, "color")
@setting(PipelineConfig, "tile")
@setting(PipelineConfig, "tile_overlap")
@setting(PipelineConfig, "tile_batch")
@setting(PipelineConfig, "region")
@setting(PipelineConfig, "region_overlap")
@setting(PipelineConfig, "alpha")
@setting(PipelineConfig, "profile")
@setting(PipelineConfig, "metadata")
@setting(PipelineConfig, "max_megapixels")
@setting(PipelineConfig, "max_result_megapixels")
@setting(PipelineConfig, "conditioning_scale")
@setting(PipelineConfig, "device")
@setting(PipelineConfig, "dtype")
@setting(PipelineConfig, "speed")
@setting(ExecutionConfig, "offload")
@setting(ExecutionConfig, "quantize")
@runner_options
@click.option("--explain", is_flag=True, help="Print how each photo would be cut to fit into memory; restore nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each photo instead of the summary.")
@quiet_option
def upscale(
    inputs: tuple[Path, ...],
    output: Path,
    overwrite: bool,
    log: Path | None,
    config: Path | None,
    explain: bool,
    as_json: bool,
    runner: Runner,
    **options: Any,
) -> None:
    """Restore and enlarge the photos INPUTS: files, folders (names and subfolders are kept), or - for standard input.

    Photos whose results exist already are skipped, and several runs on one folder share the work. If a photo fails, the
    command says so and does the others; the exit code is then 1. Ctrl-C stops after the current photo; a second Ctrl-C
    stops at once. No incomplete file is left.
    """
    written = load_config(OutputConfig, {name: options.pop(name) for name in OutputConfig.model_fields}, "xpsr upscale")
    with warnings_on_stderr():
        jobs = plan_result_files(inputs, output, written)
    _warn_of_quality(written, jobs)
    if not runner.in_this_process and STANDARD in jobs[0]:
        raise ConfigError("Standard input and output belong to this process: leave out --runner and --workers.")
    registry = default_registry()
    settings = _settings(config, options, registry)
    summary = Summary(len(jobs), jobs[0][1] if len(jobs) == 1 else output, _opened(log), as_json)
    todo = [job for job in jobs if not summary.fail_missing(*job)]
    if not overwrite:
        there = set(output.files_below()) if isinstance(output, RemotePath) else None  # one question for all
        todo = [job for job in todo if not summary.skip_existing(*job, there)]
    with closing(summary):
        if todo:
            quiet_libraries()
            if explain:
                _explain_all(settings, todo, registry, summary)
            else:
                _restore_all(settings, todo, written, overwrite, registry, runner, summary)
    if not explain:
        for folder in {target.parent for _, target in jobs if target != STANDARD}:
            remove_abandoned(folder)
    if not (explain and todo):
        summary.print()
    if code := summary.exit_code:
        raise click.exceptions.Exit(code)


def _warn_of_quality(written: OutputConfig, jobs: list[Job]) -> None:
    """Say which results have no quality that could be set."""
    types = {type_of_result(photo, target, written) for photo, target in jobs} - LOSSY
    if written.quality is not None and types:
        complain(f"Warning: --quality has no effect on {listed(types)} files, which lose nothing.")


def _settings(file: Path | None, options: dict[str, Any], registry: Registry) -> PipelineConfig:
    """The settings of the file, overridden by the options. Misspelt names are reported before any model is loaded."""
    of_file = read_toml(PipelineConfig, file) if file else None
    for kind in ("prompt_provider", "sampler", "upscaler"):
        flag, chosen = kind.replace("_", "-"), options.pop(f"{kind}_option")
        options[kind] = with_options(flag, options[kind], chosen, getattr(of_file, kind, None))
    execution = of_file.execution.model_dump(exclude_unset=True) if of_file else {}
    given = {name: value for name in EXECUTION if (value := options.pop(name)) is not None}
    settings = with_settings(of_file, options | {"execution": execution | given}, "xpsr upscale")
    for kind in ("backbone", "prompt_provider", "sampler", "upscaler"):
        choice = getattr(settings, kind)
        name = choice.get("name") if isinstance(choice, dict) else choice
        if isinstance(name, str):
            registry.find(kind, name)
    return settings


def _opened(log: Path | None) -> LineFile | None:
    """The log file, after a check that it can be written."""
    if log is None:
        return None
    try:
        return LineFile(log)
    except OSError as error:
        raise ConfigError(f"The log {log} cannot be written: {error.strerror}.") from None


@dataclass
class Summary:
    """Counts what happened to the photos, for the summary at the end, and writes a line to the log for each.

    Attributes:
        photos: The number of photos.
        where: The file or folder of the results.
        log: A file of JSON lines, if there is a log.
        as_json: Whether those lines are printed instead of a summary.
    """

    photos: int
    where: Path
    log: LineFile | None
    as_json: bool = False
    restored: int = 0
    skipped: int = 0
    failed: int = 0
    left: list[Job] = field(default_factory=list)
    log_failed: bool = False
    interrupted: int = 0
    seconds: float = 0
    megapixels: float = 0

    @property
    def exit_code(self) -> int:
        """128 and the number of the signal that stopped the command, 1 if something failed, else 0."""
        return self.interrupted or int(bool(self.failed or self.log_failed))

    def fail_missing(self, source: Path, target: Path) -> bool:
        """Whether the photo is missing or no file, which counts as a failure."""
        try:
            if source != STANDARD and not isinstance(source, RemotePath):  # of that, the worker tells
                check_regular(source, ImageError)
        except ImageError as error:
            self.fail(source, target, str(error))
            return True
        return False

    def skip_existing(self, source: Path, target: Path, there: Collection[Path] | None = None) -> bool:
        """Whether the result exists already, so that the photo is skipped; ``there``: all files that exist."""
        exists = target != STANDARD and (target.is_file() if there is None else target in there)
        if exists:
            self._skip(source, target)
        return exists

    def _skip(self, source: Path, target: Path) -> None:
        self.skipped += 1
        self._note(source, target, "skipped")

    def add(self, done: Done[Job, Restored | Untouched]) -> None:
        """Count a photo that was restored, or why it was not."""
        source, target = done.given
        if isinstance(done.error, BrokenPipeError):
            raise done.error
        if done.error is not None:
            is_told = isinstance(done.error, XPSRError) and not isinstance(done.error, WorkerLost)
            self.fail(source, target, done.reason if is_told else f"{source}: {done.reason}")
            return
        restored = done.result()
        if restored is Untouched.EXISTS:
            self._skip(source, target)
            return
        if restored is Untouched.LEFT:
            self.left.append(done.given)
            return
        self.restored += 1
        self.seconds += restored.seconds
        self.megapixels += restored.width * restored.height / 1e6
        rounded = {"seconds": round(restored.seconds, 3), "peak_memory": round(restored.peak_memory, 3)}
        self._note(source, target, "restored", **asdict(restored) | rounded)

    def take_abandoned(self) -> list[Job]:
        """Those of the photos left to another run that nobody restores: a worker that was lost held them."""
        until = time.monotonic() + LAST_BREATH
        while any(is_claimed(target) for _, target in self.left) and time.monotonic() < until:
            time.sleep(0.1)
        abandoned = [job for job in self.left if not is_claimed(job[1]) and not job[1].exists()]
        self.left = [job for job in self.left if job not in abandoned]
        return abandoned

    def note_left(self) -> None:
        """Write to the log what was left to another run."""
        for job in self.left:
            self._note(*job, "left to another run")

    def fail(self, source: Path, target: Path, reason: str) -> None:
        """Count a photo that could not be restored, and print the reason."""
        self.failed += 1
        complain(f"Failed: {reason}")
        self._note(source, target, "failed", error=reason)

    def _note(self, source: Path, target: Path, status: str, **details: object) -> None:
        time = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"time": time, "photo": str(source), "result": str(target), "status": status, **details}
        if self.as_json:
            click.echo(json_line(record), err=self.where == STANDARD)
        if self.log:
            with self._watched(self.log):
                self.log.add(json_line(record))

    def close(self) -> None:
        """Send the log, if it is in a bucket."""
        if self.log:
            with self._watched(self.log):
                self.log.close()

    @contextmanager
    def _watched(self, log: LineFile) -> Iterator[None]:
        """Within the block, an error of the log does not stop the restoration of photos."""
        try:
            yield
        except (OSError, ConfigError) as error:
            reason = str(getattr(error, "strerror", None) or error).rstrip(".")
            complain(f"The log {log.file} ends here: {reason}.")
            self.log, self.log_failed = None, True

    def print(self) -> None:
        """Print the summary, if there are any results."""
        left = self.photos - self.restored - self.skipped - self.failed - len(self.left)
        parts = [f"{self.restored} of {self.photos} restored"]
        if self.restored:
            parts[0] += f" in {self.seconds:.1f} s ({self.seconds / self.megapixels:.1f} s per megapixel)"
        if self.skipped:
            parts.append(f"{self.skipped} skipped, since they exist (--overwrite restores them again)")
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.left:
            parts.append(f"{len(self.left)} left to another run, which is restoring them")
        if left:
            parts.append(f"{left} left")
        if (self.restored or self.skipped or self.left) and not self.as_json:
            where = "standard output" if self.where == STANDARD else click.format_filename(self.where)
            say(f"{', '.join(parts)}: {where}", err=self.where == STANDARD)


def _explain_all(settings: PipelineConfig, jobs: list[Job], registry: Registry, summary: Summary) -> None:
    """Print how the photos would be restored."""
    from xpsr_sdk import build_pipeline  # after the quick checks, since it loads torch

    with warnings_on_stderr():
        pipeline = build_pipeline(settings, registry=registry)
    for source, target in jobs:
        try:
            with warnings_on_stderr():
                plan = pipeline.explain(opened_photo(source, pipeline.settings))
            click.echo(visible(f"{source}\n{plan}"))
        except XPSRError as error:
            summary.fail(source, target, str(error))


def _restore_all(
    settings: PipelineConfig,
    jobs: list[Job],
    written: OutputConfig,
    overwrite: bool,
    registry: Registry,
    runner: Runner,
    summary: Summary,
) -> None:
    """Restore the photos, until Ctrl-C. What another run is restoring is left to it."""
    told = "Stopping after this photo; Ctrl-C again stops at once."
    with photo_progress("") as shown, interrupts(told, softly=lambda number: number == signal.SIGINT) as wish:
        finished, photos = 0, len(jobs)

        def progress(share: float, words: str) -> None:
            shown.tell_within(finished + share, words)

        def wanted(jobs: list[Job]) -> Iterator[Job]:
            for job in jobs:
                if wish:
                    return
                shown.tell(finished, photos, f"now {job[0].name}")
                yield job

        work = RestorationWork(settings, written, registry, overwrite, *([progress] if runner.in_this_process else []))
        while jobs and not wish:
            with warnings_on_stderr(), closing(runner.run(work, wanted(jobs))) as results:
                for done in results:
                    summary.add(done)
                    finished += 1
                    if done.error is not None:
                        shown.fail(done.given[0], done.reason)
                    if not runner.in_this_process:  # where the next photo tells it
                        shown.tell(finished, photos)
            jobs = [] if wish else summary.take_abandoned()
            finished -= len(jobs)
        summary.note_left()
        summary.interrupted = wish.exit_code
