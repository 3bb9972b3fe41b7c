"""What is read of JSON and TOML files, and what is refused in a sentence, within a second."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import BaseModel

from xpsr_sdk import ConfigError
from xpsr_sdk.files.reading import DEEPEST, LARGEST, json_lines, read_bytes, read_json, read_toml, validated


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n  "b"', "is damaged or no JSON file: what stands at line 2, column 6 is not JSON"),
        (b"[1]", "must hold an object"),
        (b"\xff\xfe{", "is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' * (DEEPEST + 2) + b"1" + b"}" * (DEEPEST + 2), "levels deep"),
        (b'{"a": {"b": [NaN]}}', "a.b is nan"),
        (b'{"a": 1e999}', "a is inf"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is damaged"),
    ],
)
def test_what_is_no_json_object_is_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        read_json(file, ConfigError)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"a = [" * 10_000, b"a = inf", b"\xff", b"a = 1\na = 2", b"a = " + b"9" * 5000])
def test_what_is_no_toml_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read as a TOML file") as error:
        read_toml(file, ConfigError)
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(file, ConfigError) == {"a": 1}
    file.write_bytes(b"\xef\xbb\xbfa = 1")
    assert read_toml(file, ConfigError) == {"a": 1}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_what_never_ends_is_not_begun(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for file in (tmp_path / "pipe", tmp_path / "link"):
        with pytest.raises(ConfigError, match="device or a pipe"):
            read_bytes(file, ConfigError)
    with pytest.raises(ConfigError, match="a folder"):
        read_bytes(tmp_path, ConfigError)
    with pytest.raises(ConfigError, match="does not exist"):
        read_bytes(tmp_path / "none", ConfigError)


def test_enormous_files_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(ConfigError, match="too large"):
        read_bytes(tmp_path / "x", ConfigError)


def test_fields_of_another_type_are_named() -> None:
    class Known(BaseModel):
        size: int

    with pytest.raises(ConfigError, match=r"^x is damaged .* size: .*, not 'a'"):
        validated(Known, {"size": "a"}, "x", ConfigError)


def test_lines_that_are_no_objects_are_left_out() -> None:
    assert list(json_lines(['{"a": 1}', "[" * 100_000, "[2]", '{"cut', "", '{"b": "\\ud800"}'])) == [
        {"a": 1},
        {"b": "\ud800"},
    ]
