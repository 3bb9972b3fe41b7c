"""Files appear whole or not at all; links, devices, modes and what killed processes left are treated with care."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from xpsr_sdk import ConfigError, ImageError
from xpsr_sdk.files.leftovers import remove_leftovers_once, temporary_name
from xpsr_sdk.files.locks import file_claim, folder_lock, is_claimed, remove_abandoned
from xpsr_sdk.files.writing import write_whole

NEW_NAME = "from xpsr_sdk.files.leftovers import temporary_name; print(temporary_name('.xpsr-'), flush=True)"
unix = pytest.mark.skipif(os.name != "posix", reason="needs links, FIFOs and umasks")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    remove_leftovers_once.cache_clear()
    yield
    remove_leftovers_once.cache_clear()


def write(path: Path, content: bytes = b"new") -> None:
    write_whole(path, lambda file: file.write(content))


def ended_process(line: str) -> str:
    """What a process of its own printed, which has ended."""
    return subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True).stdout.strip()


@unix
def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"
    (tmp_path / "dangling").symlink_to("later")
    write(tmp_path / "dangling")
    assert (tmp_path / "later").read_bytes() == b"new"


@unix
def test_a_device_gets_the_bytes_and_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write(tmp_path / "pipe")
    reader.join(10)
    assert got == [b"new"]
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "null").symlink_to("/dev/null")
    write(tmp_path / "null")
    assert Path("/dev/null").is_char_device()
    if Path("/dev/full").is_char_device():
        with pytest.raises(ImageError, match="No space left"):
            write(Path("/dev/full"))


@unix
def test_umask_and_the_mode_of_a_file_are_honoured(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write(tmp_path / "private")
        os.umask(0o002)
        write(tmp_path / "shared")
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("private", "shared")]
    assert modes == [0o600, 0o664]
    (tmp_path / "shared").chmod(0o640)
    write(tmp_path / "shared", b"newer")
    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o640


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    def fail(file: object) -> None:
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        write_whole(tmp_path / "file", fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="lets no file grow, as a full disk")
def test_a_disk_that_is_full_at_the_end_leaves_nothing(tmp_path: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(ImageError, match=r"a\.txt cannot be written: File too large"):
            write_whole(tmp_path / "a.txt", lambda file: file.write(b"buffered until the file is closed"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_goes_and_nothing_else(tmp_path: Path) -> None:
    ended = ended_process(NEW_NAME)
    alive, foreign = temporary_name(".xpsr-"), ".xpsr-notes"
    for name in (ended, alive, foreign):
        (tmp_path / name).write_bytes(b"")
    write(tmp_path / "file")
    assert {path.name for path in tmp_path.iterdir()} == {"file", alive, foreign}


@unix
def test_at_the_end_of_a_work_what_killed_workers_left_goes(tmp_path: Path) -> None:
    write(tmp_path / "first")  # looks for what was left before
    left, own, foreign = ended_process(NEW_NAME), temporary_name(".xpsr-"), ".xpsr-notes"
    for name in (left, own, foreign, ".xpsr-0123456789abcdef.lock"):
        (tmp_path / name).write_bytes(b"")
    with file_claim(tmp_path / "second"):
        remove_abandoned(tmp_path)
        assert len([*tmp_path.glob(".xpsr-*.lock")]) == 1
        assert is_claimed(tmp_path / "second")
    assert {path.name for path in tmp_path.iterdir()} == {"first", own, foreign}


@unix
def test_a_killed_process_whose_parent_does_not_ask_has_ended(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", f"{NEW_NAME}; input()"], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdin
        assert process.stdout
        left = tmp_path / process.stdout.readline().strip()
        left.write_bytes(b"")
        remove_abandoned(tmp_path)
        assert left.exists()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays in the list of processes
        remove_abandoned(tmp_path)
        assert not left.exists()


@unix
def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "out", ConfigError) as first, folder_lock(tmp_path / "out", ConfigError) as second:
        assert (first, second) == (True, False)
    with folder_lock(tmp_path / "out", ConfigError) as again:
        assert again
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be written to"), folder_lock(tmp_path / "file", ConfigError):
        pass
