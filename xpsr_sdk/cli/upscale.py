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
from xpsr_sdk.cli.terminal import print_traceback, progress_bar, quiet_libraries, warnings_told
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
"""Exit code after Ctrl-C, as shells have it."""


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder, or a file for one photo.")
@click.option(
    "--format", "file_type", type=click.Choice(sorted(s[1:] for s in WRITABLE)), help="Type of the results in a folder."
)
@click.option("--overwrite", is_flag=True, help="Restore again what exists already; else it is skipped.")
@click.option("--log", type=click.Path(path_type=Path), help="File to append a line of JSON to for each photo.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings; options go before it.")
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
@click.option("--explain", is_flag=True, help="Tell how each photo would be cut to fit into memory, and restore none.")
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
    """Restore and enlarge the photos INPUTS: files, or folders, whose names and tree are kept.

    What exists already is skipped. What fails is named and the rest is done; the exit code is then 1. Ctrl-C stops
    after the current photo, a second one at once; nothing half-written is left.
    """
    jobs = plan_result_files(inputs, output, file_type)
    registry = default_registry()
    settings = _settings(config, offload, options, registry)
    summary = Summary(len(jobs), jobs[0][1] if len(jobs) == 1 else output, _opened(log))
    todo = [job for job in jobs if not summary.fail_missing(*job)]
    todo = todo if overwrite else [job for job in todo if not summary.skip_existing(*job)]
    if todo:
        quiet_libraries()
        from xpsr_sdk import build_pipeline  # after what can be told at once, since it loads torch

        pipeline = build_pipeline(settings, registry=registry)
        if explain:
            for source, target in todo:
                _explain(pipeline, source, target, summary)
        else:
            _restore_all(pipeline, todo, summary)
    if not (explain and todo):
        summary.tell()
    if summary.failed or summary.interrupted or summary.log_failed:
        raise click.exceptions.Exit(INTERRUPTED if summary.interrupted else 1)


def _settings(
    file: Path | None, offload: Offload | None, options: dict[str, Any], registry: Registry
) -> PipelineConfig:
    """The options, and for the rest what stands in the file; what is misspelt is told before anything is loaded."""
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
    """The log, once it is known that it can be written to."""
    if log:
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.open("a").close()
        except OSError as error:
            raise ConfigError(f"The log {log} cannot be written: {error.strerror}.") from None
    return log


@dataclass
class Summary:
    """What became of the photos so far, told at the end, and in the log a line each.

    Attributes:
        photos: How many there are to do.
        where: What the results are: a file or a folder.
        log: File of JSON lines, if any.
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
        """Whether there is no such photo."""
        if not source.exists():
            self.fail(source, target, f"{source} does not exist.")
        return not source.exists()

    def skip_existing(self, source: Path, target: Path) -> bool:
        """Whether the result is there already."""
        if target.exists():
            self.skipped += 1
            self._note(source, target, "skipped")
        return target.exists()

    def add(self, source: Path, target: Path, result: Result) -> None:
        """A photo was restored."""
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
        """A photo could not be restored."""
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
            except OSError as error:  # the photos matter more
                click.echo(f"The log {self.log} ends here: {error.strerror}.", err=True)
                self.log, self.log_failed = None, True

    def tell(self) -> None:
        """Print the summary, if anything is there to show."""
        left = self.photos - self.restored - self.skipped - self.failed
        parts = [f"{self.restored} of {self.photos} restored"]
        if self.restored:
            parts[0] += f" in {self.seconds:.1f} s ({self.seconds / self.megapixels:.1f} s a megapixel)"
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
    """Restore photo after photo, until Ctrl-C."""
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
    """Restore a photo; a failure is told, and costs the other photos nothing."""
    from xpsr_sdk.data.images import check_fits  # not for --help
    from xpsr_sdk.data.photo import load_photo

    try:
        with warnings_told():
            settings = pipeline.resolve({})
            photo = load_photo(source, settings)
            check_fits(target, *photo.target_size(settings.scale))
            result = pipeline.restore([photo], [settings], progress=progress)[0]
            result.save(target)
    except XPSRError as error:
        summary.fail(source, target, str(error))
    except Exception as error:  # of a plug-in, of a decoder, or for want of memory
        print_traceback()
        summary.fail(source, target, f"{source}: {one_line(error)}")
    else:
        summary.add(source, target, result)


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Within the block, Ctrl-C is but a wish that can be asked for; a second one raises KeyboardInterrupt.

    So does SIGTERM, but as an exit, so that temporary files go.
    """
    wished = False

    def wish(*_: object) -> None:
        nonlocal wished
        if wished:
            raise KeyboardInterrupt
        wished = True
        click.echo("Stopping after this photo; Ctrl-C again stops at once.", err=True)

    def terminate(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {which: signal.signal(which, how) for which, how in ((signal.SIGINT, wish), (signal.SIGTERM, terminate))}
    try:
        yield lambda: wished
    finally:
        for which, how in before.items():
            signal.signal(which, how)
