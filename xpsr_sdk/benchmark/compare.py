"""Runs a protocol: restores what is missing, measures it, and writes a report for each data set.

OUTPUT/DATA/METHOD/               restored photos
OUTPUT/DATA/METHOD.settings.json  the settings and the seed that made them
OUTPUT/restored.jsonl             time and prompts of each restored photo, as xpsr upscale --log writes them
OUTPUT/DATA/report.html           figures, plots and pictures
OUTPUT/DATA/figures.json          .csv, and table.tex
OUTPUT/scores.jsonl               every figure, so that nothing is computed twice
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from xpsr_sdk.benchmark.protocol import DataSet, Method, Protocol
from xpsr_sdk.build import build_pipeline
from xpsr_sdk.config import PipelineConfig, load_config, read_toml
from xpsr_sdk.data.files import find_images
from xpsr_sdk.errors import ConfigError, XPSRError, one_line
from xpsr_sdk.evaluation.choosing import check_choices
from xpsr_sdk.evaluation.comparison import Comparison, compare_folders
from xpsr_sdk.evaluation.page import write_page
from xpsr_sdk.evaluation.tables import csv_table, latex_table
from xpsr_sdk.files.reading import read_json
from xpsr_sdk.files.writing import write_whole
from xpsr_sdk.hardware.devices import find_device
from xpsr_sdk.plugin_system.registry import Registry, default_registry
from xpsr_sdk.result import Result

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
        The figures of each data set that could be measured, and a line for everything that failed.

    Raises:
        ConfigError: A folder is missing or empty, a setting is wrong, or photos in ``output`` were restored with other
            settings. All of this is checked before anything is restored.
        PluginError, CheckpointError: As ``build_pipeline``.
    """
    registry = registry or default_registry()
    configs = {name: pipeline_config(name, method, protocol) for name, method in protocol.methods.items()}
    restored = {name: config for name, config in configs.items() if config is not None}
    find_device(protocol.device)
    check_choices(protocol.metrics, registry)
    _check_folders(protocol)
    for name, config in restored.items():
        _check_records(protocol, name, config)
    problems: list[str] = []
    for name, config in restored.items():
        problems += _restore(protocol, name, config, registry, progress)
    found = {}
    for name, data in protocol.data.items():
        try:
            found[name] = _compared(protocol, name, data, registry, progress)
        except XPSRError as error:
            problems.append(f"{name}: {error}")
        else:
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


def _check_folders(protocol: Protocol) -> None:
    """Raise ConfigError unless all folders that are read hold images."""
    for data, folders in protocol.data.items():
        read = {f"data.{data}.input": folders.input, f"data.{data}.reference": folders.reference}
        for name, method in protocol.methods.items():
            if method.folder is not None:
                read[f"methods.{name}.folder"] = _results(method.folder, data)
        for field, folder in read.items():
            if folder is not None and not (folder.is_dir() and any(find_images(folder))):
                raise ConfigError(f"{field}: {folder} is no folder with images.")


def _check_records(protocol: Protocol, name: str, config: PipelineConfig) -> None:
    """Raise ConfigError if photos of a method were restored with other settings in an earlier run."""
    for data in protocol.data:
        for label, seed in labels(name, protocol.methods[name]).items():
            file, settings = _record_file(protocol, data, label), _record(config, seed)
            if not file.exists():
                continue
            earlier = read_json(file, ConfigError)
            fields = [name for name in earlier | settings if earlier.get(name) != settings.get(name)]
            if fields:
                raise ConfigError(
                    f"The photos in {protocol.output / data / label} were restored with other settings "
                    f"({', '.join(sorted(fields))}; see {file}). Rename the method, choose another output, or remove "
                    "the folder and that file."
                )


def _record_file(protocol: Protocol, data: str, label: str) -> Path:
    return protocol.output / data / f"{label}.settings.json"


def _record(config: PipelineConfig, seed: int) -> dict[str, Any]:
    """What decides about restored photos. The device does not: a run may go on on another machine."""
    settings: dict[str, Any] = config.model_dump(mode="json", exclude={"device"}) | {"seed": seed}
    return settings


def _restore(
    protocol: Protocol, name: str, config: PipelineConfig, registry: Registry, progress: Progress
) -> list[str]:
    """Restore the missing photos of a method in all data sets; the pipeline is built if there are any."""
    method = protocol.methods[name]
    jobs = [job for data in protocol.data for job in _missing(protocol, data, name, method)]
    if not jobs:
        return []
    pipeline = build_pipeline(config, registry=registry)
    pipeline.set_progress_bar_config(disable=True)
    for data in protocol.data:
        for label, seed in labels(name, method).items():
            _write(_record_file(protocol, data, label), json.dumps(_record(config, seed), indent=2) + "\n")
    problems = []
    for done, (photo, target, seed) in enumerate(jobs, start=1):
        try:
            result = pipeline(photo, seed=seed)
            result.save(target)
            _log(protocol, photo, target, result)
        except XPSRError as error:
            problems.append(f"{name}: {error}")
        except Exception as error:  # from a plug-in or a decoder, or because memory ran out
            problems.append(f"{name}: {photo}: {one_line(error)}")
        progress(f"restoring with {name}", done, len(jobs))
    return problems


def _log_file(protocol: Protocol) -> Path:
    return protocol.output / "restored.jsonl"


def _log(protocol: Protocol, photo: Path, target: Path, result: Result) -> None:
    """Add a restored photo to the log. Its peak memory is left out: that of the process is of all methods together."""
    width, height = result.picture.size
    line = {
        "photo": str(photo), "result": str(target.resolve()), "status": "restored", "width": width, "height": height,
        "seconds": round(result.timings["total"], 3), "seed": result.seed,
        "high": result.prompts.high, "low": result.prompts.low,
    }  # fmt: skip
    with _log_file(protocol).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _missing(protocol: Protocol, data: str, name: str, method: Method) -> Iterator[tuple[Path, Path, int]]:
    """Photos without a result, each with the file of the result and the seed."""
    source = protocol.data[data].input
    for label, seed in labels(name, method).items():
        for photo in find_images(source):
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
        logs=[file for file in [_log_file(protocol)] if file.exists()],
        registry=registry,
        progress=lambda done, total: progress(f"measuring {name}", done, total),
    )
    folder = protocol.output / name
    texts = {"figures.json": found.to_json() + "\n", "figures.csv": csv_table(found), "table.tex": latex_table(found)}
    for file, text in texts.items():
        _write(folder / file, text)
    write_page(found, folder / "report.html")
    return found


def _folders(protocol: Protocol, data: str) -> Mapping[str, Path]:
    """The results of each method; without those of which no photo could be restored."""
    folders: dict[str, Path] = {}
    for name, method in protocol.methods.items():
        if method.folder is not None:
            folders[name] = _results(method.folder, data)
            continue
        restored = {label: protocol.output / data / label for label in labels(name, method)}
        folders |= {label: folder for label, folder in restored.items() if folder.is_dir() and any(find_images(folder))}
    return folders


def _results(folder: str, data: str) -> Path:
    """The folder of another tool's results for a data set."""
    return Path(folder.replace("{data}", data))


def _write(file: Path, text: str) -> None:
    content = text.encode("utf-8", "replace")
    write_whole(file, lambda out: out.write(content))
