"""Files of weights are read in every form that torch and safetensors give them; what is no such file is told."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from xpsr_sdk.errors import CheckpointError
from xpsr_sdk.weight_files import read_shapes, read_tensors, read_weights

TENSORS = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2, dtype=torch.float16)}
FORMS: dict[str, Callable[[Path], object]] = {
    "a.safetensors": lambda file: save_file(TENSORS, file),
    "a.SAFETENSORS": lambda file: save_file(TENSORS, file),
    "a.pth": lambda file: torch.save(TENSORS, file),
    "before torch 1.6.pth": lambda file: torch.save(TENSORS, file, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("name", FORMS)
def test_tensors_are_read_from_every_form(tmp_path: Path, name: str) -> None:
    FORMS[name](tmp_path / name)
    found = read_tensors(tmp_path / name)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[key], tensor) and found[key].dtype == tensor.dtype for key, tensor in TENSORS.items())


def test_tensors_inside_further_dictionaries_are_for_those_who_ask(tmp_path: Path) -> None:
    torch.save({"params_ema": TENSORS}, tmp_path / "a.pth")
    assert read_weights(tmp_path / "a.pth")["params_ema"].keys() == TENSORS.keys()
    with pytest.raises(CheckpointError, match=r"a\.pth cannot be read as weights: it must hold named tensors and noth"):
        read_tensors(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.bin"])
@pytest.mark.parametrize("content", [b"", b"<html>" * 9, b"\x80\x02K\x05."], ids=["nothing", "a web page", "a number"])
def test_what_is_no_file_of_weights_is_told_in_one_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_weights(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name} cannot be read as weights: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pth does not exist"):
        read_weights(tmp_path / "none.pth")


@pytest.mark.filterwarnings("error")
def test_torch_adds_no_words_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Path, protocol=4))
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        read_weights(tmp_path / "a.pth")


def test_a_file_is_read_by_what_is_in_it_and_not_by_its_name(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.ckpt")
    assert read_tensors(tmp_path / "a.ckpt").keys() == TENSORS.keys()
    assert read_shapes(tmp_path / "a.ckpt") == {"conv.weight": (2, 3), "conv.bias": (2,)}
    torch.save(TENSORS, tmp_path / "b.safetensors")
    for read in (read_tensors, read_shapes):
        with pytest.raises(CheckpointError, match=r"it is pickled, whatever its name says; named .ckpt, it is read"):
            read(tmp_path / "b.safetensors")
