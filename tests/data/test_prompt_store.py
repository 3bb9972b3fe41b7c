"""The store of prompts: keys, transactions, and files that are none."""

from __future__ import annotations

import os
import pickle
import sqlite3
from pathlib import Path

import pytest

from xpsr_sdk import ConfigError
from xpsr_sdk.contracts import PromptKey
from xpsr_sdk.data.prompt_store import PromptStore, SeenImage, StoredPrompt

KEY = PromptKey("transformers", "llava", "What is it?")


def prompt(text: str | None, key: PromptKey = KEY, sha256: str = "aa") -> StoredPrompt:
    return StoredPrompt(sha256, "high", key, text, "llava")


@pytest.fixture
def store(tmp_path: Path) -> PromptStore:
    return PromptStore(tmp_path / "new" / "prompts.sqlite", writable=True)


def test_a_prompt_is_known_by_content_provider_model_and_question(store: PromptStore) -> None:
    store.add([prompt("a house")], [SeenImage("a.png", 10, 20, "aa")])
    assert store.has("aa", "high", KEY)
    assert not store.has("aa", "low", KEY)
    assert not store.has("bb", "high", KEY)
    assert not store.has("aa", "high", PromptKey("openai", KEY.model, KEY.question))
    assert not store.has("aa", "high", PromptKey(KEY.provider, "qwen", KEY.question))
    assert not store.has("aa", "high", PromptKey(KEY.provider, KEY.model, "Who is it?"))


def test_the_newest_prompt_is_read(store: PromptStore) -> None:
    other = PromptKey("transformers", "qwen", "What is it?")
    store.add([prompt("a house")], [])
    store.add([prompt("a hut", other)], [])
    store.add([prompt("asked twice"), prompt(None, PromptKey("measured"))], [])
    assert store.newest("aa", "high") == prompt("a hut", other)
    assert store.newest("aa", "low") is None
    assert store.has("aa", "high", PromptKey("measured"))


def test_a_batch_is_stored_whole_or_not_at_all(store: PromptStore) -> None:
    with pytest.raises(ConfigError, match="cannot be used as a store of prompts: "):
        store.add([prompt("a house"), prompt(object(), sha256="bb")], [])  # type: ignore[arg-type]
    assert store.newest("aa", "high") is None


def test_readers_and_writers_share_a_file(store: PromptStore) -> None:
    store.add([prompt("a house")], [])
    reader: PromptStore = pickle.loads(pickle.dumps(PromptStore(store.file)))
    assert reader.newest("aa", "high") == prompt("a house")
    store.add([prompt("a hut", PromptKey("fixed"))], [])
    assert reader.newest("aa", "high") == prompt("a hut", PromptKey("fixed"))


def test_a_closed_store_is_one_file_that_can_be_read_anywhere(store: PromptStore) -> None:
    store.add([prompt("a house")], [])
    store.close()
    assert [file.name for file in store.file.parent.iterdir()] == ["prompts.sqlite"]
    store.file.parent.chmod(0o555)
    try:
        assert PromptStore(store.file).newest("aa", "high") == prompt("a house")
        assert len(os.listdir(store.file.parent)) == 1
    finally:
        store.file.parent.chmod(0o755)


def test_a_missing_file_is_an_empty_store(tmp_path: Path) -> None:
    assert PromptStore(tmp_path / "none.sqlite").newest("aa", "high") is None
    assert not (tmp_path / "none.sqlite").exists()


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    text, database = tmp_path / "a.sqlite", tmp_path / "b.sqlite"
    text.write_text("no database " * 100)
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()
    before = [file.read_bytes() for file in (text, database)]
    for file in (text, database):
        for writable in (True, False):
            with pytest.raises(ConfigError, match=rf"{file.name} cannot be used as a store of prompts: "):
                PromptStore(file, writable).image_count()
    assert [file.read_bytes() for file in (text, database)] == before
