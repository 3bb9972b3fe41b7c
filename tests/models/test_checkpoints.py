"""Checkpoint folders: what is written is read again, and anything else is a clear error."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support import tiny
from xpsr_sdk import CheckpointError
from xpsr_sdk.models import checkpoints
from xpsr_sdk.models.checkpoints import WEIGHTS, read_checkpoint, write_checkpoint
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.unet import XPSRUNet

PUBLISHED = tiny.SD_TINY / "xpsr"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    write_checkpoint(tmp_path / "checkpoint-1", *tiny.networks())
    return tmp_path / "checkpoint-1"


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


def public(config: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in config.items() if not name.startswith("_")}


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    tiny.write_json(folder / "config.json", config | changes)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    models = tiny.networks()
    write_checkpoint(tmp_path / "checkpoint-1", *models)
    for written, read in zip(models, read_checkpoint(tmp_path / "checkpoint-1"), strict=True):
        assert same_weights(written, read)


def test_tensors_have_their_published_names_on_disk(checkpoint: Path) -> None:
    names = load_file(checkpoint / "controlnet" / WEIGHTS).keys()
    assert any(".attentions_lowlevel.0." in name for name in names)
    assert any(".attentions_connect.0." in name for name in names)
    assert not any("fusions" in name for name in names)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_the_prefix_of_a_wrapped_network_is_left_out(checkpoint: Path, tmp_path: Path, prefix: str) -> None:
    wrapped = shutil.copytree(checkpoint, tmp_path / "wrapped")
    for part in ("unet", "controlnet"):
        file = wrapped / part / WEIGHTS
        save_file({prefix + name: tensor for name, tensor in load_file(file).items()}, file)
    for plain, found in zip(read_checkpoint(checkpoint), read_checkpoint(wrapped), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), found.parameters(), strict=True))


@pytest.mark.parametrize("part", ["unet", "controlnet"])
def test_pickled_weights_are_read_when_asked_by_name_only(checkpoint: Path, part: str) -> None:
    expected = dict(zip(("unet", "controlnet"), read_checkpoint(checkpoint), strict=True))[part]
    for folder in (checkpoint / "unet", checkpoint / "controlnet"):
        torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
        (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"does not exist. There is pytorch_model.bin: give its name"):
        read_checkpoint(checkpoint)
    found = read_checkpoint(checkpoint, "pytorch_model.bin")
    assert same_weights(found[("unet", "controlnet").index(part)], expected)


def test_a_pickle_that_runs_code_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"conv_in.weight": Evil()}, checkpoint / "unet" / "evil.bin")
    with pytest.raises(CheckpointError, match=r"evil.bin cannot be read as weights: .* holds more than tensors"):
        read_checkpoint(checkpoint, "evil.bin")
    assert not (tmp_path / "harm").exists()


def test_precision_is_kept_or_changed(checkpoint: Path) -> None:
    unet, controlnet = read_checkpoint(checkpoint, dtype=torch.bfloat16)
    assert {p.dtype for model in (unet, controlnet) for p in model.parameters()} == {torch.bfloat16}
    write_checkpoint(checkpoint, unet, controlnet)
    assert read_checkpoint(checkpoint)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("missing", ["unet/config.json", f"unet/{WEIGHTS}", "controlnet/config.json"])
def test_a_missing_file_is_named(checkpoint: Path, missing: str) -> None:
    (checkpoint / missing).unlink()
    with pytest.raises(CheckpointError, match=f"{missing} does not exist"):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize("content", [[1, 2], {"conv_in.weight": "text"}, {"state_dict": {}}])
def test_a_pickle_of_something_else_is_refused(checkpoint: Path, content: object) -> None:
    torch.save(content, checkpoint / "unet" / "other.bin")
    with pytest.raises(CheckpointError, match=r"other.bin cannot be read as weights: it "):
        read_checkpoint(checkpoint, "other.bin")


@pytest.mark.parametrize("size", [0, 4, 1000])
def test_a_truncated_file_is_damaged(checkpoint: Path, size: int) -> None:
    file = checkpoint / "controlnet" / WEIGHTS
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=f"controlnet/{WEIGHTS} cannot be read as weights: "):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize("content", ["", "[1]", "no json", '"text"'])
def test_a_config_that_is_no_object_is_an_error(checkpoint: Path, content: str) -> None:
    (checkpoint / "unet" / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"unet/config.json is damaged or no JSON file"):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "changes",
    [
        {"block_out_channels": [8, 24]},
        {"layers_per_block": 2},
        {"cross_attention_dim": 24},
        {"in_channels": 4},
        {"use_lowlevel_prompt": False},
    ],
)
def test_another_architecture_is_an_error(checkpoint: Path, changes: dict[str, object]) -> None:
    change_config(checkpoint / "controlnet", **changes)
    with pytest.raises(CheckpointError, match=r"does not fit the model .* another architecture or fusion\?"):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "changes",
    [{"block_out_channels": [7, 16]}, {"down_block_types": ["NoBlock", "DownBlock2D"]}, {"attention_head_dim": "two"}],
)
def test_a_config_that_describes_no_model_is_an_error(checkpoint: Path, changes: dict[str, object]) -> None:
    change_config(checkpoint / "unet", **changes)
    with pytest.raises(CheckpointError, match=r"unet/config.json (does not describe a valid model|is damaged or not)"):
        read_checkpoint(checkpoint)


def test_writing_replaces_an_older_checkpoint(checkpoint: Path) -> None:
    unet, controlnet = tiny.networks()
    write_checkpoint(checkpoint, unet, controlnet)
    assert same_weights(read_checkpoint(checkpoint)[0], unet)
    assert [p.name for p in checkpoint.parent.iterdir()] == [checkpoint.name]


def test_writing_that_fails_leaves_the_older_checkpoint(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_checkpoint(checkpoint)

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(checkpoint, *tiny.networks())
    assert same_weights(read_checkpoint(checkpoint)[1], before[1])
    assert [p.name for p in checkpoint.parent.iterdir()] == [checkpoint.name]


def test_an_older_checkpoint_that_cannot_be_replaced_stays(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_checkpoint(checkpoint)
    replace = os.replace

    def fail_at_the_new_one(source: Path, target: Path) -> None:
        if target == checkpoint and (source / "unet").is_dir() and not source.name.endswith("-old"):
            raise OSError("Device or resource busy")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_the_new_one)
    with pytest.raises(OSError, match="busy"):
        write_checkpoint(checkpoint, *tiny.networks())
    assert same_weights(read_checkpoint(checkpoint)[1], before[1])
    assert [p.name for p in checkpoint.parent.iterdir()] == [checkpoint.name]


@pytest.mark.parametrize(("part", "model"), [("unet", XPSRUNet), ("controlnet", XPSRControlNet)])
def test_diffusers_own_saving_and_loading(
    part: str, model: type[XPSRUNet] | type[XPSRControlNet], tmp_path: Path
) -> None:
    expected = dict(zip(("unet", "controlnet"), read_checkpoint(PUBLISHED), strict=True))[part]
    published = model.from_pretrained(PUBLISHED / part)
    assert same_weights(published, expected)
    published.save_pretrained(tmp_path / part)
    again = model.from_pretrained(tmp_path / part)
    assert same_weights(again, expected)
    assert public(again.config) == public(published.config)


def test_a_folder_that_diffusers_saved_is_a_checkpoint(tmp_path: Path) -> None:
    expected = read_checkpoint(PUBLISHED)
    for part, model in zip(("unet", "controlnet"), expected, strict=True):
        model.save_pretrained(tmp_path / part)
    for a, b in zip(expected, read_checkpoint(tmp_path), strict=True):
        assert same_weights(a, b)


def test_a_checkpoint_can_be_moved(checkpoint: Path, tmp_path: Path) -> None:
    shutil.move(checkpoint, tmp_path / "elsewhere")
    read_checkpoint(tmp_path / "elsewhere")
