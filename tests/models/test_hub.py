"""Models and checkpoints on the hub: what is asked for, and what the cache gives without a connection."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import filter_repo_objects

from tests.support import tiny
from xpsr_sdk import ConfigError, build_pipeline
from xpsr_sdk.models.find_model import find_checkpoint, find_model
from xpsr_sdk.models.hub import CHECKPOINT_FILES, HUB_FILES, folder_on_hub

PLAIN, HALF = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"


def cached(home: Path, name: str, folder: Path) -> Path:
    """Put a folder into a cache of the hub, as huggingface_hub keeps it."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    return shutil.copytree(folder, repository / "snapshots" / ("0" * 40))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub without a connection."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_without_a_connection_the_cache_gives_model_and_checkpoint(home: Path) -> None:
    base = cached(home, "someone/base", tiny.SD_TINY / "base")
    (base / "vae" / PLAIN).rename(base / "vae" / HALF)
    cached(home, "someone/xpsr", tiny.SD_TINY / "xpsr")
    settings: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
    pipelines = [
        build_pipeline(model="someone/base", checkpoint="someone/xpsr", **settings),
        build_pipeline(tiny.sd_config()),
    ]
    assert tiny.same(*(pipe(tiny.PHOTO, seed=1, num_inference_steps=1, prompt="a").image for pipe in pipelines))


def test_what_is_neither_here_nor_in_the_cache_is_a_sentence(home: Path) -> None:
    for find in (find_model, lambda name: find_checkpoint(Path(name))):
        with pytest.raises(ConfigError, match="'someone/lost' is not here, and could not be downloaded from the hub"):
            find("someone/lost")


def test_a_file_of_the_hub_is_a_model(home: Path) -> None:
    from tests.support import original_layout

    (home / "files").mkdir()
    original_layout.write_file(home / "files" / "it.safetensors", original_layout.tiny_networks("sd1"))
    cached(home, "someone/files", home / "files")
    assert (find_model("someone/files/it.safetensors") / "unet" / "config.json").is_file()


def test_a_checkpoint_that_is_a_folder_is_never_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert find_checkpoint(tmp_path / "anything") == tmp_path / "anything"
    with pytest.raises(ConfigError, match=r"The folder runs/best does not exist. The hub is not asked"):
        find_checkpoint(Path("runs/best"))


def test_a_model_is_downloaded_in_one_precision_and_format() -> None:
    shards = ("model-00001-of-00002.safetensors", "model.safetensors.index.json")
    wanted = {
        "model_index.json",
        "scheduler/scheduler_config.json",
        *(f"text_encoder/{name}" for name in ("config.json", "model.safetensors")),
        *(f"text_encoder_2/{name}" for name in ("config.json", *shards)),
        *(f"tokenizer/{name}" for name in ("merges.txt", "special_tokens_map.json", "vocab.json")),
        *(
            f"{part}/{name}"
            for part in ("unet", "vae", "controlnet")
            for name in ("config.json", "diffusion_pytorch_model.safetensors")
        ),
    }
    left = {
        "README.md",
        "v1-5-pruned.safetensors",
        "v1-5-pruned-emaonly.ckpt",
        "safety_checker/model.safetensors",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/pytorch_model.bin",
        "text_encoder_2/model-00001-of-00002.fp16.safetensors",
        "text_encoder_2/model.fp16-00001-of-00002.safetensors",
        "text_encoder_2/model.safetensors.index.fp16.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    }
    assert set(filter_repo_objects(wanted | left, allow_patterns=HUB_FILES)) == wanted
    assert all(name.startswith(("unet/", "controlnet/", "plugins")) for name in CHECKPOINT_FILES)


def test_a_network_without_plain_weights_is_downloaded_as_fp16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = shutil.copytree(tiny.SD_TINY / "base", tmp_path / "remote")
    (remote / "vae" / PLAIN).rename(remote / "vae" / HALF)

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        files = [str(file.relative_to(remote)) for file in remote.rglob("*") if file.is_file()]
        for file in filter_repo_objects(files, allow_patterns=allow_patterns):
            (tmp_path / "here" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(remote / file, tmp_path / "here" / file)
        return str(tmp_path / "here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    folder = folder_on_hub("someone/model", HUB_FILES)
    assert [file.name for file in (folder / "vae").glob("*.safetensors")] == [HALF]
    assert [file.name for file in (folder / "unet").glob("*.safetensors")] == [PLAIN]
