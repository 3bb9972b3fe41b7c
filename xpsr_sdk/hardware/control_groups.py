"""The memory that this process's control groups (Linux, versions 1 and 2) leave it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""By controllers as ``OWN`` lists them (version 2: none): the limit, what is used, and what of that gives way."""


def free_in_control_groups() -> int | None:
    """Bytes that this process can still allocate within all of its control groups; None: none has a limit."""
    return min(_free(), default=None)


def _free() -> Iterator[int]:
    """What is left in each group that has a limit, from the innermost out."""
    for line in _read(OWN).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in FILES:
            continue
        limit, used, gives_way = FILES[controllers]
        group = ROOT / controllers / path.strip("/")  # in a container it may be one of the host's, which is not there
        for folder in (group, *group.parents):
            most, taken = (_read(folder / name).strip() for name in (limit, used))
            if most.isdigit() and taken.isdigit():
                statistics = dict(row.split(None, 1) for row in _read(folder / "memory.stat").splitlines())
                yield int(most) - int(taken) + int(statistics.get(gives_way, 0))


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
