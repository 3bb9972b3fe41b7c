"""Prompts ahead of time: what is asked, what is asked again, and what survives."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.two_hands import TwoHands
from xpsr_sdk import ConfigError, Item, Prompts
from xpsr_sdk.builtin.fixed import FixedPrompts
from xpsr_sdk.prompts.caption_folder import GIVE_UP_AFTER, Captioned, caption_folder
from xpsr_sdk.prompts.store import PromptStore

SLOW = """
import sys, time
from pathlib import Path
from xpsr_sdk.builtin.fixed import FixedPrompts
from xpsr_sdk.prompts.caption_folder import caption_folder

def describe(self, items, levels, plain=FixedPrompts.describe):
    time.sleep(0.01)
    with open(sys.argv[2], "a") as asked:
        asked.writelines(f"{item.sha256}\\n" for item in items)
    return plain(self, items, levels)

FixedPrompts.describe = describe
caption_folder(
    Path(sys.argv[1]), prompt_provider={"name": "fixed", "high": "a house"}, levels=["high"], batch_size=4,
    progress=lambda done, total: print(done, flush=True),
)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b.png", "c.png", "more/a.png")):
        tiny.photo(20, 16, seed).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...]]]:
    """The names of the photos that the provider ``fixed`` is asked about, with the levels."""
    found: list[tuple[str, tuple[str, ...]]] = []

    def describe(self: FixedPrompts, items: Sequence[Item], levels: Collection[str]) -> list[Prompts]:
        found.extend((item.path.name if item.path else "", tuple(levels)) for item in items)
        return plain(self, items, levels)  # type: ignore[arg-type]

    plain = FixedPrompts.describe
    monkeypatch.setattr(FixedPrompts, "describe", describe)
    return found


def caption(folder: Path, high: str | None = "a house", **options: object) -> Captioned:
    provider = {"name": "fixed", "high": high} if high is not None else "fixed"
    return caption_folder(folder, prompt_provider=provider, **options)  # type: ignore[arg-type]


def stored(folder: Path, photo: str, level: str = "high") -> str | None:
    from xpsr_sdk.data.images import read_image

    prompt = PromptStore(folder / "prompts.sqlite").newest(str(read_image(folder / photo).sha256), level)  # type: ignore[arg-type]
    return prompt.text if prompt else None


def test_what_is_stored_is_not_asked_again(folder: Path, asked: list[tuple[str, tuple[str, ...]]]) -> None:
    first = caption(folder, batch_size=3)
    assert (first.described, first.known) == (4, 0)
    assert asked == [(name, ("high", "low")) for name in ("a.png", "b.png", "c.png", "a.png")]
    assert stored(folder, "more/a.png") == "a house"
    assert stored(folder, "a.png", "low") is None  # not offered, which is known, too
    asked.clear()
    again = caption(folder)
    assert (again.described, again.known, asked) == (0, 4, [])


