"""``xpsr plugins new``: what it writes installs and passes its own tests, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from xpsr_sdk import ConfigError, Registry
from xpsr_sdk.cli.main import xpsr
from xpsr_sdk.contracts import KINDS
from xpsr_sdk.plugin_system.scaffold import TEMPLATES, write_plugin

NAMES = {kind: f"own-{kind.replace('_', '-')}2" for kind in KINDS}


def new(*arguments: object) -> Result:
    return CliRunner().invoke(xpsr, ["plugins", "new", *map(str, arguments)])


def test_every_kind_has_a_template() -> None:
    assert {folder.name for folder in TEMPLATES.iterdir()} == {"common", *KINDS}


def test_what_is_written_installs_and_passes_its_own_tests(tmp_path: Path) -> None:
    projects = [tmp_path / f"xpsr-{name}" for name in NAMES.values()]
    for (kind, name), project in zip(NAMES.items(), projects, strict=True):
        assert new(kind, name, "-o", project).exit_code == 0
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run([*pip, "--disable-pip-version-check", "--target", site, *projects])
    listing = run([sys.executable, "-c", "from xpsr_sdk.cli.main import xpsr; xpsr()", "plugins"], site)
    assert all(f" {name} " in listing for name in NAMES.values())
    run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *projects], site)


def run(command: list[object], site: Path | None = None) -> str:
    """Run a command, with ``site`` among the installed packages."""
    path = os.pathsep.join(filter(None, [str(site or ""), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_next_steps_are_told_and_the_folder_has_the_plug_in_s_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = new("degradation_model", "film-grain")
    assert result.exit_code == 0
    assert "xpsr-film-grain is a degradation model that works" in result.stdout
    assert "pip install -e 'xpsr-film-grain[test]'" in result.stdout
    module = tmp_path / "xpsr-film-grain" / "xpsr_film_grain" / "degradation_model.py"
    assert "class FilmGrainDegradation:" in module.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["xpsr-film-grain"]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_template_s_names_is_left(kind: str, tmp_path: Path) -> None:
    folder = write_plugin(kind, "none", Registry([]), tmp_path / "new")
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) == 6
    for file in files:
        text = str(file.relative_to(folder)) + file.read_text()
        assert not [word for word in ("my_plugin", "my-plugin", "MyPlugin", "KIND_") if word in text], file


@settings(max_examples=8)
@given(name=st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,8}){0,2}", fullmatch=True))
def test_any_name_gives_python_that_compiles(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    if not name.startswith("xpsr-"):
        folder = write_plugin("sampler", name, Registry([]), tmp_path_factory.mktemp("new") / "plugin")
        for file in folder.rglob("*.py"):
            compile(file.read_text(), file, "exec")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sampler", "Film Grain"], "'Film Grain' is not a valid name for a component: a name begins"),
        (["sampler", "2m"], "'2m' is not a valid name for a component"),
        (["sampler", "film--grain"], "is not a valid name for a component"),
        (["sampler", "../film"], "is not a valid name for a component"),
        (["sampler", "xpsr-film"], "Leave out the 'xpsr-' of 'xpsr-film'"),
        (["sampler", "ddim"], "There is a sampler 'ddim' of xpsr-sdk "),
        (["flavour", "film"], "'flavour' is not one of 'prompt_provider'"),
        (["sampler"], "Missing argument 'NAME'"),
    ],
)
def test_wrong_names_are_refused(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = new(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("notes")
    for folder in (tmp_path, tmp_path / "mine"):
        result = new("sampler", "film", "-o", folder)
        assert result.exit_code == 2
        assert f"{folder} exists already" in result.stderr
    assert (tmp_path / "mine").read_text() == "notes"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_place_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/new cannot be written \(.*file: File exists\)"):
        write_plugin("sampler", "film", Registry([]), tmp_path / "file" / "new")


def test_an_unknown_kind_is_told() -> None:
    with pytest.raises(ConfigError, match=r"There is no kind of component 'samplr'\. Did you mean 'sampler'"):
        write_plugin("samplr", "film", Registry([]))
