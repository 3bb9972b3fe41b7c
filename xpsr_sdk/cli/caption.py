"""``xpsr caption``: describe a folder of images in advance."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from rich import box
from rich.table import Table

from xpsr_sdk.cli.components import part_options, with_options
from xpsr_sdk.cli.options import setting
from xpsr_sdk.cli.places import Place
from xpsr_sdk.cli.progress import photo_progress
from xpsr_sdk.cli.runner_options import RUNNER_OPTIONS, runner_options
from xpsr_sdk.cli.terminal import complain, print_table, quiet_libraries, quiet_option, say, warnings_on_stderr
from xpsr_sdk.config import Component, PipelineConfig, read_toml
from xpsr_sdk.contracts import PROMPT_LEVELS
from xpsr_sdk.errors import ConfigError, ImageError
from xpsr_sdk.prompts.describe import printable
from xpsr_sdk.prompts.store import STORE_NAME, PromptStore
from xpsr_sdk.runners.work import Runner

if TYPE_CHECKING:
    from PIL.Image import Image

    from xpsr_sdk.prompts.caption_folder import Captioned

LISTED = 20
"""At most so many reasons are printed one by one."""
DESCRIBING = ("prompt_provider", "prompt_provider_option", "config", "levels", "batch_size", "shard", *RUNNER_OPTIONS)
"""Parameters that are used to describe images."""
SHOWING = ("sheet", "count")
"""Parameters that are used to show what is stored."""


class ShardType(click.ParamType):  # type: ignore[type-arg]  # it takes an argument from click 8.3 on alone
    """``K/N``: part K of N, counted from 1."""

    name = "K/N"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """The number of the part, counted from 0, and the number of parts."""
        part, _, parts = str(value).partition("/")
        if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
            self.fail(f"{value!r} is not valid: write K/N, for instance 2/8 for the second of eight parts.")
        return int(part) - 1, int(parts)


@click.command()
@click.argument("folder", type=Place(exists=True, file_okay=False))
@setting(PipelineConfig, "prompt_provider")
@part_options("prompt-provider")
@click.option(
    "--config", type=click.Path(path_type=Path), help="TOML file with a table prompt_provider: its name and options."
)
@click.option(
    "--level",
    "levels",
    multiple=True,
    type=click.Choice(["high", "low"]),
    default=["high", "low"],
    help="What to describe: content (high), quality (low).  [default: both]",
)
@click.option(
    "--store",
    type=Place(dir_okay=False),
    help="File of prompts.  [default: FOLDER/prompts.sqlite]",
)
@click.option("--batch-size", type=click.IntRange(1, 1000), default=16, show_default=True, help="Images at a time.")
@click.option(
    "--max-megapixels",
    type=click.FloatRange(min=0, min_open=True),
    default=100.0,
    show_default=True,
    help="Images with more megapixels are left out, however small their files are.",
)
@runner_options
@click.option(
    "--shard", type=ShardType(), default="1/1", help="The part of the images to describe: 2/8 is the second of eight."
)
@click.option(
    "--merge",
    multiple=True,
    type=Place(dir_okay=False),
    help="Add the prompts of another store, and describe nothing; may be given several times.",
)
@click.option("--show", is_flag=True, help="Show stored prompts as a table and a contact sheet; describe nothing.")
@click.option("--sheet", type=Place(dir_okay=False), help="The contact sheet.  [default: FOLDER-prompts.png]")
@click.option("--count", type=click.IntRange(min=1), default=24, show_default=True, help="How many images are shown.")
@quiet_option
def caption(
    folder: Path,
    prompt_provider: str | None,
    prompt_provider_option: tuple[str, ...],
    config: Path | None,
    levels: tuple[str, ...],
    store: Path | None,
    batch_size: int,
    max_megapixels: float,
    runner: Runner,
    shard: tuple[int, int],
    merge: tuple[Path, ...],
    show: bool,
    sheet: Path | None,
    count: int,
) -> None:
    """Describe the images in FOLDER in advance, for xpsr upscale --prompt-provider stored and for training.

    Images that are described already are left out, so the same command continues after it was stopped. If an image
    fails, the command says so and does the others; the exit code is then 1.
    """
    _check_effect(merge=bool(merge), show=show)
    file = store or folder / STORE_NAME
    if merge:
        _merge(merge, file)
    if show:
        _show(folder, file, sheet, count)
    if merge or show:
        return
    choice = _provider(prompt_provider, prompt_provider_option, config)
    quiet_libraries()
    from xpsr_sdk.prompts.caption_folder import caption_folder  # after the quick checks, since it loads torch

    with photo_progress("describing") as shown, warnings_on_stderr():
        report = caption_folder(
            folder,
            prompt_provider=choice,
            levels=[level for level in PROMPT_LEVELS if level in levels],
            store=file,
            batch_size=batch_size,
            max_megapixels=max_megapixels,
            runner=runner,
            part=shard,
            progress=shown.tell,
            on_failure=shown.fail,
        )
    _print_report(report, file)


def _check_effect(merge: bool, show: bool) -> None:
    """Raise ``ConfigError`` if an option is given that has no effect in this command."""
    unused = (DESCRIBING if merge or show else ()) + (() if show else SHOWING)
    context = click.get_current_context()
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in unused and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        mode = "With --merge" if merge else "With --show" if show else "Without --show"
        raise ConfigError(f"{mode}, these options have no effect: {', '.join(given)}; leave them out.")


def _provider(name: str | None, options: Sequence[str], config: Path | None) -> Component:
    """The provider from the command line, the file, or the default, with the options from the command line."""
    settings = read_toml(PipelineConfig, config) if config else PipelineConfig()
    own = settings.prompt_provider or "measured"
    return with_options("prompt-provider", name, options, own) or own


def _print_report(report: Captioned, file: Path) -> None:
    """Print the photos that failed, up to a limit, and how many were described."""
    for words, reasons in (("Left out", report.failed), ("Prompts are missing", report.unprompted)):
        for photo, reason in list(reasons.items())[:LISTED]:
            complain(f"{words}: {reason}" if str(photo) in reason else f"{words}: {photo}: {reason}")
        if len(reasons) > LISTED:
            click.echo(f"{words}: {len(reasons) - LISTED} more", err=True)
    if report.given_up:
        complain(f"Stopped, since {report.given_up}")
    say(f"{report.described} images described, {report.known} were before: {click.format_filename(file)}")
    if report.failed or report.unprompted:
        raise click.exceptions.Exit(1)


def _merge(others: Sequence[Path], file: Path) -> None:
    """Add the prompts of other stores. If two texts have the same key, the one in this store stays."""
    with closing(PromptStore(file, writable=True)) as store:
        for other in others:
            with closing(PromptStore(other)) as theirs:
                merged = store.merge(theirs)
            for photo, level, kept, left in merged.examples:
                click.echo(
                    f"Conflict: {_shown(photo)}: the {level}-level prompt stays {kept!r}, not {left!r}", err=True
                )
            if merged.conflicts > len(merged.examples):
                click.echo(f"Conflict: {merged.conflicts - len(merged.examples)} more", err=True)
            counts = f"{merged.added} prompts added, {merged.known} known, {merged.conflicts} in conflict"
            click.echo(f"{click.format_filename(other)}: {counts}: {click.format_filename(file)}")


def _show(folder: Path, file: Path, sheet: Path | None, count: int) -> None:
    """Print the newest prompts of the first images, and write a contact sheet."""
    from xpsr_sdk.data.images import write_image
    from xpsr_sdk.prompts.contact_sheet import contact_sheet

    if not file.is_file():
        raise ConfigError(f"There is no {file}: xpsr caption {folder} makes one.")
    with closing(PromptStore(file)) as store:
        table, entries = _shown_prompts(store, folder, count)
        total = store.image_count()
    print_table(table)
    where = sheet or folder.resolve().with_name(f"{folder.resolve().name}-prompts.png")
    write_image(contact_sheet(entries), where)
    click.echo(f"{len(entries)} of {total} images: {click.format_filename(where)}")


def _shown_prompts(store: PromptStore, folder: Path, count: int) -> tuple[Table, list[tuple[Image, str]]]:
    """The newest prompts of the first images: a table, and entries for the contact sheet."""
    from xpsr_sdk.data.images import read_image

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("image", "level", "source", "prompt"):
        table.add_column(column, overflow="fold", no_wrap=column == "level")
    entries = []
    for image in store.images(count):
        lines = [_shown(image.path)]
        for level in PROMPT_LEVELS:
            prompt = store.newest(image.sha256, level)
            text = printable(prompt.text or "") if prompt else "(none)"
            lines.append(f"{level}: {text}")
            table.add_row(lines[0], level, printable(prompt.source) if prompt else "", text)
        try:
            file = (store.file.parent / image.path).resolve()
            if not file.is_relative_to(folder.resolve()):  # a store may come from anybody
                raise ImageError(f"{file} is not in {folder}.")
            picture = read_image(file).image
        except ImageError as error:
            complain(f"Not on the sheet: {error}")
        else:
            entries.append((picture, "\n".join(lines)))
    return table, entries


def _shown(path: str) -> str:
    """A path that can be printed. Bytes that are not UTF-8 are escaped."""
    return printable(os.fsencode(path).decode(errors="backslashreplace"))
