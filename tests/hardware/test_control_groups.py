"""The limits of control groups count as the memory that there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from xpsr_sdk.hardware import control_groups
from xpsr_sdk.hardware.control_groups import free_in_control_groups
from xpsr_sdk.hardware.devices import free_memory

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file of the groups that a process is in; ``own`` lists these."""
    monkeypatch.setattr(control_groups, "ROOT", tmp_path)
    monkeypatch.setattr(control_groups, "OWN", tmp_path / "own")

    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    return write


def test_without_groups_there_is_no_limit(write: Write) -> None:
    assert free_in_control_groups() is None
    write("own", "0::/\n")
    write("memory.max", "max\n")
    assert free_in_control_groups() is None
    assert free_memory(torch.device("cpu")) > 0


def test_the_tightest_of_nested_groups_counts(write: Write) -> None:
    write("own", "0::/user/job\n")
    write("user/memory.max", "1000000\n")
    write("user/memory.current", "400000\n")
    write("user/job/memory.max", "max\n")
    assert free_in_control_groups() == 600_000
    write("user/job/memory.max", "500000\n")
    write("user/job/memory.current", "300000\n")
    assert free_in_control_groups() == 200_000
    assert free_memory(torch.device("cpu")) == 200_000
    write("user/job/memory.current", "700000\n")
    assert free_memory(torch.device("cpu")) == 0


def test_files_that_lie_in_memory_give_way(write: Write) -> None:
    write("own", "0::/\n")
    write("memory.max", "1000000\n")
    write("memory.current", "900000\n")
    write("memory.stat", "anon 100000\ninactive_file 300000\nactive_file 5\n")
    assert free_in_control_groups() == 400_000


def test_groups_of_the_first_version_count(write: Write) -> None:
    write("own", "5:cpu:/elsewhere\n4:memory:/job\n0::/\n")
    write("memory/memory.limit_in_bytes", "9223372036854771712\n")
    write("memory/memory.usage_in_bytes", "4096\n")
    write("memory/job/memory.limit_in_bytes", "1000000\n")
    write("memory/job/memory.usage_in_bytes", "400000\n")
    write("memory/job/memory.stat", "inactive_file 1\ntotal_inactive_file 50000\n")
    assert free_in_control_groups() == 650_000


def test_in_a_container_the_group_is_at_the_root(write: Write) -> None:
    write("own", "4:memory:/docker/0123\n")
    write("memory/memory.limit_in_bytes", "1000000\n")
    write("memory/memory.usage_in_bytes", "400000\n")
    assert free_in_control_groups() == 600_000
