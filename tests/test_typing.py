"""What type checkers and editors make of a user's program: right uses pass, and wrong ones are told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch

import xpsr_sdk
from xpsr_sdk import PipelineConfig, RestoreConfig
from xpsr_sdk.settings import PipelineSettings, RestoreSettings

PROGRAM = Path("tests/support/typed_program.py")
PARTS = {"backbone", "prompt_provider", "sampler", "upscaler"}
"""Fields of ``PipelineConfig`` that ``build_pipeline`` also takes as objects, under parameters of their own."""
WIDER = {"vae", "lora", "embedding", "checkpoint", "device", "dtype", "execution", "model"}
"""Keywords that take more types than the field holds, as pydantic converts them."""


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(str(xpsr_sdk.__file__)).parent / "py.typed").is_file()


def test_mypy_reads_a_users_program_as_it_is_meant() -> None:
    done = subprocess.run([sys.executable, "-m", "mypy", str(PROGRAM)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("pyright"), reason="pyright is not installed")
def test_pyright_reads_a_users_program_as_it_is_meant(tmp_path: Path) -> None:
    settings = {"include": [str(PROGRAM.resolve())], "extraPaths": [str(Path.cwd())]}
    marks = {"reportUnnecessaryTypeIgnoreComment": "error", "reportUnusedExpression": False}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings | marks))
    command = ["pyright", "--pythonpath", sys.executable, "--project", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def types_of(config: type[RestoreConfig]) -> dict[str, Any]:
    return {name: kind for name, kind in get_type_hints(config).items() if name in config.model_fields}


def test_the_keywords_of_a_call_are_the_fields_of_the_config() -> None:
    assert get_type_hints(RestoreSettings) == types_of(RestoreConfig)


def test_the_keywords_of_a_pipeline_are_the_fields_of_the_config() -> None:
    keywords, fields = get_type_hints(PipelineSettings, localns={"torch": torch}), types_of(PipelineConfig)
    assert keywords.keys() == fields.keys() - PARTS
    assert {name for name in keywords if keywords[name] != fields[name]} == WIDER
