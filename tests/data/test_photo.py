"""A photo on its way in: read once, hashed once, and only if somebody asks for the hash."""

from __future__ import annotations

import hashlib
import os
import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support import tiny
from xpsr_sdk import ConfigError, Item, Pipeline, XPSRError
from xpsr_sdk.config import RestoreConfig
from xpsr_sdk.data import images, photo
from xpsr_sdk.data.photo import load_photo


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are hashed."""
    files: list[Path] = []

    def count(path: Path) -> str:
        files.append(path)
        return images.sha256_of(path)

    monkeypatch.setattr(photo, "sha256_of", count)
    return files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tiny.photo(40, 30).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_hash_that_nobody_reads_is_not_computed(pipe: Pipeline, file: Path, hashed: list[Path]) -> None:
    pipe(file)
    assert not hashed


def test_a_hash_is_computed_once_for_all_views(file: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo, "LARGEST_VIEW", 16)
    views = [item for _, item in load_photo(file, RestoreConfig()).views(["high", "low"])]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert [item.sha256 for item in views] == [digest, digest]
    assert hashed == [file]


def test_another_process_is_given_the_hash(file: Path) -> None:
    ((_, item),) = load_photo(file, RestoreConfig()).views(["high"])
    again = pickle.loads(pickle.dumps(item))
    assert again.sha256 == item.sha256 is not None
    assert Item(item.image).sha256 is None


def test_a_photo_is_opened_once(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from xpsr_sdk.cli.main import xpsr

    opened: list[Path] = []
    read = photo.read_picture

    def count(path: Path, *limits: float) -> Any:
        opened.append(path)
        return read(path, *limits)

    monkeypatch.setattr(photo, "read_picture", count)
    monkeypatch.setattr(images, "read_picture", count)
    arguments = ["upscale", str(file), "-o", str(tmp_path / "out.png"), "--device", "cpu"]
    assert CliRunner().invoke(xpsr, arguments).exit_code == 0
    assert opened == [file]


# What people hand over


@pytest.mark.parametrize(
    "given",
    [
        lambda file: file.read_bytes(),
        lambda file: BytesIO(file.read_bytes()),
        lambda file: np.asarray(Image.open(file)),
        lambda file: np.asarray(Image.open(file)).astype(np.uint16) * 257,
        lambda file: np.asarray(Image.open(file), np.float32) / 255,
        lambda file: torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1),
        lambda file: torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None] / 255,
    ],
    ids=["bytes", "file", "uint8", "uint16", "floats", "tensor", "batch of one"],
)
def test_a_photo_in_another_form_is_the_same_photo(file: Path, given: Any) -> None:
    loaded = load_photo(given(file), RestoreConfig())
    assert np.array_equal(np.asarray(loaded.picture.to_rgb()), np.asarray(Image.open(file)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (b"words", "the photo is not an image, or of a type that is not supported"),
        (np.zeros((4, 5, 7), np.uint8), r"the shape \(4, 5, 7\): arrays are H W or H W C"),
        (np.zeros((16, 16, 3), np.int64), "holds int64: give uint8, uint16, or floats from 0 to 1"),
        (np.full((16, 16), 255.0), "holds levels that are not from 0 to 1"),
        (np.full((16, 16), np.nan), "holds levels that are not from 0 to 1"),
        (3, r"A photo is a path, a PIL image, an item, .* not a int"),
    ],
)
def test_what_is_no_photo_is_told(given: Any, words: str) -> None:
    with pytest.raises(XPSRError, match=words):
        load_photo(given, RestoreConfig())


def test_file_objects_that_cannot_be_read(file: Path) -> None:
    with file.open("rb") as closed:
        pass
    with pytest.raises(XPSRError, match=r"cannot be read from the file object: read of closed file\."):
        load_photo(closed, RestoreConfig())
    with file.open(encoding="utf-8") as text, pytest.raises(ConfigError, match="open in binary mode"):
        load_photo(text, RestoreConfig())


def test_a_forked_process_says_so_instead_of_waiting_for_ever(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = load_photo(file, RestoreConfig()).picture
    photo.to_rgb()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(ConfigError, match=r"forked from one that has read photos, and cannot read any: .*'spawn'"):
        photo.to_rgb()
