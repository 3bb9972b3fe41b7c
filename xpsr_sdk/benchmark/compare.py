"""Runs a protocol: restores what is missing, measures it, and writes a report for each data set.

OUTPUT/DATA/METHOD/          restored photos
OUTPUT/DATA/report.html      figures, plots and pictures
OUTPUT/DATA/figures.json     .csv, and table.tex
OUTPUT/scores.jsonl          every figure, so that nothing is computed twice
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from xpsr_sdk.benchmark.protocol import DataSet, Method, Protocol
from xpsr_sdk.build import build_pipeline
from xpsr_sdk.config import PipelineConfig, load_config, read_toml
from xpsr_sdk.data.files import find_images
from xpsr_sdk.errors import ConfigError, XPSRError
from xpsr_sdk.evaluation.comparison import Comparison, compare_folders
from xpsr_sdk.evaluation.page import write_page
from xpsr_sdk.evaluation.tables import csv_table, latex_table
from xpsr_sdk.files.writing import write_whole
from xpsr_sdk.hardware.devices import find_device
from xpsr_sdk.plugin_system.registry import Registry, default_registry

Progress = Callable[[str, int, int], object]


def run_protocol(
    protocol: Protocol,
    *,
    registry: Registry | None = None,
    progress: Progress = lambda what, done, total: None,
) -> tuple[dict[str, Comparison], list[str]]:
    """Restore what is missing, measure, and write the reports. A run that was stopped goes on where it was.

    Args:
        protocol: What is compared.
        registry: Where parts and metrics are looked up; None: the built-in and the installed plug-ins.
        progress: ``progress(what, done, total)``, after each photo.

    Returns:
        The figures of each data set, and a line for everything that failed.

    Raises:
        ConfigError: A folder is missing or empty, or a setting is wrong.
        PluginError, CheckpointError: As ``build_pipeline``.
    """
    registry = registry or default_registry()
    configs = {name: pipeline_config(name, method, protocol) for name, method in protocol.methods.items()}
    problems: list[str] = []
    for name, method in protocol.methods.items():
        if configs[name] is not None:
            problems += _restore(protocol, name, method, configs[name], registry, progress)
    found = {}
    for name, data in protocol.data.items():
        found[name] = _compared(protocol, name, data, registry, progress)
        problems += [f"{name}: {problem}" for problem in found[name].problems()]
    return found, problems


def pipeline_config(name: str, method: Method, protocol: Protocol) -> PipelineConfig | None:
    """The pipeline of a method; None where it is a folder of results.

    Raises:
        ConfigError: A setting is wrong.
    """
    if method.folder is not None:
        return None
    base = read_toml(PipelineConfig, method.config).model_dump(exclude_unset=True) if method.config else {}
    device = {"device": protocol.device} if protocol.device else {}
    return load_config(PipelineConfig, {**device, **base, **method.settings}, f"methods.{name}.settings")


def _restore(
    protocol: Protocol,
    name: str,
    method: Method,
    config: PipelineConfig | None,
    registry: Registry,
    progress: Progress,
) -> list[str]:
    """Restore the missing photos of a method in all data sets; the pipeline is built if there are any."""
    jobs = [job for data in protocol.data for job in _missing(protocol, data, name, method)]
    if not jobs:
        return []
    pipeline = build_pipeline(config, registry=registry)
    pipeline.set_progress_bar_config(disable=True)
    problems = []
    for done, (photo, target, seed) in enumerate(jobs, start=1):
        try:
            pipeline(photo, seed=seed).save(target)
        except XPSRError as error:
            problems.append(f"{name}: {error}")
        progress(f"restoring with {name}", done, len(jobs))
    return problems


def _missing(protocol: Protocol, data: str, name: str, method: Method) -> Iterator[tuple[Path, Path, int]]:
    """Photos without a result, each with the file of the result and the seed."""
    source = protocol.data[data].input
    photos = list(find_images(source)) if source.is_dir() else []
    if not photos:
        raise ConfigError(f"data.{data}.input: {source} is no folder with images.")
    for label, seed in labels(name, method).items():
        for photo in photos:
            target = (protocol.output / data / label / photo.relative_to(source)).with_suffix(".png")
            if not target.exists():
                yield photo, target, seed


def labels(name: str, method: Method) -> dict[str, int]:
    """What the results of each seed are called: as the method, if there is one seed alone."""
    if len(method.seeds) == 1:
        return {name: method.seeds[0]}
    return {f"{name}-seed-{seed}": seed for seed in method.seeds}


def _compared(protocol: Protocol, name: str, data: DataSet, registry: Registry, progress: Progress) -> Comparison:
    found = compare_folders(
        _folders(protocol, name),
        reference=data.reference,
        input=data.input,
        metrics=protocol.metrics,
        channel=protocol.channel,
        crop=protocol.crop,
        weights=protocol.weights,
        device=find_device(protocol.device),
        batch=protocol.batch,
        scores=protocol.output / "scores.jsonl",
        registry=registry,
        progress=lambda done, total: progress(f"measuring {name}", done, total),
    )
    folder = protocol.output / name
    texts = {"figures.json": found.to_json() + "\n", "figures.csv": csv_table(found), "table.tex": latex_table(found)}
    for file, text in texts.items():
        content = text.encode("utf-8", "replace")
        write_whole(folder / file, lambda out, content=content: out.write(content))  # type: ignore[misc]
    write_page(found, folder / "report.html")
    return found


def _folders(protocol: Protocol, data: str) -> Mapping[str, Path]:
    folders: dict[str, Path] = {}
    for name, method in protocol.methods.items():
        if method.folder is not None:
            folders[name] = Path(method.folder.replace("{data}", data))
        else:
            folders |= {label: protocol.output / data / label for label in labels(name, method)}
    return folders
