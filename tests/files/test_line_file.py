"""Files that grow by lines, here and in a store to which nothing can be added."""

from __future__ import annotations

from pathlib import Path

import pytest

from xpsr_sdk.files import line_file
from xpsr_sdk.files.line_file import LineFile
from xpsr_sdk.files.remote import place


def test_lines_are_added_at_once_and_do_not_join_one_that_was_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "new" / "log.jsonl"
    LineFile(file).add("one")
    with file.open("a") as opened:
        opened.write("tw")  # killed
    again = LineFile(file)
    assert again.lines() == ["one", "tw"]
    again.add("three")
    assert file.read_text() == "one\ntw\nthree\n"


def test_a_file_in_a_store_is_sent_now_and_then_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    path = place("memory://lines/log.jsonl")
    lines = LineFile(path)
    lines.add("one")
    assert not path.exists()
    lines.close()
    assert path.read_text() == "one\n"
    monkeypatch.setattr(line_file, "SECONDS", 0.0)
    again = LineFile(path)
    again.add("two")
    assert place(str(path)).read_text() == "one\ntwo\n"
