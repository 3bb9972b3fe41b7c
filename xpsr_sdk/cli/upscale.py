"""``xpsr upscale``: restore and enlarge photos."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from xpsr_sdk.cli.output import print_traceback, progress_bar, quiet_libraries
from xpsr_sdk.config import ColorCorrection, Dtype, PipelineConfig, read_toml
from xpsr_sdk.data.files import SUFFIXES, find_images, listed
from xpsr_sdk.errors import ConfigError, XPSRError, one_line

if TYPE_CHECKING:
    from xpsr_sdk import Pipeline, Result


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder, or a file for one photo.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings; options go before it.")
@click.option("--scale", type=float, help="How many times larger, 1 to 8.  [default: 4]")
@click.option("--model", help="Preset, folder or hub id.  [default: nano]")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Folder with unet/ and controlnet/ for the model.")
@click.option("--checkpoint-weights", help="File name of its weights; name a .bin to allow pickled ones.")
@click.option("--prompt-provider", help="Who describes the photos.  [default: measured]")
@click.option("--prompt", help="What the photo shows, instead of asking the provider.")
@click.option("--low-prompt", help="How good the photo is, instead of asking the provider.")
@click.option("--negative", help="Negative high-level prompt.")
@click.option("--low-negative", help="Negative low-level prompt.")
@click.option("--steps", "num_inference_steps", type=int, help="Model evaluations.")
@click.option("--guidance", "guidance_scale", type=float, help="Classifier-free guidance; 1 is none.")
@click.option("--fidelity", type=float, help="1: closest to the input; 0: most realistic.")
@click.option("--sampler", help="Sampler; xpsr plugins lists them.")
@click.option("--seed", type=int, help="Of the noise: the same seed gives the same photo.")
@click.option("--color", type=click.Choice(get_args(ColorCorrection)), help="How the input's colours are kept.")
@click.option("--tile", type=int, help="Side of a tile, in output pixels.")
@click.option("--tile-overlap", type=int, help="Overlap of neighbouring tiles, in output pixels.")
@click.option("--tile-batch", type=int, help="Tiles a forward pass.")
@click.option("--conditioning-scale", type=float, help="Strength of the ControlNet, 0 to 2.")
@click.option("--device", help="cuda, xpu, mps or cpu.  [default: the first there is]")
@click.option("--dtype", type=click.Choice(get_args(Dtype)), help="Precision of the model.  [default: float32]")
def upscale(inputs: tuple[Path, ...], output: Path, config: Path | None, **options: Any) -> None:
    """Restore and enlarge the photos INPUTS: files, or folders, whose names and tree are kept.

    What fails is named and the rest is done; the exit code is then 1.
    """
    jobs = plan_outputs(inputs, output)
    settings = read_toml(PipelineConfig, config) if config else None
    quiet_libraries()
    from xpsr_sdk import build_pipeline  # after what can be told at once, since it loads torch

    pipeline = build_pipeline(settings, **{name: value for name, value in options.items() if value is not None})
    done = 0
    seconds = megapixels = 0.0
    with progress_bar() as bar:
        task = bar.add_task("", total=len(jobs))
        for source, target in jobs:
            bar.update(task, description=source.name)
            if result := _restore(pipeline, source, target):
                done += 1
                seconds += result.timings["total"]
                megapixels += result.image.width * result.image.height / 1e6
            bar.advance(task)
    if done:
        where = jobs[0][1] if len(jobs) == 1 else output
        click.echo(
            f"{done} of {len(jobs)} restored in {seconds:.1f} s ({seconds / megapixels:.1f} s a megapixel): {where}"
        )
    if done < len(jobs):
        raise click.exceptions.Exit(1)


def _restore(pipeline: Pipeline, source: Path, target: Path) -> Result | None:
    """Restore a photo; a failure is told, and costs the other photos nothing."""
    try:
        with _warnings_told():
            result: Result = pipeline(source)
        result.save(target)
    except XPSRError as error:
        click.echo(f"Failed: {error}", err=True)
    except Exception as error:  # of a plug-in, of a decoder, or for want of memory
        print_traceback()
        click.echo(f"Failed: {source}: {one_line(error)}", err=True)
    else:
        return result
    return None


def plan_outputs(inputs: Iterable[Path], output: Path) -> list[tuple[Path, Path]]:
    """Each photo with the file that its restored version goes to.

    Raises:
        ConfigError: There is nothing to do, or two photos (or a photo and its own result) would share a file.
    """
    sources = list(inputs)
    names_file = output.suffix.lower() in SUFFIXES and not output.is_dir()
    if names_file and (len(sources) > 1 or sources[0].is_dir()):
        raise ConfigError(f"{output} names a file, but several photos may come: name a folder.")
    if not output.is_dir() and _is_another_image_type(output.suffix.lower()):
        raise ConfigError(f"{output}: {output.suffix} cannot be written; use one of {listed(SUFFIXES)}.")
    if output.is_file() and not names_file:
        raise ConfigError(f"{output} is a file: name a folder, or an image file ({listed(SUFFIXES)}).")
    jobs = [
        (photo, output if names_file else output / name)
        for source in sources
        for photo, name in _photos(source, output)
    ]
    if not jobs:
        raise ConfigError(f"There are no images in {', '.join(map(str, sources))} ({listed(SUFFIXES)}).")
    taken: dict[Path, Path] = {}
    for photo, target in jobs:
        if target.resolve() == photo.resolve():
            raise ConfigError(f"{photo} would be overwritten by its own result: choose another output.")
        if target in taken:
            raise ConfigError(f"{taken[target]} and {photo} would both be written to {target}.")
        taken[target] = photo
    return jobs


def _is_another_image_type(suffix: str) -> bool:
    from PIL import Image  # not for --help

    return suffix in Image.registered_extensions().keys() - SUFFIXES


def _photos(source: Path, output: Path) -> Iterator[tuple[Path, Path]]:
    """The photos of an input, each with its name below the output folder; a type that cannot be written becomes PNG.

    Of a folder that holds the output folder, what lies there is left out: those are results of an earlier run.
    """
    if source.is_dir():
        results = output.resolve()
        holds_results = source.resolve() in results.parents
        for photo in find_images(source):
            if not (holds_results and photo.resolve().is_relative_to(results)):
                yield photo, photo.relative_to(source)
    else:
        name = Path(source.name)
        yield source, name if name.suffix.lower() in SUFFIXES else name.with_suffix(".png")


@contextmanager
def _warnings_told() -> Iterator[None]:
    """Warnings become a line each on standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_: click.echo(f"Warning: {message}", err=True)
        yield
