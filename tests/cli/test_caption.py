"""``xpsr caption``: describe a folder, and show what was said."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.support import tiny
from xpsr_sdk.builtin.fixed import FixedPrompts
from xpsr_sdk.cli.main import xpsr
from xpsr_sdk.prompts.store import PromptStore


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        tiny.photo(40, 30, seed).save(folder / f"{seed}.png")
    return folder


def caption(*arguments: object) -> Result:
    return CliRunner().invoke(xpsr, ["caption", *map(str, arguments)])


def test_a_folder_is_described_once(photos: Path) -> None:
    for described, known in ((3, 0), (0, 3)):
        result = caption(photos)
        assert result.exit_code == 0, result.stderr
        assert result.stdout == f"{described} images described, {known} were before: {photos}/prompts.sqlite\n"


def test_what_is_stored_is_shown(photos: Path, tmp_path: Path) -> None:
    config = tmp_path / "words.toml"
    config.write_text('[prompt_provider]\nname = "fixed"\nhigh = "a [red] house <b> 家"\nlow = "blurry"\n')
    assert caption(photos, "--config", config).exit_code == 0
    result = caption(photos, "--show", "--count", 2)
    assert result.exit_code == 0, result.stderr
    assert "a [red] house <b> 家" in result.stdout
    assert "2.png" not in result.stdout
    assert result.stdout.endswith(f"2 of 3 images: {tmp_path}/photos-prompts.png\n")
    with Image.open(tmp_path / "photos-prompts.png") as sheet:
        assert sheet.width > 2 * 240
        assert len(set(sheet.convert("L").tobytes())) > 100  # photos and text
    assert caption(photos, "--show", "--sheet", tmp_path / "other.jpg").exit_code == 0
    assert (tmp_path / "other.jpg").is_file()


def test_options_of_the_provider_go_before_those_of_the_file(photos: Path, tmp_path: Path) -> None:
    config = tmp_path / "words.toml"
    config.write_text('[prompt_provider]\nname = "fixed"\nhigh = "a house"\nlow = "blurry"\n')
    result = caption(photos, "--config", config, "--prompt-provider-option", "high=a tree")
    assert result.exit_code == 0, result.stderr
    shown = caption(photos, "--show").stdout
    assert "a tree" in shown
    assert "a house" not in shown
    assert "blurry" in shown


def test_a_level_that_nobody_described_is_shown_as_missing(photos: Path) -> None:
    caption(photos)
    rows = [line.split() for line in caption(photos, "--show").stdout.splitlines()]
    assert ["0.png", "high", "(none)"] in rows


def test_a_photo_that_is_gone_is_left_out_of_the_sheet(photos: Path) -> None:
    caption(photos)
    (photos / "1.png").unlink()
    result = caption(photos, "--show")
    assert result.exit_code == 0
    assert "Not on the sheet: " in result.stderr
    assert "2 of 3 images" in result.stdout


@pytest.mark.parametrize("workers", [1, 2])
def test_warnings_are_told_in_a_line(photos: Path, tmp_path: Path, workers: int) -> None:
    words = "word " * 500
    (tmp_path / "words.toml").write_text(f'[prompt_provider]\nname = "fixed"\nhigh = "{words}"\n')
    result = caption(photos, "--config", tmp_path / "words.toml", "--workers", workers)
    told = f"Warning: A description of 2500 characters was cut to 1999: {words[:60]!r}..."
    lines = {line for line in result.stderr.splitlines() if " is ready after " not in line}
    assert (result.exit_code, lines) == (0, {told})


def test_failures_are_listed_and_the_rest_is_done(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "0.png").write_text("no image")

    def failing(self: object, items: object, levels: object) -> None:
        raise TimeoutError("too late")

    monkeypatch.setattr(FixedPrompts, "describe", failing)
    result = caption(photos, "--prompt-provider", "fixed")
    assert result.exit_code == 1
    assert f"Left out: {photos}/0.png is not an image" in result.stderr
    assert f"Prompts are missing: {photos}/1.png: The prompt provider 'fixed' of xpsr-sdk" in result.stderr
    assert "raised TimeoutError: too late (" in result.stderr


def test_stores_of_several_machines_become_one(photos: Path, tmp_path: Path) -> None:
    stores = [tmp_path / f"{part}.sqlite" for part in (1, 2, 3)]
    for part, store in enumerate(stores, 1):
        caption(photos, "--shard", f"{part}/3", "--store", store)
    merging = [word for store in stores for word in ("--merge", store)]
    for count in (6, 0):  # the same command again adds nothing
        result = caption(photos, *merging)
        assert result.exit_code == 0, result.stderr
        told = [line.split() for line in result.stdout.splitlines()]
        assert sum(int(words[1]) for words in told) == count
    assert caption(photos).stdout == f"0 images described, 3 were before: {photos}/prompts.sqlite\n"
    assert "3 of 3 images" in caption(photos, "--show").stdout


def test_conflicts_of_stores_are_told(photos: Path, tmp_path: Path) -> None:
    caption(photos)
    caption(photos, "--store", tmp_path / "theirs.sqlite")
    with sqlite3.connect(tmp_path / "theirs.sqlite") as theirs:
        theirs.execute("UPDATE prompts SET text = 'another' WHERE level = 'low'")
    theirs.close()
    result = caption(photos, "--merge", tmp_path / "theirs.sqlite")
    assert result.exit_code == 0
    assert "3 known, 3 in conflict" in result.stdout
    assert re.search(r"Conflict: \S+/1.png: the low-level prompt stays '.*', not 'another'", result.stderr)


def test_what_stands_in_a_name_is_no_command_for_the_terminal(photos: Path, tmp_path: Path) -> None:
    caption(photos)
    caption(photos, "--store", tmp_path / "theirs.sqlite")
    with closing(sqlite3.connect(tmp_path / "theirs.sqlite")) as theirs, theirs:
        theirs.execute("UPDATE prompts SET text = 'another' WHERE level = 'low'")
        theirs.execute("UPDATE images SET path = ? || path", ("\x1b]0;hacked\x07\x1b[31m",))
    result = caption(photos, "--merge", tmp_path / "theirs.sqlite")
    assert "3 in conflict" in result.stdout
    assert "\x1b" not in result.stderr
    assert "hacked" not in result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_photos_whose_names_are_no_utf8_are_on_the_sheet(photos: Path) -> None:
    (photos / "1.png").rename(photos / os.fsdecode(b"h\xe4us.png"))
    caption(photos)
    result = caption(photos, "--show")
    assert "h\\xe4us.png" in result.stdout
    assert "3 of 3 images" in result.stdout


def test_every_store_is_closed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caption(photos, "--store", tmp_path / "theirs.sqlite")
    opened, closed = [], []
    start, close = PromptStore.__init__, PromptStore.close
    monkeypatch.setattr(PromptStore, "__init__", lambda self, *a, **o: opened.append(self) or start(self, *a, **o))
    monkeypatch.setattr(PromptStore, "close", lambda self: closed.append(self) or close(self))
    caption(photos, "--merge", tmp_path / "theirs.sqlite", "--show")
    assert len(opened) == 3
    assert {*map(id, opened)} == {*map(id, closed)}


@pytest.mark.parametrize(
    ("arguments", "mode", "idle"),
    [
        (["--merge", "theirs.sqlite", "--prompt-provider", "fixed", "--level", "low"], "With --merge",
         "--prompt-provider, --level"),
        (["--merge", "theirs.sqlite", "--shard", "1/2", "--sheet", "a.png"], "With --merge", "--shard, --sheet"),
        (["--merge", "theirs.sqlite", "--show", "--config", "a.toml", "--workers", 1], "With --merge",
         "--config, --workers"),
        (["--show", "--prompt-provider-option", "high=a tree"], "With --show", "--prompt-provider-option"),
        (["--show", "--batch-size", 4], "With --show", "--batch-size"),
        (["--count", 4], "Without --show", "--count"),
    ],
)  # fmt: skip
def test_options_without_an_effect_are_refused(photos: Path, arguments: list[object], mode: str, idle: str) -> None:
    result = caption(photos, *arguments)
    assert result.exit_code == 2
    assert f"{mode}, these options have no effect: {idle}; leave them out." in result.stderr
    assert not (photos / "prompts.sqlite").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--merge", "none.sqlite"], "There is no store of prompts none.sqlite."),
        (["--merge", "{photos}/0.png"], "0.png cannot be used as a store of prompts: file is not a database"),
        (["--prompt-provider", "fixd"], "Did you mean 'fixed'?"),
        (["--prompt-provider", "openai"], "model: is required"),
        (["--level", "middle"], "'middle' is not one of"),
        (["--shard", "3/2"], "'3/2' is not valid: write K/N, for instance 2/8 for the second of eight parts."),
        (["--shard", "x"], "'x' is not valid"),
        (["--workers", "0"], "0 is not in the range"),
        (["--config", "none.toml"], "none.toml does not exist"),
        (["--show"], "xpsr caption {photos} makes one"),
        (["--store", "{photos}/0.png"], "0.png cannot be used as a store of prompts: file is not a database"),
    ],
)
def test_wrong_use_is_one_sentence(photos: Path, arguments: list[str], message: str) -> None:
    result = caption(photos, *(argument.format(photos=photos) for argument in arguments))
    assert result.exit_code == 2
    assert message.format(photos=photos) in result.stderr
    assert "Traceback" not in result.stderr
    assert not (photos / "prompts.sqlite").exists()


def test_a_folder_without_images(tmp_path: Path) -> None:
    result = caption(tmp_path)
    assert result.exit_code == 2
    assert "holds no images" in result.stderr
