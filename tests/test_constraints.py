"""constraints-oldest.txt pins what pyproject.toml promises: the oldest versions that it allows."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

EXTRAS = ("testing", "openai", "heic", "smolvlm", "bitsandbytes")
"""What ``make test-oldest`` installs."""
OWN = "xpsr-sdk"


def promised() -> Iterator[tuple[str, Version]]:
    """The lowest version that is allowed of everything that is installed, the plug-ins' requirements included."""
    projects = [tomllib.loads(file.read_text(encoding="utf-8"))["project"] for file in pyprojects()]
    extras = projects[0]["optional-dependencies"]
    requirements = [text for extra in EXTRAS for text in extras[extra]]
    requirements += [text for project in projects for text in project["dependencies"]]
    for requirement in map(Requirement, requirements):
        if requirement.name != OWN:
            (lowest,) = (part.version for part in requirement.specifier if part.operator == ">=")
            yield requirement.name, Version(lowest)


def pyprojects() -> list[Path]:
    """Of all that is installed: pyiqa and Ray, which two plug-ins need, need newer versions."""
    left_out = {"xpsr-pyiqa", "xpsr-ray"}
    plugins = [file for file in Path("plugins").glob("*/pyproject.toml") if file.parent.name not in left_out]
    return [Path("pyproject.toml"), *sorted(plugins)]


def pins() -> dict[str, Version]:
    lines = Path("constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    return {name: Version(version) for name, version in (line.split("==") for line in lines if line[0] != "#")}


def test_the_oldest_versions_are_those_that_are_promised() -> None:
    lowest: dict[str, Version] = {}
    for name, version in promised():
        lowest[name] = max(version, lowest.get(name, version))
    assert pins() == lowest


def test_the_make_target_installs_these_extras() -> None:
    makefile = Path("Makefile").read_text(encoding="utf-8")
    assert re.findall(r"constraint constraints-oldest.txt[^\[]*\[([\w,]+)\]", makefile) == [",".join(EXTRAS)]


def test_ray_is_installed_with_its_plugin_alone() -> None:
    asking = set()
    for file in [Path("pyproject.toml"), *Path("plugins").glob("*/pyproject.toml")]:
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {})
        for text in [*project["dependencies"], *(text for extra in extras.values() for text in extra)]:
            if Requirement(text).name in ("ray", "xpsr-ray"):
                asking.add(project["name"])
    assert asking == {"xpsr-ray"}
