"""The memory that this process can still use within its control groups (Linux, versions 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""For each controller in ``OWN`` (version 2: an empty name): the files of the limit and of the used memory, and the
entry of memory.stat for used memory that can be freed."""


def free_in_control_groups() -> int | None:
    """Bytes that this process can still allocate within all of its control groups. None: there is no limit."""
    return min(_free(), default=None)


def _free() -> Iterator[int]:
    """The free bytes in each group that has a limit, from the innermost group outwards."""
    for line in _read(OWN).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in FILES:
            continue
        limit, used, reclaimable = FILES[controllers]
        group = ROOT / controllers / path.strip("/")  # in a container, this may be a path of the host that is not here
        for folder in (group, *group.parents):
            most, taken = (_read(folder / name).strip() for name in (limit, used))
            if most.isdigit() and taken.isdigit():
                statistics = dict(row.split(None, 1) for row in _read(folder / "memory.stat").splitlines())
                yield int(most) - int(taken) + int(statistics.get(reclaimable, 0))


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
