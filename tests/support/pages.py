"""Reads the pages of the docs, and follows them as a reader would."""

from __future__ import annotations

import doctest
import importlib
import io
import os
import re
import runpy
import shlex
import site
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from packaging.requirements import Requirement

import xpsr_sdk
from xpsr_sdk.cli.main import xpsr

ROOT = Path.cwd()
DOCS = sorted(Path("docs").rglob("*.md"))
FENCE = re.compile(r'^( *)```(\w+)(?: title="([^"]+)")?\n(.*?)^ *```$', re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that it is written to, if any, and its text."""

    language: str
    title: str
    text: str

    def commands(self) -> Iterator[list[str]]:
        """The commands of a shell block, as words, without comments."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in its order."""
    found = FENCE.findall((ROOT / page).read_text(encoding="utf-8"))
    return [
        Block(language, title, re.sub(f"^{indent}", "", text, flags=re.M)) for indent, language, title, text in found
    ]


def program(page: str, title: str, changes: Mapping[str, str]) -> str:
    """The text of the block with that title, in which each of the changes must fit."""
    [text] = [block.text for block in blocks(Path(page)) if block.title == title]
    for old, new in changes.items():
        assert old in text, f"{page}, {title}: {old}"
        text = text.replace(old, new)
    return text


def navigation() -> dict[str, list[Path]]:
    """The pages of each section of the site."""
    return {name: list(_pages(entry)) for part in _mkdocs()["nav"] for name, entry in part.items()}


def _mkdocs() -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load(Path("mkdocs.yml").read_text(encoding="utf-8"))
    return settings


def _pages(entry: str | list[Any] | dict[str, Any]) -> Iterator[Path]:
    if isinstance(entry, str):
        yield Path("docs", entry)
    else:
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from _pages(part)


class Reader:
    """Follows a page from top to bottom, in the current folder and this process.

    Blocks with a title are written to that file, and ``python`` blocks are run in one session. In a tutorial the
    ``bash`` blocks are run, too, and a ``text`` block is what the block before it must have printed, where ``...``
    stands for anything. An installation ends the Python session, since parts are looked up once a session, and so does
    ``cd``, which a session that is open knows nothing of.

    Args:
        page: What to read.
        patch: Undoes at the end of the test what commands such as ``cd`` and ``pip install`` do to this process.
        is_tutorial: Whether the page is one.
    """

    def __init__(self, page: Path, patch: pytest.MonkeyPatch, is_tutorial: bool) -> None:
        self.page, self.patch, self.is_tutorial = page, patch, is_tutorial
        self.start = Path.cwd()
        self.session: dict[str, Any] = {"__name__": "__main__"}

    def read(self) -> None:
        """Do what the page says.

        Raises:
            AssertionError: A command failed, or something else was printed than the page shows.
        """
        printed = ""
        for block in blocks(self.page):
            if block.title:
                Path(block.title).parent.mkdir(parents=True, exist_ok=True)
                Path(block.title).write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                with redirect_stdout(io.StringIO()) as output:
                    exec(compile(block.text, str(self.page), "exec"), self.session)
                printed = output.getvalue()
            elif self.is_tutorial and block.language == "bash":
                printed = "".join(self.run(words) for words in block.commands())
            elif self.is_tutorial and block.language == "text":
                assert_printed(block.text, printed)
            elif self.is_tutorial:
                pytest.fail(f"{self.page}: what is a reader to do with {block.language}? Give it a title.")

    def run(self, words: list[str]) -> str:
        """Run a command, and give what it prints."""
        match words:
            case ["mkdir", folder]:
                Path(folder).mkdir()
            case ["cd", folder]:
                self.session = {"__name__": "__main__"}
                self.patch.chdir(folder)
                self.patch.syspath_prepend(str(Path.cwd()))
            case ["ls", folder]:
                return "\n".join(sorted(path.name for path in Path(folder).iterdir())) + "\n"
            case ["pip", "install", *what]:
                self.install(what)
            case ["pytest", *arguments]:
                return run_process("pytest", *arguments)
            case ["python", program]:
                with redirect_stdout(io.StringIO()) as output:
                    runpy.run_path(program, run_name="__main__")
                return output.getvalue()
            case ["xpsr", *arguments]:
                result = CliRunner().invoke(xpsr, arguments)
                assert result.exit_code == 0, f"{shlex.join(words)}: {result.output}"
                return result.stdout
            case _:
                pytest.fail(f"The test can't run {shlex.join(words)!r}")
        return ""

    def install(self, what: list[str]) -> None:
        """Install a folder, with pip, where this process looks; of other distributions see that they are here."""
        others = [Requirement(name).name for name in what if not name.startswith(("-", "."))]
        if others:
            assert all(map(version, others))
            return
        is_sdk = not Path("pyproject.toml").exists()  # the first page begins in a clone
        target = self.start / ("installed-sdk" if is_sdk else "installed")
        offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
        where = ("--target", str(target), "--upgrade", "--quiet")
        run_process("pip", "install", *what, *offline, *where, folder=ROOT if is_sdk else Path.cwd())
        if is_sdk:
            assert (target / "xpsr_sdk" / "presets" / "nano").is_dir()
            return
        self.patch.setattr(sys, "path", list(sys.path))
        site.addsitedir(str(target))
        self.patch.setenv("PYTHONPATH", str(target), prepend=os.pathsep)  # for programs that the page runs
        importlib.invalidate_caches()
        xpsr_sdk.default_registry.cache_clear()
        self.session = {"__name__": "__main__"}


def run_process(module: str, *arguments: str, folder: Path | None = None) -> str:
    """Run a Python program in a process of its own, and give what it prints."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def assert_printed(shown: str, printed: str) -> None:
    """Fail unless ``printed`` is what the docs show; spaces do not matter, and ``...`` stands for anything."""
    rules = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(shown, printed, rules), f"The docs show\n{shown}\nbut it is\n{printed}"
