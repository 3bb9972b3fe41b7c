"""What looking around costs: importing the package, asking for help and listing components load no models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tiny

HEAVY = {"torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "PIL", "ray", "fsspec"}
RUN = """
import sys
{code}
print("LOADED", *sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
COMMAND = "from xpsr_sdk.cli.main import xpsr; xpsr({arguments}, standalone_mode=False)"


def loaded_by(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after running ``code``."""
    run = subprocess.run([sys.executable, "-c", RUN.format(code=code)], capture_output=True, text=True, check=True)
    return set(run.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize("module", ["xpsr_sdk", "xpsr_sdk.toolkit", "xpsr_sdk.testing"])
def test_importing_the_package_loads_nothing_but_the_standard_library(module: str) -> None:
    third_party = loaded_by(f"import {module}") - sys.stdlib_module_names - loaded_by("")
    assert third_party == {"xpsr_sdk"}


@pytest.mark.parametrize(
    "code",
    [
        "import xpsr_sdk; xpsr_sdk.Registry",
        "import xpsr_sdk; [xpsr_sdk.default_registry().components(kind) for kind in ('sampler', 'backbone')]",
        COMMAND.format(arguments=["--help"]),
        COMMAND.format(arguments=["--version"]),
        COMMAND.format(arguments=["plugins"]),
        COMMAND.format(arguments=["plugins", "--json"]),
        COMMAND.format(arguments=["upscale", "--help"]),
        COMMAND.format(arguments=["evaluate", "--help"]),
        COMMAND.format(arguments=["web", "--help"]),
    ],
)
def test_looking_around_loads_no_models(code: str) -> None:
    assert not loaded_by(code) & HEAVY


def test_a_work_on_many_photos_neither_needs_nor_loads_ray(tmp_path: Path) -> None:
    tiny.photo(20, 16).save(tmp_path / "a.png")
    hide = "sys.modules['ray'] = sys.modules['xpsr_ray'] = None"
    loaded = loaded_by(f"{hide}; {COMMAND.format(arguments=['caption', str(tmp_path)])}; del sys.modules['ray']")
    assert "torch" in loaded
    assert "ray" not in loaded
    assert (tmp_path / "prompts.sqlite").is_file()
