"""What the README and the docs show is true: Python runs, commands and configs are valid, tables are up to date.

In a page's order, ``python`` blocks are run in one namespace, blocks with a ``title`` are written to that file, and in
the tutorials the commands of ``bash`` blocks are run, too. A tiny model takes the place of the shipped one, except in
the README, if there is a shipped one.
"""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import xpsr_sdk
from tests import tiny
from xpsr_sdk.cli.main import SUMMARIES, xpsr
from xpsr_sdk.config import load_config
from xpsr_sdk.training.config import TrainConfig

ROOT = Path.cwd()
DOCS = sorted(Path("docs").glob("*.md"))
READMES = sorted([Path("README.md"), *Path("examples").rglob("README.md"), *Path("plugins").glob("*/README.md")])
PAGES = [*READMES, *DOCS, Path("CONTRIBUTING.md")]
TUTORIALS = ("first-restoration.md", "your-first-plugin.md")
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
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [
        Block(language, title, re.sub(f"^{indent}", "", text, flags=re.M)) for indent, language, title, text in found
    ]


def commands() -> list[Any]:
    """Every command in every page, with the page's name as its id."""
    found = {
        (page.name, tuple(words))
        for page in PAGES
        for block in blocks(page)
        if block.language == "bash"
        for words in block.commands()
    }
    return [pytest.param(list(words), id=f"{page}: {' '.join(words)}"[:90]) for page, words in sorted(found)]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photos, which is the current one, and from which modules are imported."""
    for name in ("photo.jpg", "photos/one.png", "examples/photo.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tiny.photo(20, 16).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tiny_default(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``build_pipeline()`` builds the tiny model."""
    monkeypatch.setattr(
        xpsr_sdk, "build_pipeline", partial(xpsr_sdk.build_pipeline, model=str(tiny_model), device="cpu")
    )


@pytest.fixture
def fresh_registry() -> Iterator[None]:
    """Forget what the page installed."""
    xpsr_sdk.default_registry.cache_clear()
    before = set(sys.modules)
    yield
    xpsr_sdk.default_registry.cache_clear()
    for name in {"karras_euler", "test_karras_euler"} - before:
        sys.modules.pop(name, None)


def run_page(page: Path, *, shell: bool, patch: pytest.MonkeyPatch) -> None:
    """Run a page from top to bottom."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(ROOT / page):
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, str(page), "exec"), namespace)
        elif block.language == "bash" and shell:
            for words in block.commands():
                run_command(words, patch)


def run_command(words: list[str], patch: pytest.MonkeyPatch) -> None:
    """Run a command of a tutorial."""
    match words:
        case ["mkdir", folder]:
            Path(folder).mkdir()
        case ["cd", folder]:
            patch.chdir(folder)
            patch.syspath_prepend(str(Path.cwd()))
        case ["pip", "install", "-e", "."]:
            install(Path.cwd())
        case ["pip", "install", "."]:
            pass  # the package itself
        case ["xpsr", *arguments]:
            result = CliRunner().invoke(xpsr, arguments)
            assert result.exit_code == 0, f"{shlex.join(words)}: {result.output}"
        case _:
            pytest.fail(f"The test can't run {shlex.join(words)!r}")


def install(folder: Path) -> None:
    """What pip leaves behind of an editable installation, without a network: metadata where Python looks for it."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    metadata = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    entries = [f"{name} = {module}" for name, module in project["entry-points"]["xpsr_sdk"].items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[xpsr_sdk]", *entries]) + "\n")
    importlib.invalidate_caches()
    xpsr_sdk.default_registry.cache_clear()


@pytest.mark.usefixtures("workplace", "tiny_default", "fresh_registry")
@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_the_docs_run(page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_page(page, shell=page.name in TUTORIALS, patch=monkeypatch)
    if page.name == "your-first-plugin.md":
        assert Path("restored.png").is_file()
        assert "rho" in capsys.readouterr().out  # the last error names the option
        test = runpy.run_path("test_karras_euler.py")
        test["test_the_last_step_ends_at_the_estimate"]()


def test_the_readme_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "examples" / "photo.jpg", workplace / "examples")
    run_page(Path("README.md"), shell=False, patch=monkeypatch)
    assert {path.name for path in workplace.glob("*.png")} == {"restored.png", "fidelity-0.png", "fidelity-1.png"}


@pytest.mark.parametrize("words", commands())
def test_commands_exist_with_their_options(words: list[str]) -> None:
    match words:
        case ["xpsr", *arguments]:
            check_options(xpsr, arguments)
        case ["python", "-m", module, *_]:
            assert Path(*module.split(".")).with_suffix(".py").is_file()
        case ["python", program, *_]:
            assert Path(program).is_file()
        case ["make", target]:
            assert f"\n{target}:" in Path("Makefile").read_text()
        case ["accelerate" | "torchrun", *_, "-m", "xpsr_sdk", command, _]:
            assert command in SUMMARIES
        case ["pip" | "hf" | "mkdir" | "cd", *_]:
            pass
        case _:
            pytest.fail(f"What is {shlex.join(words)!r}? Let this test check it.")


def check_options(command: click.Command, arguments: list[str]) -> None:
    """Raise ``click.UsageError`` unless the (sub)command has these options; their values are not checked."""
    if isinstance(command, click.Group) and arguments:
        name, *arguments = arguments
        with click.Context(command) as context:
            found = command.get_command(context, name)
        assert found is not None, f"{name!r} is no command; known: {', '.join(SUMMARIES)}"
        return check_options(found, arguments)
    with click.Context(command) as context:
        command.make_parser(context).parse_args(arguments)
    return None


def test_training_configs_in_the_docs_are_valid() -> None:
    configs = [tomllib.loads(b.text) for page in DOCS for b in blocks(page) if b.title == "train.toml"]
    assert configs
    for config in configs:
        load_config(TrainConfig, config, "train.toml")


@pytest.mark.parametrize("name", ["configuration.md", "nano.md"])
def test_generated_tables_are_up_to_date(name: str) -> None:
    with_tables = runpy.run_path("docs/tables.py")["with_tables"]
    page = Path("docs", name).read_text(encoding="utf-8")
    assert page == with_tables(page), "run python docs/tables.py"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [Path("README.md"), Path("docs/nano.md")], ids=str)
def test_no_figure_is_left_out(page: Path) -> None:
    block = page.read_text(encoding="utf-8").partition("<!-- figures:begin -->")[2].partition("<!-- figures:end -->")[0]
    rows = [line for line in block.splitlines() if line.startswith("|")]
    assert rows
    assert [row for row in rows if re.search(r"\|\s*\|$", row)] == []


def test_pages_are_in_the_navigation() -> None:
    navigation = Path("mkdocs.yml").read_text()
    assert [page.name for page in DOCS if f": {page.name}\n" not in navigation] == []
