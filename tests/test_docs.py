"""What the README and the docs show is true: Python runs, commands and configs are valid, tables are up to date.

Tutorials are followed from an empty folder, their installations included, and what they print is compared. A tiny model
takes the place of the shipped one, except in the README.
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

import xpsr_sdk
from tests.support import tiny
from tests.support.pages import DOCS, Reader, blocks, navigation
from xpsr_sdk import Pipeline, PipelineConfig, testing, toolkit
from xpsr_sdk.cli.main import SUMMARIES, xpsr
from xpsr_sdk.config import load_config
from xpsr_sdk.contracts import KINDS
from xpsr_sdk.training.config import TrainConfig

READMES = sorted([Path("README.md"), *Path("examples").rglob("README.md"), *Path("plugins").glob("*/README.md")])
PAGES = [*READMES, *DOCS, Path("CONTRIBUTING.md")]
TUTORIALS = navigation()["Tutorials"]


def commands() -> list[Any]:
    """Every command in every page, with the page's name as its id."""
    found = {
        (page.name, tuple(words))
        for page in PAGES
        for block in blocks(page)
        if block.language == "bash"
        for words in block.commands()
        if Path(words[-1]).name not in {block.title for block in blocks(page)}  # a program that the page writes
    }
    return [pytest.param(list(words), id=f"{page}: {' '.join(words)}"[:90]) for page, words in sorted(found)]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder but for photos, which is the current one; what a page installs is forgotten afterwards."""
    for name in ("photo.jpg", "photos/one.jpg", "photos/two.jpg", "held-out/other.jpg", "examples/photo.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy("examples/photo.jpg", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    xpsr_sdk.default_registry.cache_clear()
    yield tmp_path
    xpsr_sdk.default_registry.cache_clear()
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def tiny_default(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``build_pipeline()`` builds the tiny model, with settings for speed."""
    build = xpsr_sdk.build_pipeline
    fast = {"device": "cpu", "num_inference_steps": 2, "tile": 128, "tile_overlap": 0, "tile_batch": 32}

    def small(config: PipelineConfig | None = None, **settings: Any) -> Pipeline:
        given = set() if config is None else config.model_fields_set
        own = {name: value for name, value in {"model": str(tiny_model), **fast}.items() if name not in given}
        return build(config, **own | settings)

    monkeypatch.setattr(xpsr_sdk, "build_pipeline", small)


@pytest.fixture(scope="module")
def with_tables() -> Callable[[str], str]:
    """Makes the generated parts of a page anew."""
    function: Callable[[str], str] = runpy.run_path("docs/tables.py")["with_tables"]
    return function


@pytest.mark.usefixtures("workplace", "tiny_default")
@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_the_docs_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page not in TUTORIALS:  # which show what the programs print of this very photo
        tiny.photo(24, 20).save("photo.jpg")
    Reader(page, monkeypatch, is_tutorial=page in TUTORIALS).read()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "The docs show"),
        ("```bash\nxpsr upscale photo.jpg --no-such-option\n```\n", "no-such-option"),
        ("```bash\nrm photo.jpg\n```\n", "can't run"),
        ("```toml\na = 1\n```\n", "Give it a title"),
    ],
)
def test_a_tutorial_that_rots_is_noticed(
    text: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises((AssertionError, pytest.fail.Exception), match=complaint):
        Reader(page, monkeypatch, is_tutorial=True).read()


def test_the_readme_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Reader(Path("README.md"), monkeypatch, is_tutorial=False).read()
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
        case ["pip" | "hf" | "mkdir" | "cd" | "ls" | "pytest", *_]:
            pass
        case _:
            pytest.fail(f"What is {shlex.join(words)!r}? Let this test check it.")


def check_options(command: click.Command, arguments: list[str], parent: click.Context | None = None) -> None:
    """Raise ``click.UsageError`` unless the (sub)command has these options; their values are not checked."""
    context = click.Context(command, parent, **command.context_settings)
    if isinstance(command, click.Group) and arguments:
        name, *arguments = arguments
        found = command.get_command(context, name)
        assert found is not None, f"{name!r} is no command; known: {', '.join(SUMMARIES)}"
        return check_options(found, arguments, context)
    command.make_parser(context).parse_args(arguments)
    return None


def test_training_configs_in_the_docs_are_valid() -> None:
    configs = [tomllib.loads(b.text) for page in DOCS for b in blocks(page) if b.title == "train.toml"]
    assert configs
    for config in configs:
        load_config(TrainConfig, config, "train.toml")


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_generated_tables_are_up_to_date(page: Path, with_tables: Callable[[str], str]) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == with_tables(text), "run python docs/tables.py"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [Path("README.md"), Path("docs/reference/nano.md")], ids=str)
def test_no_figure_is_left_out(page: Path) -> None:
    block = page.read_text(encoding="utf-8").partition("<!-- figures:begin -->")[2].partition("<!-- figures:end -->")[0]
    rows = [line for line in block.splitlines() if line.startswith("|")]
    assert rows
    assert [row for row in rows if re.search(r"\|\s*\|$", row)] == []


def test_pages_are_in_the_navigation() -> None:
    assert sorted(page for pages in navigation().values() for page in pages) == DOCS


def public_names() -> list[str]:
    """Every hook, and every public name, by the module that defines it."""
    hooks = [f"xpsr_sdk.plugin_system.hookspecs.{hook}" for hook in KINDS.values()]
    return hooks + [
        f"{module.HOME_OF[name]}.{name}"
        for module in (xpsr_sdk, toolkit, testing)
        for name in module.__all__
        if name != "__version__"
    ]


def shown_names() -> set[str]:
    """What the pages show of docstrings: a name, a module's chosen members, or all that is in a module."""
    directive = re.compile(r"^::: (\S+)\n(?:    options:\n      members: \[(.*)\])?", re.MULTILINE)
    shown = set()
    for page in DOCS:
        for name, members in directive.findall(page.read_text(encoding="utf-8")):
            found = members.split(", ") if members else vars(import_module(name)) if is_module(name) else []
            shown |= {name, *(f"{name}.{member}" for member in found)}
    return shown


def is_module(name: str) -> bool:
    return Path(*name.split(".")).with_suffix(".py").is_file() or Path(*name.split(".")).is_dir()


@pytest.mark.parametrize("name", public_names())
def test_every_hook_and_public_name_is_documented_and_has_a_test(name: str) -> None:
    assert name in shown_names(), "add ::: NAME to a page of the reference"
    tests = [*Path("tests").rglob("*.py"), *Path("plugins").glob("*/tests/**/*.py")]
    word = re.compile(rf"\b{name.rpartition('.')[2]}\b")
    assert any(word.search(test.read_text(encoding="utf-8")) for test in tests), "no test mentions it"
