"""Prompts from the store, at inference and in training."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support import tiny
from xpsr_sdk import Item
from xpsr_sdk.builtin.stored import StoredPrompts
from xpsr_sdk.data.images import read_image, read_picture
from xpsr_sdk.data.pairs import PairFolder
from xpsr_sdk.data.photo_folder import PhotoFolder
from xpsr_sdk.prompts.caption_folder import caption_folder
from xpsr_sdk.prompts.describe import describe
from xpsr_sdk.prompts.store import STORE_NAME, PromptStore


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    (tmp_path / "photos" / "more").mkdir(parents=True)
    tiny.photo(20, 16).save(tmp_path / "photos" / "more" / "a.png")
    caption_folder(tmp_path / "photos", prompt_provider={"name": "fixed", "high": "a house"})
    return tmp_path / "photos"


def test_the_next_store_above_is_read(captioned: Path) -> None:
    (said,) = StoredPrompts().describe([read_image(captioned / "more" / "a.png")], ["high", "low"])
    assert (said.high, said.low) == ("a house", None)
    assert said.source == {"high": "fixed"}
    assert said.errors == {
        "low": f"{captioned}/prompts.sqlite holds no low-level prompt for it: xpsr caption adds one."
    }


def test_a_store_elsewhere(captioned: Path, tmp_path: Path) -> None:
    shutil.move(captioned / "prompts.sqlite", tmp_path / "store.sqlite")
    photo = read_image(captioned / "more" / "a.png")
    (said,) = StoredPrompts().describe([photo], ["high"])
    assert "There is no prompts.sqlite in its folder or in one above" in said.errors["high"]
    provider = StoredPrompts(StoredPrompts.Config(file=tmp_path / "store.sqlite"))
    assert provider.describe([photo], ["high"])[0].high == "a house"
    provider.unload()
    assert "has no file" in provider.describe([Item(photo.image)], ["high"])[0].errors["high"]


def test_a_damaged_store_is_an_error_of_its_levels(captioned: Path) -> None:
    store = captioned / "prompts.sqlite"
    store.write_bytes(store.read_bytes()[:5000])
    (said,) = describe(StoredPrompts(), [read_image(captioned / "more" / "a.png")], ["high"])
    assert (
        "prompts.sqlite cannot be used as a store of prompts: database disk image is malformed" in said.errors["high"]
    )


def test_a_store_that_a_later_version_wrote(captioned: Path) -> None:
    with closing(sqlite3.connect(captioned / "prompts.sqlite")) as store:
        store.execute("ALTER TABLE prompts ADD COLUMN written TEXT")
    (said,) = StoredPrompts().describe([read_image(captioned / "more" / "a.png")], ["high"])
    assert said.high == "a house"


def test_training_reads_the_store_where_there_are_no_files(pairs: Path, tmp_path: Path) -> None:
    shutil.copytree(pairs, tmp_path / "pairs")
    for folder in ("lowlevel_prompt_q", "lowlevel_prompt_q_GT"):
        shutil.rmtree(tmp_path / "pairs" / folder)
    for part, level in (("HR", "high"), ("HR", "low"), ("LR", "low")):
        words = {"name": "fixed", level: f"{level} of {part}"}
        caption_folder(
            tmp_path / "pairs" / part,
            prompt_provider=words,
            levels=[level],  # type: ignore[list-item]
            store=tmp_path / "pairs" / "prompts.sqlite",
        )
    stored_prompt = PromptStore(tmp_path / "pairs" / STORE_NAME).text_of
    source = PairFolder(tmp_path / "pairs", read_picture, stored_prompt)
    for hr_as_input, low in ((False, "low of LR"), (True, "low of HR")):
        example = source.example(0, hr_as_input)
        assert (example.high, example.low) == ("high of HR", low)


def test_training_on_photos_reads_what_they_show(captioned: Path) -> None:
    stored_prompt = PromptStore(captioned / STORE_NAME).text_of
    source = PhotoFolder(captioned, read_picture, 16, stored_prompt)
    assert source.example(0, False).high == "a house"
    shutil.copy(captioned / "more" / "a.png", captioned / "b.png")
    assert PhotoFolder(captioned, read_picture, 16, stored_prompt).example(0, False).high == "a house"
