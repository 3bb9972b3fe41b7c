"""The store of prompts: keys, transactions, and files that are none."""

from __future__ import annotations

import os
import pickle
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from xpsr_sdk import ConfigError
from xpsr_sdk.contracts import PromptKey
from xpsr_sdk.prompts.store import Conflict, Merged, PromptStore, SeenImage, StoredPrompt

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


# Stores of several machines


def another(tmp_path: Path, *prompts: StoredPrompt, images: Sequence[SeenImage] = ()) -> PromptStore:
    """A store as another machine left it."""
    with closing(PromptStore(tmp_path / "theirs" / "prompts.sqlite", writable=True)) as theirs:
        theirs.add(prompts, images)
    return PromptStore(theirs.file)


def test_what_another_store_holds_is_added_once(store: PromptStore, tmp_path: Path) -> None:
    store.add([prompt("a house"), prompt("a hut", sha256="bb")], [])
    theirs = another(tmp_path, prompt("a house"), prompt("a tree", sha256="cc"), prompt(None, sha256="dd"))
    before = theirs.file.read_bytes()
    assert store.merge(theirs) == Merged(added=2, known=1)
    assert store.merge(theirs) == Merged(added=0, known=3)
    assert store.newest("cc", "high") == prompt("a tree", sha256="cc")
    assert store.newest("bb", "high") == prompt("a hut", sha256="bb")
    assert store.has("dd", "high", KEY)
    theirs.close()
    assert theirs.file.read_bytes() == before
    assert [file.name for file in theirs.file.parent.iterdir()] == ["prompts.sqlite"]


def test_of_two_texts_under_one_key_the_one_that_is_there_stays(store: PromptStore, tmp_path: Path) -> None:
    store.add([prompt("a house"), prompt(None, sha256="bb")], [])
    seen = SeenImage("trip/a.png", 10, 20, "aa")
    theirs = another(tmp_path, prompt("a hut"), prompt("a tree", sha256="bb"), images=[seen])
    conflicts = [Conflict("trip/a.png", "high", "a house", "a hut"), Conflict("bb", "high", None, "a tree")]
    for _ in range(2):
        assert store.merge(theirs) == Merged(conflicts=2, examples=conflicts)
    assert store.newest("aa", "high") == prompt("a house")


def test_what_is_merged_counts_as_newer(store: PromptStore, tmp_path: Path) -> None:
    store.add([prompt("a house")], [])
    other = PromptKey("openai", "qwen", "What is it?")
    store.merge(another(tmp_path, prompt("a hut", other)))
    assert store.newest("aa", "high") == prompt("a hut", other)


def test_images_are_known_where_their_files_are(store: PromptStore, tmp_path: Path) -> None:
    store.file.parent.mkdir()
    for folder, name in (("new", "here.png"), ("theirs", "there.png"), ("new", "changed.png")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(name)
    files = [tmp_path / "new" / "here.png", tmp_path / "theirs" / "there.png", tmp_path / "new" / "changed.png"]
    images = [SeenImage(file.name, file.stat().st_size, file.stat().st_mtime_ns, "aa") for file in files]
    images[2] = images[2]._replace(size=1)
    store.merge(another(tmp_path, images=[*images, SeenImage("gone.png", 1, 1, "bb")]))
    assert [image.path for image in store.images(9)] == [(tmp_path / "theirs/there.png").as_posix(), "here.png"]


def test_an_image_that_has_changed_since_is_known_as_the_other_store_does(store: PromptStore, tmp_path: Path) -> None:
    store.file.parent.mkdir()
    (store.file.parent / "a.png").write_text("new")
    now = (store.file.parent / "a.png").stat()
    store.add([], [SeenImage("a.png", 1, 1, "aa")])
    fresh = SeenImage("a.png", now.st_size, now.st_mtime_ns, "bb")
    store.merge(another(tmp_path, images=[fresh]))
    assert store.seen("a.png") == fresh


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_names_that_are_no_utf8_are_kept(store: PromptStore, tmp_path: Path) -> None:
    store.file.parent.mkdir()
    images = []
    for name in (os.fsdecode(b"h\xe4us.png"), "h\\xe4us.png"):
        photo = store.file.parent / name
        photo.write_text(name, errors="surrogateescape")
        images.append(SeenImage(store.name_of(photo), photo.stat().st_size, photo.stat().st_mtime_ns, f"{len(name)}"))
    assert len({image.path for image in images}) == 2
    theirs = another(tmp_path, prompt("a hut", sha256=images[0].sha256), images=images)
    store.add([prompt("a house", sha256=images[0].sha256)], [])
    (conflict,) = store.merge(theirs).examples
    assert conflict.photo == images[0].path
    assert {*store.images(9)} == {*images}
    assert [store.seen(image.path) for image in images] == images
    assert all((store.file.parent / image.path).is_file() for image in images)


def test_a_store_that_is_none_or_damaged_changes_nothing(store: PromptStore, tmp_path: Path) -> None:
    text = tmp_path / "text.sqlite"
    text.write_text("no database " * 100)
    with pytest.raises(ConfigError, match=r"There is no store of prompts .*nowhere\.sqlite\."):
        store.merge(PromptStore(tmp_path / "nowhere.sqlite"))
    with pytest.raises(ConfigError, match=r"text\.sqlite cannot be used as a store of prompts"):
        store.merge(PromptStore(text))
    assert not store.file.exists()
    store.add([prompt("a house")], [])
    with pytest.raises(ConfigError, match="is the store that others are merged into: name another one"):
        store.merge(PromptStore(store.file))
    theirs = another(tmp_path, *(prompt("a house " * 50, sha256=f"{i:064}") for i in range(200)))
    content = bytearray(theirs.file.read_bytes())
    content[len(content) // 2 :] = b"x" * (len(content) - len(content) // 2)
    theirs.file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"theirs/prompts\.sqlite cannot be used as a store of prompts"):
        store.merge(theirs)
    assert store.newest(f"{0:064}", "high") is None
    assert store.newest("aa", "high") == prompt("a house")