def test_a_large_photo_is_shown_as_it_is_in_a_restoration(
    tmp_path: Path, asked: list[tuple[str, tuple[str, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xpsr_sdk.data.photo.LARGEST_VIEW", 16)
    tiny.photo(60, 40).save(tmp_path / "large.png")
    assert caption(tmp_path).described == 1
    assert asked == [("large.png", ("high",)), ("large.png", ("low",))]  # a small copy, and the middle
    assert stored(tmp_path, "large.png") == "a house"


def test_another_question_or_another_content_is_asked(folder: Path, asked: list[tuple[str, tuple[str, ...]]]) -> None:
    caption(folder, levels=["high"])
    asked.clear()
    tiny.photo(20, 16, 9).save(folder / "b.png")
    caption(folder, levels=["high"])
    assert asked == [("b.png", ("high",))]
    asked.clear()
    caption(folder, levels=["high", "low"])
    assert asked == [(name, ("low",)) for name in ("a.png", "b.png", "c.png", "a.png")]
    asked.clear()
    caption(folder, "another house", levels=["high"])
    assert len(asked) == 4
    assert stored(folder, "a.png") == "another house"


def test_a_photo_that_moves_keeps_its_prompt(folder: Path, asked: list[tuple[str, tuple[str, ...]]]) -> None:
    caption(folder)
    asked.clear()
    (folder / "a.png").rename(folder / "z.png")
    assert caption(folder).known == 4
    assert asked == []


def test_copies_are_asked_about_once(folder: Path, asked: list[tuple[str, tuple[str, ...]]]) -> None:
    for name in ("b.png", "c.png"):
        (folder / name).write_bytes((folder / "a.png").read_bytes())
    assert caption(folder).described == 4
    assert [name for name, _ in asked] == ["a.png", "a.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_names_that_are_no_utf8(folder: Path, asked: list[tuple[str, tuple[str, ...]]]) -> None:
    (folder / "a.png").rename(folder / os.fsdecode(b"h\xe4us.png"))
    assert caption(folder).described == 4
    asked.clear()
    assert (caption(folder).known, asked) == (4, [])
    images = PromptStore(folder / "prompts.sqlite").images(4)
    assert {folder / image.path for image in images} == set(folder.rglob("*.png"))


def test_what_cannot_be_read_is_reported(folder: Path) -> None:
    (folder / "b.png").write_text("no image")
    report = caption(folder)
    assert report.described == 3
    assert list(report.failed) == [folder / "b.png"]
    assert "is not an image" in report.failed[folder / "b.png"]


def test_a_provider_that_fails_is_asked_again_next_time(
    folder: Path, asked: list[tuple[str, tuple[str, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: object, items: Sequence[Item], levels: object) -> list[Prompts]:
        return [Prompts(high="seen", source={"high": "fixed"}, errors={"low": "No light."}) for _ in items]

    with monkeypatch.context() as patch:
        patch.setattr(FixedPrompts, "describe", failing)
        report = caption(folder)
    assert report.described == 4
    assert report.unprompted == dict.fromkeys(sorted(folder.rglob("*.png")), "No light.")
    caption(folder)
    assert {levels for _, levels in asked} == {("low",)}


def test_a_provider_that_always_fails_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(GIVE_UP_AFTER + 10):
        tiny.photo(16, 16, seed).save(tmp_path / f"{seed}.png")

    def failing(self: object, items: object, levels: object) -> list[Prompts]:
        raise ConnectionError("nobody is there")

    monkeypatch.setattr(FixedPrompts, "describe", failing)
    report = caption(tmp_path, batch_size=10)
    assert len(report.unprompted) == GIVE_UP_AFTER
    assert f"{GIVE_UP_AFTER} images in a row. The last error: The prompt provider 'fixed'" in report.given_up
    assert "raised ConnectionError: nobody is there (" in report.given_up


def test_shards_share_the_photos(folder: Path, asked: list[tuple[str, tuple[str, ...]]]) -> None:
    reports = [caption(folder, part=(index, 3)) for index in range(3)]
    assert sum(report.described for report in reports) == len(asked) == 4


def test_workers_do_the_same(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    (folder / "b.png").write_text("no image")
    report = caption(folder, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert (report.described, len(report.failed)) == (3, 1)
    assert seen[-1] == (4, 4)
    assert [file.name for file in folder.glob("prompts*")] == ["prompts.sqlite"]
    assert stored(folder, "more/a.png") == "a house"


def test_wrong_use_is_told_before_anything_starts(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match="holds no images"):
        caption(tmp_path / "photos" / "none")
    with pytest.raises(ConfigError, match="there is no such option"):
        caption_folder(folder, prompt_provider={"name": "fixed", "hihg": "a house"})
    assert not (folder / "prompts.sqlite").exists()


def test_a_killed_run_loses_no_more_than_its_batch(tmp_path: Path) -> None:
    photos, asked = tmp_path / "photos", tmp_path / "asked.txt"
    photos.mkdir()
    for seed in range(60):
        tiny.photo(16, 16, seed).save(photos / f"{seed:02}.png")
    command = [sys.executable, "-c", SLOW, str(photos), str(asked)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        for _ in range(5):
            run.stdout.readline()
        run.kill()
    before = asked.read_text().split()
    with sqlite3.connect(photos / "prompts.sqlite") as connection:
        kept = {sha256 for (sha256,) in connection.execute("SELECT sha256 FROM prompts")}
    connection.close()
    assert 20 <= len(kept) < 60
    assert set(before[: len(before) - 4]) <= kept <= set(before)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = asked.read_text().split()[len(before) :]
    assert not kept & set(after)
    assert len(kept) + len(after) == 60


def test_workers_stop_when_nobody_waits_for_them(tmp_path: Path) -> None:
    photos, asked = tmp_path / "photos", tmp_path / "asked.txt"
    photos.mkdir()
    for seed in range(40):
        tiny.photo(16, 16, seed).save(photos / f"{seed:02}.png")
    program = tmp_path / "run.py"
    body = SLOW.replace("0.01", "0.2").replace("batch_size=4", "batch_size=1, workers=2")
    head, call = body.split("caption_folder(\n", 1)
    program.write_text(f"{head}if __name__ == '__main__':\n    caption_folder(\n{call}")
    with subprocess.Popen(
        [sys.executable, program, photos, asked], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as run:
        assert run.stdout
        run.stdout.readline()
        run.kill()
        run.communicate(timeout=100)  # the workers have the pipe, too: it ends with the last of them
    assert len(asked.read_text().split()) < 40


def test_what_fails_is_described_by_another_worker_or_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def describe(self: object, items: Sequence[Item], levels: Collection[str]) -> list[Prompts]:
        asked.extend(str(item.path) for item in items)
        return [answer(str(item.path)) for item in items]

    def answer(photo: str) -> Prompts:
        if photo == str(folder / "c.png") or (photo == str(folder / "a.png") and asked.count(photo) == 1):
            return Prompts(errors=dict.fromkeys(("high", "low"), "The captioner is asleep."))
        return Prompts("a house", "blurry", {"high": "test", "low": "test"})

    monkeypatch.setattr(FixedPrompts, "describe", describe)
    (folder / "b.png").write_text("no image")
    told: list[Path] = []
    report = caption(folder, runner=TwoHands(), on_failure=lambda photo, reason: told.append(photo))
    assert (report.described, report.failed.keys(), report.unprompted.keys()) == (
        2,
        {folder / "b.png"},
        {folder / "c.png"},
    )
    assert sorted(asked) == [str(folder / name) for name in ("a.png", "a.png", "c.png", "c.png", "more/a.png")]
    assert sorted(told) == [folder / "b.png", folder / "c.png"]
    assert stored(folder, "a.png") == "a house"


def test_refusals_among_many_descriptions_are_no_reason_to_give_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(2 * GIVE_UP_AFTER + 10):
        tiny.photo(16, 16, seed).save(tmp_path / f"{seed:03}.png")

    def describe(self: object, items: Sequence[Item], levels: Collection[str]) -> list[Prompts]:
        return [Prompts("a house", source={"high": "test"}) if is_first(item) else refused for item in items]

    def is_first(item: Item) -> bool:
        return item.path is not None and item.path.stem in ("000", "109")

    refused = Prompts(errors={"high": "I am sorry."})
    monkeypatch.setattr(FixedPrompts, "describe", describe)
    report = caption(tmp_path, levels=["high"], batch_size=1000, runner=TwoHands())
    assert (report.described, report.given_up) == (2, "")
