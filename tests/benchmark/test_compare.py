"""``xpsr compare``: what is missing is restored, all is measured, and a second run does nothing again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from tests.support import tiny
from xpsr_sdk.benchmark import compare as module
from xpsr_sdk.benchmark.compare import run_protocol
from xpsr_sdk.benchmark.protocol import Protocol
from xpsr_sdk.cli.main import xpsr
from xpsr_sdk.config import load_config, read_toml
from xpsr_sdk.errors import ConfigError

CONFIG = """
output = "{folder}/out"
metrics = ["psnr"]
device = "cpu"

[data.two]
input = "{folder}/LR"
reference = "{folder}/HR"

[methods.bicubic.settings]
model = "none"
upscaler = "bicubic"

[methods.tiny]
seeds = [0, 1]

[methods.tiny.settings]
model = "{model}"
num_inference_steps = 1

[methods.theirs]
folder = "{folder}/results/{{data}}"
"""


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path) -> Path:
    for i, name in enumerate("ab"):
        photo = tiny.photo(64, 64, i)
        for folder in ("HR", "LR", "results/two"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            small = photo.resize((16, 16)) if folder == "LR" else photo
            small.save(tmp_path / folder / f"{name}.png")
    (tmp_path / "config.toml").write_text(CONFIG.format(folder=tmp_path, model=tiny_model))
    return tmp_path / "config.toml"


def test_a_protocol_is_run_and_goes_on_where_it_was(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = CliRunner().invoke(xpsr, ["compare", str(config)])
    assert result.exit_code == 0, result.output
    out = tmp_path / "out" / "two"
    for label in ("bicubic", "tiny-seed-0", "tiny-seed-1"):
        assert sorted(file.name for file in (out / label).iterdir()) == ["a.png", "b.png"]
    assert (out / "tiny-seed-0" / "a.png").read_bytes() != (out / "tiny-seed-1" / "a.png").read_bytes()
    for file in ("report.html", "figures.csv", "table.tex"):
        assert (out / file).stat().st_size > 0
    methods = json.loads((out / "figures.json").read_text())["methods"]
    assert list(methods) == ["bicubic", "tiny-seed-0", "tiny-seed-1", "theirs"]
    assert methods["theirs"]["means"]["psnr"]["mean"] == "inf"
    assert "seconds per megapixel" in (out / "report.html").read_text(encoding="utf-8")
    assert len((tmp_path / "out" / "restored.jsonl").read_text().splitlines()) == 6

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a pipeline was built although nothing is missing")

    monkeypatch.setattr(module, "build_pipeline", refuse)
    stored = (tmp_path / "out" / "scores.jsonl").read_bytes()
    assert CliRunner().invoke(xpsr, ["compare", str(config)]).exit_code == 0
    assert (tmp_path / "out" / "scores.jsonl").read_bytes() == stored


def test_a_bad_photo_is_told_and_the_rest_is_done(config: Path, tmp_path: Path) -> None:
    (tmp_path / "LR" / "a.png").write_bytes(b"no picture")
    result = CliRunner().invoke(xpsr, ["compare", str(config)])
    assert result.exit_code == 1
    assert "Failed: bicubic: " in result.stderr
    assert "Failed: two: bicubic lacks a." in result.stderr
    assert (tmp_path / "out" / "two" / "bicubic" / "b.png").is_file()


def test_photos_of_other_settings_are_not_used_again(config: Path, tmp_path: Path) -> None:
    arguments = ["compare", str(config), 'metrics=["psnr"]']
    only_bicubic = config.read_text().split("[methods.tiny]")[0]
    config.write_text(only_bicubic)
    assert CliRunner().invoke(xpsr, arguments).exit_code == 0
    config.write_text(only_bicubic + "scale = 2\n")
    result = CliRunner().invoke(xpsr, arguments)
    assert result.exit_code == 2
    assert "two/bicubic were restored with other settings (scale; see " in result.stderr
    config.write_text(only_bicubic.replace("[methods.bicubic.", "[methods.bicubic]\nseeds = [3]\n[methods.bicubic."))
    assert "other settings (seed; see " in CliRunner().invoke(xpsr, arguments).stderr
    config.write_text(only_bicubic)
    assert CliRunner().invoke(xpsr, arguments).exit_code == 0


def test_any_error_of_a_photo_is_told_and_the_rest_is_done(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pipeline:
        set_progress_bar_config = staticmethod(lambda **_: None)

        def __call__(self, photo: Path, seed: int) -> Image.Image:
            if photo.stem == "a":
                raise MemoryError("no memory is left")
            return Image.new("RGB", (64, 64))

    config.write_text(config.read_text().split("[methods.tiny]")[0])
    (tmp_path / "out" / "two" / "bicubic").mkdir(parents=True)
    monkeypatch.setattr(module, "build_pipeline", lambda *_, **__: Pipeline())
    result = CliRunner().invoke(xpsr, ["compare", str(config)])
    assert result.exit_code == 1
    assert "a.png: MemoryError: no memory is left" in result.stderr
    assert (tmp_path / "out" / "two" / "bicubic" / "b.png").is_file()


def test_a_data_set_that_cannot_be_measured_does_not_stop_the_others(config: Path, tmp_path: Path) -> None:
    tiny.photo(64, 64).save(tmp_path / "other.png")
    (tmp_path / "HR2").mkdir()
    (tmp_path / "other.png").rename(tmp_path / "HR2" / "other.png")
    bad = f'[data.bad]\ninput = "{tmp_path}/LR"\nreference = "{tmp_path}/HR2"\n'
    config.write_text(config.read_text().split("[methods.tiny]")[0].replace("[data.two]", f"{bad}[data.two]"))
    result = CliRunner().invoke(xpsr, ["compare", str(config)])
    assert result.exit_code == 1
    assert "Failed: bad: None of the photos in " in result.stderr
    assert (tmp_path / "out" / "two" / "report.html").is_file()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('metrics=["psrn"]', "Did you mean 'psnr'"),
        ("data.two.reference=nowhere", "data.two.reference: nowhere is no folder"),
        ("methods.theirs.folder=nowhere/{data}", "methods.theirs.folder: nowhere/two is no folder"),
        ("device=cudaa", "cudaa"),
    ],
)
def test_nothing_is_restored_before_everything_is_checked(
    config: Path, tmp_path: Path, change: str, words: str
) -> None:
    result = CliRunner().invoke(xpsr, ["compare", str(config), change])
    assert result.exit_code != 0
    assert words in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"folder": "x", "settings": {"scale": 2}}, "a folder of results, or a config and settings, not both"),
        ({"settings": {"scales": 2}}, r"methods.m.settings.*scales"),
    ],
)
def test_mistakes_are_told_first(tmp_path: Path, method: dict[str, Any], message: str) -> None:
    values = {"output": tmp_path, "data": {"d": {"input": tmp_path}}, "methods": {"m": method}}
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        run_protocol(load_config(Protocol, values, "the test"))


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/etc", "a\\b", "C:x", "a\nb"])
def test_names_are_folders_within_the_output(tmp_path: Path, name: str) -> None:
    values = {"output": tmp_path, "data": {"d": {"input": tmp_path}}, "methods": {"m": {"folder": "x"}}}
    for table in ("data", "methods"):
        with pytest.raises(ConfigError, match="names a folder in the output"):
            load_config(Protocol, values | {table: {name: {"input": tmp_path} if table == "data" else {}}}, "the test")


def test_a_data_set_without_photos_is_told(tmp_path: Path) -> None:
    values = {"output": tmp_path, "data": {"d": {"input": tmp_path / "nowhere"}}, "methods": {"m": {}}}
    with pytest.raises(ConfigError, match=r"data\.d\.input: .*nowhere is no folder with images"):
        run_protocol(load_config(Protocol, values, "the test"))


def test_the_example_is_valid() -> None:
    protocol = read_toml(Protocol, Path("examples/compare.toml"))
    assert list(protocol.data) == ["DRealSR", "RealSR", "DIV2K"]
    assert protocol.metrics == ("paper-osediff",)
