"""Where models are found, and what a training run starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import tiny
from xpsr_sdk import ConfigError, Registry, UnknownComponent, build, build_pipeline
from xpsr_sdk.builtin.residual import ResidualBackbone
from xpsr_sdk.models.find_model import find_model

# Models


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and ``nano`` as the only preset."""
    (tmp_path / "presets" / "nano").mkdir(parents=True)
    (tmp_path / "presets" / "nano" / "model_index.json").write_text("{}")
    (tmp_path / "here").mkdir()
    monkeypatch.setattr("xpsr_sdk.models.find_model.PRESETS", tmp_path / "presets")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def asked(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the hub was asked for; it always gives the tiny model."""
    names: list[str] = []

    def snapshot_download(name: str, **options: Any) -> str:
        names.append(name)
        return str(tiny_model)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return names


def test_a_preset_goes_before_a_folder_of_the_same_name(here: Path) -> None:
    (here / "nano").mkdir()
    assert find_model("nano") == here.parent / "presets" / "nano"
    assert find_model("./nano") == find_model(Path("nano")) == Path("nano")


@pytest.mark.parametrize("name", ["nanoo", "", ".nano/one", "a/b/c"])
def test_a_model_that_is_nowhere_is_named(here: Path, asked: list[str], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"There is no model '{name}': neither a folder or file nor a preset"):
        find_model(name)
    assert not asked


def test_a_model_of_the_hub_is_downloaded(here: Path, asked: list[str]) -> None:
    result = build_pipeline(model="someone/model", device="cpu")(tiny.photo(17, 20))
    assert result.image.size == (68, 80)
    assert set(asked) == {"someone/model"}


def test_a_folder_that_is_missing_here_is_not_downloaded(here: Path, asked: list[str]) -> None:
    (here / "models").mkdir()
    with pytest.raises(ConfigError, match="The folder models/sd21 does not exist"):
        find_model("models/sd21")
    assert not asked


def test_a_model_that_the_hub_does_not_give_is_a_clear_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(ConfigError, match=r"'someone/model' is not here, and .* no network"):
        find_model("someone/model")


def test_a_name_is_no_config() -> None:
    with pytest.raises(ConfigError, match=r"The config is 'nano', not a PipelineConfig: to name a model, write model="):
        build_pipeline("nano")  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["sampler", "prompt_provider"])
def test_a_misspelt_part_is_told_before_any_weights_are_read(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def read(*arguments: object, **options: object) -> None:
        pytest.fail("weights were read")

    monkeypatch.setattr(ResidualBackbone, "load", read)
    monkeypatch.setattr(build, "read_checkpoint", read)
    settings: dict[str, Any] = {part: "no-such-part"}
    with pytest.raises(UnknownComponent, match="'no-such-part'"):
        build_pipeline(model=str(tiny_model), device="cpu", registry=Registry([]), **settings)


def test_a_model_that_is_too_large_for_its_device_is_a_sentence(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(build, "read_checkpoint", full)
    with pytest.raises(ConfigError, match="The model does not fit into the memory of cpu: set offload"):
        build_pipeline(model=str(tiny_model), device="cpu")
