"""``xpsr upscale``: restore and enlarge photos."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xpsr_sdk.cli.components import part_options, with_options
from xpsr_sdk.cli.options import setting
from xpsr_sdk.cli.result_files import plan_result_files
from xpsr_sdk.cli.terminal import print_traceback, progress_bar, quiet_libraries, warnings_on_stderr
from xpsr_sdk.config import (
    ExecutionConfig,
    Offload,
    PipelineConfig,
    read_toml,
    with_settings,
)
from xpsr_sdk.data.files import WRITABLE
from xpsr_sdk.errors import ConfigError, XPSRError, one_line
from xpsr_sdk.plugin_system.registry import Registry, default_registry

if TYPE_CHECKING:
    from xpsr_sdk import Pipeline, Result

INTERRUPTED = 130
"""The usual exit code after Ctrl-C."""


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder, or a file for one photo.")
@click.option(
    "--format", "file_type", type=click.Choice(sorted(s[1:] for s in WRITABLE)), help="Type of the results in a folder."
)
@click.option(
    "--overwrite", is_flag=True, help="Restore photos again whose results exist already; by default they are skipped."
)
@click.option("--log", type=click.Path(path_type=Path), help="Log file; one line of JSON is appended for each photo.")
@click.option(
    "--config", type=click.Path(path_type=Path), help="TOML file with settings; command-line options override it."
)
@setting(PipelineConfig, "scale")
@setting(PipelineConfig, "model")
@setting(PipelineConfig, "checkpoint")
@setting(PipelineConfig, "checkpoint_weights")
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
@setting(PipelineConfig, "conditioning_scale")
@setting(PipelineConfig, "device")
@setting(PipelineConfig, "dtype")
@setting(PipelineConfig, "speed")
@setting(ExecutionConfig, "offload")
@click.option("--explain", is_flag=True, help="Print how each photo would be cut to fit into memory; restore nothing.")
def upscale(
    inputs: tuple[Path, ...],
    output: Path,
    file_type: str | None,
    overwrite: bool,
    log: Path | None,
    config: Path | None,
    offload: Offload | None,
    explain: bool,
    **options: Any,
) -> None:
    """Restore and enlarge the photos INPUTS: files, or folders, whose file names and subfolders are kept.

    Photos whose results exist already are skipped. If a photo fails, the command says so and does the others; the exit
    code is then 1. Ctrl-C stops after the current photo; a second Ctrl-C stops at once. No incomplete file is left.
    """
    jobs = plan_result_files(inputs, output, file_type)
    registry = default_registry()
    settings = _settings(config, offload, options, registry)
    summary = Summary(len(jobs), jobs[0][1] if len(jobs) == 1 else output, _opened(log))
    todo = [job for job in jobs if not summary.fail_missing(*job)]
    todo = todo if overwrite else [job for job in todo if not summary.skip_existing(*job)]
    if todo:
        quiet_libraries()
        from xpsr_sdk import build_pipeline  # after the quick checks, since it loads torch

        pipeline = build_pipeline(settings, registry=registry)
        if explain:
            for source, target in todo:
                _explain(pipeline, source, target, summary)
        else:
            _restore_all(pipeline, todo, summary)
    if not (explain and todo):
        summary.print()
    if summary.failed or summary.interrupted or summary.log_failed:
        raise click.exceptions.Exit(INTERRUPTED if summary.interrupted else 1)


def _settings(
    file: Path | None, offload: Offload | None, options: dict[str, Any], registry: Registry
) -> PipelineConfig:
    """The settings of the file, overridden by the options. Misspelt names are reported before any model is loaded."""
    of_file = read_toml(PipelineConfig, file) if file else None
    for kind in ("prompt_provider", "sampler", "upscaler"):
        flag, chosen = kind.replace("_", "-"), options.pop(f"{kind}_option")
        options[kind] = with_options(flag, options[kind], chosen, getattr(of_file, kind, None))
    execution = of_file.execution.model_dump(exclude_unset=True) if of_file else {}
    settings = with_settings(
        of_file, options | {"execution": execution | ({"offload": offload} if offload else {})}, "xpsr upscale"
    )
    for kind in ("backbone", "prompt_provider", "sampler", "upscaler"):
        choice = getattr(settings, kind)
        name = choice.get("name") if isinstance(choice, dict) else choice
        if isinstance(name, str):
            registry.find(kind, name)
    return settings


def _opened(log: Path | None) -> Path | None:
    """The log file, after a check that it can be written."""
    if log:
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.open("a").close()
        except OSError as error:
            raise ConfigError(f"The log {log} cannot be written: {error.strerror}.") from None
    return log


@dataclass
class Summary:
    """Counts what happened to the photos, for the summary at the end, and writes a line to the log for each.

    Attributes:
        photos: The number of photos.
        where: The file or folder of the results.
        log: A file of JSON lines, if there is a log.
    """

    photos: int
    where: Path
    log: Path | None
    restored: int = 0
    skipped: int = 0
    failed: int = 0
    log_failed: bool = False
    interrupted: bool = False
    seconds: float = 0
    megapixels: float = 0

    def fail_missing(self, source: Path, target: Path) -> bool:
        """Whether the photo is missing, which counts as a failure."""
        if not source.exists():
            self.fail(source, target, f"{source} does not exist.")
        return not source.exists()

    def skip_existing(self, source: Path, target: Path) -> bool:
        """Whether the result exists already, so that the photo is skipped."""
        if target.exists():
            self.skipped += 1
            self._note(source, target, "skipped")
        return target.exists()

    def add(self, source: Path, target: Path, result: Result) -> None:
        """Count a photo that was restored."""
        width, height = result.picture.size
        self.restored += 1
        self.seconds += result.timings["total"]
        self.megapixels += width * height / 1e6
        details = {
            "width": width,
            "height": height,
            "seconds": round(result.timings["total"], 3),
            "seed": result.seed,
            "high": result.prompts.high,
            "low": result.prompts.low,
        }
        self._note(source, target, "restored", **details)

    def fail(self, source: Path, target: Path, reason: str) -> None:
        """Count a photo that could not be restored, and print the reason."""
        self.failed += 1
        click.echo(f"Failed: {reason}", err=True)
        self._note(source, target, "failed", error=reason)

    def _note(self, source: Path, target: Path, status: str, **details: object) -> None:
        if self.log:
            time = datetime.now(UTC).isoformat(timespec="seconds")
            line = {"time": time, "photo": str(source), "result": str(target), "status": status, **details}
            try:
                with self.log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
            except OSError as error:  # an error of the log must not stop the restoration of photos
                click.echo(f"The log {self.log} ends here: {error.strerror}.", err=True)
                self.log, self.log_failed = None, True

    def print(self) -> None:
        """Print the summary, if there are any results."""
        left = self.photos - self.restored - self.skipped - self.failed
        parts = [f"{self.restored} of {self.photos} restored"]
        if self.restored:
            parts[0] += f" in {self.seconds:.1f} s ({self.seconds / self.megapixels:.1f} s per megapixel)"
        if self.skipped:
            parts.append(f"{self.skipped} skipped, since they exist (--overwrite restores them again)")
        if self.failed:
            parts.append(f"{self.failed} failed")
        if left:
            parts.append(f"{left} left")
        if self.restored or self.skipped:
            click.echo(f"{', '.join(parts)}: {click.format_filename(self.where)}")


def _explain(pipeline: Pipeline, source: Path, target: Path, summary: Summary) -> None:
    """Print how a photo would be restored."""
    try:
        click.echo(f"{source}\n{pipeline.explain(source)}")
    except XPSRError as error:
        summary.fail(source, target, str(error))


def _restore_all(pipeline: Pipeline, jobs: list[tuple[Path, Path]], summary: Summary) -> None:
    """Restore one photo after the other, until Ctrl-C."""
    with progress_bar() as bar, _interrupts() as interrupted:
        task = bar.add_task("", total=len(jobs))
        for done, (source, target) in enumerate(jobs):
            bar.update(task, description=source.name, completed=done)

            def progress(regions: int, total: int, done: int = done) -> None:
                bar.update(task, completed=done + regions / total)

            _restore(pipeline, source, target, progress, summary)
            if interrupted():
                summary.interrupted = True
                return


def _restore(
    pipeline: Pipeline, source: Path, target: Path, progress: Callable[[int, int], None], summary: Summary
) -> None:
    """Restore a photo. A failure is reported, and does not stop the other photos."""
    from xpsr_sdk.data.images import check_fits  # imported late, to keep --help quick
    from xpsr_sdk.data.photo import load_photo

    try:
        with warnings_on_stderr():
            settings = pipeline.resolve({})
            photo = load_photo(source, settings)
            check_fits(target, *photo.target_size(settings.scale))
            result = pipeline.restore([photo], [settings], progress=progress)[0]
            result.save(target)
    except XPSRError as error:
        summary.fail(source, target, str(error))
    except Exception as error:  # from a plug-in or a decoder, or because memory ran out
        print_traceback()
        summary.fail(source, target, f"{source}: {one_line(error)}")
    else:
        summary.add(source, target, result)


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Within the block, the first Ctrl-C is only recorded; the function that is returned says whether it came.

    A second Ctrl-C raises KeyboardInterrupt. SIGTERM raises SystemExit, so that temporary files are removed.
    """
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        click.echo("Stopping after this photo; Ctrl-C again stops at once.", err=True)

    def terminate(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    handlers = ((signal.SIGINT, interrupt), (signal.SIGTERM, terminate))
    before = {which: signal.signal(which, handler) for which, handler in handlers}
    try:
        yield lambda: interrupted
    finally:
        for which, how in before.items():
            signal.signal(which, how)
