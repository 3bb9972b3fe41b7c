"""A photo on its way in: read once, hashed once, and only if somebody asks for the hash."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from xpsr_sdk import Item, Pipeline
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
