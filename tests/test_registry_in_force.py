"""One registry is in force from an entry down to the last worker: no other plug-in is ever imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import one_degradation, tiny
from tests.support.stubs import distribute
from tests.support.training_runs import config
from xpsr_sdk import ComponentSpec, Pipeline, PluginError, Registry, UnknownComponent, build_pipeline, hookimpl
from xpsr_sdk.plugin_system.registry import default_registry
from xpsr_sdk.preparation.prepare import prepare_pairs, prepare_shards
from xpsr_sdk.prompts.caption_folder import caption_folder
from xpsr_sdk.training.ablation import ablate
from xpsr_sdk.training.dry_run import dry_run
from xpsr_sdk.training.loop import train

SPY = "from pathlib import Path\n\nPath(__file__).with_suffix('.imported').touch()\n"
"""A plug-in that leaves a file behind when any process imports it."""
EMPTY = Registry([])


class Places:
    """What the entries work on, and where to."""

    def __init__(self, model: Path, pairs: Path, output: Path) -> None:
        self.model, self.pairs, self.output = model, pairs, output

    def run(self, **changes: Any) -> Any:
        return config(self.output / "run", self.pairs, self.model, **{"steps": 1, **changes})


def restore(places: Places) -> None:
    ensemble = {"name": "ensemble", "high": ["measured"], "low": ["measured"]}
    build_pipeline(model=str(places.model), device="cpu", prompt_provider=ensemble, registry=EMPTY)(tiny.photo(17, 20))


def validation(places: Places) -> dict[str, Any]:
    return {"folders": [places.pairs], "every": 1, "images": 1, "crop": 64, "settings": {"num_inference_steps": 1}}


ENTRIES: dict[str, Callable[[Places], object]] = {
    "build_pipeline": restore,
    "from_pretrained": lambda p: Pipeline.from_pretrained("nano", registry=EMPTY),
    "train": lambda p: train(p.run(data__workers=1, validation=validation(p)), EMPTY),
    "dry_run": lambda p: dry_run(p.run(steps=4), EMPTY),
    "ablate": lambda p: ablate(p.run(validation=validation(p)), ["constraint"], p.output / "ablation", registry=EMPTY),
    "caption_folder": lambda p: caption_folder(p.pairs / "HR", store=p.output / "store", workers=2, registry=EMPTY),
    "prepare_pairs": lambda p: prepare_pairs(p.pairs / "HR", p.output / "pairs", workers=2, registry=EMPTY),
    "prepare_shards": lambda p: prepare_shards(p.pairs / "HR", p.output / "shards", registry=EMPTY),
}


@pytest.fixture
def spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that an installed plug-in leaves behind when it is imported."""
    distribute(tmp_path, "xpsr-spy", "xpsr_spy", body=SPY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.delitem(sys.modules, "xpsr_spy", raising=False)
    default_registry.cache_clear()
    yield tmp_path / "xpsr_spy.imported"
    default_registry.cache_clear()
    sys.modules.pop("xpsr_spy", None)


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_plugin_is_imported_that_is_not_in_the_registry(
    entry: str, spy: Path, tiny_model: Path, pairs: Path, tmp_path: Path
) -> None:
    ENTRIES[entry](Places(tiny_model, pairs, tmp_path))
    assert not spy.exists()


def test_the_default_registry_does_import_it(spy: Path) -> None:
    default_registry()
    assert spy.exists()


def test_workers_find_the_plugins_that_the_entry_was_given(pairs: Path, tmp_path: Path) -> None:
    registry = Registry([one_degradation])
    report = prepare_pairs(pairs / "HR", tmp_path, degradation="one", workers=2, registry=registry)
    assert report.samples == 4


def test_training_s_workers_find_them_too(tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    changes = {"steps": 1, "data__workers": 1, "data__degradation": "one"}
    run = config(tmp_path, pairs / "HR", tiny_model, **changes)
    assert train(run, Registry([one_degradation])).is_dir()
    with pytest.raises(UnknownComponent, match="degradation model 'one'"):
        train(run.model_copy(update={"output": tmp_path / "other"}), EMPTY)


@pytest.mark.parametrize(
    "work",
    [
        lambda p, registry: prepare_pairs(p.pairs / "HR", p.output / "pairs", workers=2, registry=registry),
        lambda p, registry: caption_folder(p.pairs / "HR", store=p.output / "store", workers=2, registry=registry),
        lambda p, registry: train(p.run(data__workers=1), registry),
    ],
    ids=["prepare", "caption", "train"],
)
def test_an_object_in_memory_cannot_be_handed_to_workers(
    work: Any, tiny_model: Path, pairs: Path, tmp_path: Path
) -> None:
    class Plugin:
        @hookimpl
        def xpsr_samplers(self) -> list[ComponentSpec]:
            return []

    in_memory = Registry([Plugin()])
    with pytest.raises(PluginError, match="A worker process cannot import the plug-in Plugin, which is an object in"):
        work(Places(tiny_model, pairs, tmp_path), in_memory)


def test_only_entries_ask_for_the_default_registry() -> None:
    files = Path("xpsr_sdk").rglob("*.py")
    asking = {f"{f.parent.name}/{f.name}" for f in files if "default_registry()" in f.read_text(encoding="utf-8")}
    assert asking == {
        "xpsr_sdk/build.py",
        "xpsr_sdk/pipeline.py",
        "benchmark/compare.py",
        "cli/evaluate.py",
        "cli/plugins.py",
        "cli/upscale.py",
        "cli/web.py",
        "evaluation/setup.py",
        "preparation/prepare.py",
        "prompts/caption_folder.py",
        "testing/subject.py",
        "training/ablation.py",
        "training/loop.py",
        "plugin_system/registry.py",
    }
