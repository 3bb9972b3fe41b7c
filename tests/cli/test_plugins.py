"""The command line: its help, the listing of components, and what errors look like."""

from __future__ import annotations

import ast
import json
import os
import shlex
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner, Result
from pydantic import Field

from tests.support.stubs import distribute
from tests.test_docs import check_options
from xpsr_sdk import ComponentSpec, Options, Registry, TrainingError, __version__, hookimpl
from xpsr_sdk.cli import main
from xpsr_sdk.cli import plugins as plugins_command
from xpsr_sdk.contracts import KINDS
from xpsr_sdk.plugin_system.discovery import Plugin


class Stub:
    class Noise(Options):
        sigma: float = Field(0.5, gt=0, description="How much.")

    class Config(Options):
        order: int = Field(2, ge=1, le=3, description="Order of the solver.")
        mode: Literal["fast", "good"] = Field("good", description="Which one.")
        label: str | None = Field(None, description="A [label].")
        must: int = Field(description="Has no default.")
        noise: Stub.Noise = Field(default_factory=lambda: Stub.Noise(), description="The noise.")


Stub.Config.model_rebuild()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs ``xpsr`` with one plug-in that works, one that breaks and one with a duplicate."""
    monkeypatch.setitem(sys.modules, "stub_module", types.SimpleNamespace(Stub=Stub))  # type: ignore[arg-type]
    monkeypatch.delenv("XPSR_TRACEBACK", raising=False)
    stub = ComponentSpec("stub", "stub_module:Stub", "A [stub].", {"order": 3})
    twin = ComponentSpec("twin", "stub_module:Stub", "A twin.")
    plugins = [
        Plugin("xpsr-a", "1.0", lambda: types.SimpleNamespace(xpsr_samplers=hookimpl(lambda: [stub, twin]))),
        Plugin("xpsr-b", "1.1", lambda: types.SimpleNamespace(xpsr_samplers=hookimpl(lambda: [twin]))),
        Plugin("xpsr-c", "1.2", lambda: 1 / 0),
    ]
    monkeypatch.setattr(plugins_command, "default_registry", lambda: Registry(plugins))
    return lambda *arguments: CliRunner().invoke(main.xpsr, arguments)


def test_help_lists_every_command(run: Any) -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name, summary in main.SUMMARIES.items():
        assert f"{name} " in result.stdout
        assert summary in result.stdout


def test_version(run: Any) -> None:
    assert run("--version").stdout == f"xpsr, version {__version__}\n"


def rows(result: Result) -> list[list[str]]:
    return [line.split() for line in result.stdout.splitlines()]


def test_plugins_lists_states(run: Any) -> None:
    result = run("plugins")
    assert result.exit_code == 0
    assert ["sampler", "stub", "xpsr-a", "1.0", "A", "[stub].", "ok"] in rows(result)
    for distribution, version in (("xpsr-a", "1.0"), ("xpsr-b", "1.1")):
        (row,) = (row for row in rows(result) if row[:4] == ["sampler", "twin", distribution, version])
        assert row[4] == "DuplicateComponent:"
        assert row[-1] == "duplicate"
    broken = "? ? xpsr-c 1.2 ZeroDivisionError: division by zero broken"
    assert broken.split() in rows(result)


def test_plugins_as_json(run: Any) -> None:
    listing = json.loads(run("plugins", "--json").stdout)
    (stub,) = (component for component in listing["components"] if component["name"] == "stub")
    assert stub == {
        "kind": "sampler",
        "name": "stub",
        "distribution": "xpsr-a",
        "version": "1.0",
        "summary": "A [stub].",
        "target": "stub_module:Stub",
        "defaults": {"order": 3},
        "state": "ok",
        "error": None,
    }
    (failure,) = listing["failures"]
    assert (failure["distribution"], failure["error"]) == ("xpsr-c", "ZeroDivisionError: division by zero")
    assert "Traceback" in failure["traceback"]


def test_what_a_plugin_prints_is_no_result(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> Any:
        print("hello")
        return types.SimpleNamespace(xpsr_samplers=hookimpl(lambda: print("hello") or []))

    monkeypatch.setattr(plugins_command, "default_registry", lambda: Registry([Plugin("xpsr-loud", "1.0", load)]))
    for arguments in (["plugins", "--json"], ["plugins", "show", "sampler", "ddim", "--json"]):
        result = run(*arguments)
        assert json.loads(result.stdout)
        assert result.stderr == "hello\nhello\n"


def test_damaged_entry_points_are_listed_by_a_fresh_interpreter(tmp_path: Path) -> None:
    distribute(tmp_path, "xpsr-hurt", "xpsr_hurt")
    (tmp_path / "xpsr_hurt-0.3.dist-info" / "entry_points.txt").write_text("[xpsr_sdk]\nnonsense\n")
    command = [sys.executable, "-m", "xpsr_sdk", "plugins", "--json"]
    listed = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert listed.returncode == 0, listed.stderr
    (failure,) = json.loads(listed.stdout)["failures"]
    assert failure["distribution"] == "xpsr-hurt"


def test_an_unexpected_error_beside_damaged_entry_points_names_them(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Registry:
        raise TypeError("missing 1 argument")

    distribute(tmp_path, "other", "other")
    (tmp_path / "other-0.3.dist-info" / "entry_points.txt").write_text("[console_scripts]\nnonsense\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins_command, "default_registry", fail)
    for variable in ("PYDANTIC_DISABLE_PLUGINS", "TORCH_DEVICE_BACKEND_AUTOLOAD"):
        monkeypatch.setenv(variable, "")  # and put back after the test
    assert run("plugins").stderr == (
        "Error: Unexpected TypeError: missing 1 argument (XPSR_TRACEBACK=1 shows where; "
        "install other again, whose entry points are damaged)\n"
    )


def test_an_error_without_words_is_listed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise ValueError

    def specs() -> Any:
        yield ComponentSpec("first", "stub_module:Stub", "A stub.")
        raise Unprintable

    plugin = types.SimpleNamespace(xpsr_samplers=hookimpl(specs))
    monkeypatch.setattr(plugins_command, "default_registry", lambda: Registry([plugin]))
    listing = json.loads(run("plugins", "--json").stdout)
    (first,) = (component for component in listing["components"] if component["name"] == "first")
    assert (first["state"], first["error"]) == ("broken", "Unprintable: its message cannot be shown")


def test_show_explains_the_options(run: Any) -> None:
    result = run("plugins", "show", "sampler", "stub")
    assert result.exit_code == 0, result.stderr
    assert ["order", "int", "3", "≥", "1,", "≤", "3", "Order", "of", "the", "solver."] in rows(result)
    assert ["mode", '"fast"', "or", '"good"', '"good"', "Which", "one."] in rows(result)
    assert ["label", "str", "null", "A", "[label]."] in rows(result)
    assert ["must", "int", "required", "Has", "no", "default."] in rows(result)
    assert ["noise.sigma", "float", "0.5", ">", "0", "How", "much."] in rows(result)
    assert result.stdout.endswith(
        "In Python:\n\n    build_pipeline(sampler={'name': 'stub', 'mode': 'good', 'must': '...'})\n\n"
        "On the command line:\n\n    xpsr upscale photo.jpg -o restored.png --sampler stub\n\n"
        'In a TOML file:\n\n    [sampler]\n    name = "stub"\n    mode = "good"\n    must = "..."\n'
    )


def test_show_as_json(run: Any) -> None:
    shown = json.loads(run("plugins", "show", "sampler", "stub", "--json").stdout)
    assert shown["options"][0] == {
        "name": "order",
        "type": "int",
        "required": False,
        "default": 3,
        "range": "≥ 1, ≤ 3",
        "meaning": "Order of the solver.",
    }
    assert shown["examples"] == {
        "python": "build_pipeline(sampler={'name': 'stub', 'mode': 'good', 'must': '...'})",
        "command": "xpsr upscale photo.jpg -o restored.png --sampler stub",
        "toml": '[sampler]\nname = "stub"\nmode = "good"\nmust = "..."',
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_of_every_built_in_part_are_valid(run: Any, kind: str) -> None:
    for component in Registry([]).components(kind):
        examples = json.loads(run("plugins", "show", kind, component.spec.name, "--json").stdout)["examples"]
        *_, keyword = ast.parse(examples["python"]).body[0].value.keywords  # type: ignore[attr-defined]
        keyword, choice = keyword.arg, ast.literal_eval(keyword.value)
        if isinstance(choice, list):  # of metrics, several are chosen
            (choice,) = choice
        if "toml" in examples:
            table = tomllib.loads(examples["toml"])
            section = table.get("model") or table.get("data") or table.get("loss") or table
            assert section[keyword] == choice
        if keyword == "terms":  # of the loss, by the names that they have there
            (choice,) = choice.values()
        assert Registry([]).config(kind, choice) is not None
        if "command" in examples:
            check_options(main.xpsr, shlex.split(examples["command"])[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "sampler", "unipcc"], "No plug-in offers the sampler 'unipcc'. Did you mean 'unipc'?"),
        (
            ["show", "sampler", "twin"],
            "The sampler 'twin' is offered by xpsr-a 1.0 (stub_module:Stub) and ",
        ),
        (["show", "flavour", "stub"], "'flavour' is not one of 'prompt_provider', "),
        (["list"], "No such command 'list'"),
    ],
)
def test_wrong_use_is_one_message_and_exit_code_2(run: Any, arguments: list[str], message: str) -> None:
    result = run("plugins", *arguments)
    assert result.exit_code == 2
    assert f"Error: {message}" in result.stderr or message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (TrainingError("No photos."), 1, "Error: No photos.\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (
            ZeroDivisionError("oh"),
            1,
            "Error: Unexpected ZeroDivisionError: oh (XPSR_TRACEBACK=1 shows where; please report it)\n",
        ),
        (click.UsageError("No."), 2, "Usage: xpsr plugins [OPTIONS] "),
    ],
)
def test_errors_have_no_traceback(
    run: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, shown: str
) -> None:
    def fail() -> Registry:
        raise error

    monkeypatch.setattr(plugins_command, "default_registry", fail)
    result = run("plugins")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(shown)
    assert "Traceback" not in result.stderr


def test_a_traceback_can_be_had(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Registry:
        raise TrainingError("No photos.")

    monkeypatch.setattr(plugins_command, "default_registry", fail)
    monkeypatch.setenv("XPSR_TRACEBACK", "1")
    result = run("plugins")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("Error: No photos.\n")


def test_one_kind_and_names_alone() -> None:
    listed = CliRunner().invoke(main.xpsr, ["plugins", "--kind", "upscaler", "--short"])
    assert listed.stdout == "upscaler: bicubic, realesrgan-x4plus, spandrel\n"
