"""Prompts from files: beside the photos, and in the published folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import tiny
from xpsr_sdk import Item, Prompts
from xpsr_sdk.builtin.sidecar import SidecarPrompts
from xpsr_sdk.prompts.describe import describe


def said(photo: Path, folder: Path | None = None) -> Prompts:
    provider = SidecarPrompts(SidecarPrompts.Config(folder=folder))
    return describe(provider, [Item(tiny.photo(16, 16), photo)], ["high", "low"])[0]


def write(file: Path, content: str | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def test_files_beside_the_photo(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "a house\n")
    write(tmp_path / "a.low.txt", "blurry")
    assert said(tmp_path / "a.jpg") == Prompts("a house", "blurry", {"high": "sidecar", "low": "sidecar"})
    write(tmp_path / "a.high.txt", "an old house")
    assert said(tmp_path / "a.jpg").high == "an old house"


@pytest.mark.parametrize("photos", ["LR", "HR", "."])
def test_the_published_folders(tmp_path: Path, photos: str) -> None:
    for name in (
        "highlevel_prompt",
        "highlevel_prompt_GT",
        "lowlevel_prompt",
        "lowlevel_prompt_q",
        "lowlevel_prompt_q_GT",
    ):
        write(tmp_path / name / "a.txt", name)
    found = said(tmp_path / photos / "a.png")
    if photos == "HR":
        assert (found.high, found.low) == ("highlevel_prompt_GT", "lowlevel_prompt_q_GT")
        return
    assert (found.high, found.low) == ("highlevel_prompt", "lowlevel_prompt_q")
    for name in ("highlevel_prompt", "lowlevel_prompt_q"):
        (tmp_path / name / "a.txt").unlink()
    found = said(tmp_path / photos / "a.png")
    assert (found.high, found.low) == ("highlevel_prompt_GT", "lowlevel_prompt")


def test_files_in_a_folder_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "words" / "a.txt", "a house")
    write(tmp_path / "words" / "lowlevel_prompt_q" / "a.txt", "blurry")
    found = said(tmp_path / "photos" / "a.png", tmp_path / "words")
    assert (found.high, found.low) == ("a house", "blurry")


def test_an_empty_file_is_empty_text_and_a_missing_one_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.low.txt", "")
    found = said(tmp_path / "a.jpg")
    assert (found.high, found.low) == (None, "")
    assert found.errors["high"] == (
        f"There is no {tmp_path / 'a.high.txt'}, and no other file with its high-level prompt."
    )
    assert "has no file" in describe(SidecarPrompts(), [Item(tiny.photo(16, 16))], ["low"])[0].errors["low"]


def test_files_that_are_no_utf8(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "caf\xe9 noir".encode("latin-1"))
    write(tmp_path / "a.low.txt", "\ufeffblurry".encode("utf-16-le"))
    found = said(tmp_path / "a.jpg")
    assert (found.high, found.low) == ("caf noir", "blurry")


def test_files_that_are_no_text(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", b"\x89PNG\r\n\0\0")
    write(tmp_path / "a.low.txt", " \n")
    found = said(tmp_path / "a.jpg")
    assert found.errors == {
        "high": f"{tmp_path}/a.txt: The description is not text: it holds zero bytes.",
        "low": f"{tmp_path}/a.low.txt: The description is empty.",
    }


def test_an_enormous_file_is_cut(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "word " * 2_000_000)
    with pytest.warns(UserWarning, match="A description of 1048576 characters was cut to 1999"):
        assert said(tmp_path / "a.jpg").high == ("word " * 400).strip()


def test_what_is_no_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.high.txt").mkdir()
    (tmp_path / "a.low.txt").symlink_to(tmp_path / "gone")
    assert all(error.startswith("There is no ") for error in said(tmp_path / "a.jpg").errors.values())
