"""The metrics of pyiqa for ``xpsr_sdk``, by their names there."""

from __future__ import annotations

from collections.abc import Iterable

from xpsr_pyiqa.names import METRICS
from xpsr_sdk import ComponentSpec, hookimpl


@hookimpl
def xpsr_metrics() -> Iterable[ComponentSpec]:
    metric = f"{__name__}.metric:PyiqaMetric"
    yield ComponentSpec("pyiqa", metric, "Any metric of pyiqa, those with the names of built-in ones too.")
    for name in METRICS:
        yield ComponentSpec(name, metric, f"{name} of pyiqa.", {"metric": name})
    folders = f"{__name__}.inception_distances"
    yield ComponentSpec("fid", f"{folders}:FrechetInceptionDistance", "Frechet Inception Distance, as clean-fid.")
    yield ComponentSpec("kid", f"{folders}:KernelInceptionDistance", "Kernel Inception Distance, as clean-fid.")
