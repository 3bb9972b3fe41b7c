"""What looking around costs: importing the package, asking for help and listing components load no models."""

from __future__ import annotations

import subprocess
import sys

import pytest

import xpsr_sdk

HEAVY = {"torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "PIL"}
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


def test_importing_the_package_loads_nothing_but_the_standard_library() -> None:
    third_party = loaded_by("import xpsr_sdk") - sys.stdlib_module_names - loaded_by("")
    assert third_party == {"xpsr_sdk"}


@pytest.mark.parametrize(
    "code",
    [
        "import xpsr_sdk; xpsr_sdk.Registry",
        "import xpsr_sdk; [xpsr_sdk.default_registry().specs(kind) for kind in ('sampler', 'backbone')]",
        COMMAND.format(arguments=["--help"]),
        COMMAND.format(arguments=["--version"]),
        COMMAND.format(arguments=["plugins"]),
        COMMAND.format(arguments=["plugins", "--json"]),
        COMMAND.format(arguments=["upscale", "--help"]),
    ],
)
def test_looking_around_loads_no_models(code: str) -> None:
    assert not loaded_by(code) & HEAVY


def test_the_public_names() -> None:
    assert xpsr_sdk.__all__ == [
        "AttentionSite",
        "Backbone",
        "BrokenPlugin",
        "CheckpointError",
        "ComponentSpec",
        "Conditioning",
        "ConfigError",
        "DegradationModel",
        "Denoiser",
        "DuplicateComponent",
        "FusionAttention",
        "ImageError",
        "IncompatiblePlugin",
        "Item",
        "Options",
        "Pipeline",
        "PipelineConfig",
        "PluginError",
        "PromptProvider",
        "Prompts",
        "QueueClosed",
        "QueueError",
        "QueueFull",
        "Registry",
        "RestorationQueue",
        "Result",
        "Sampler",
        "TrainingError",
        "UnknownComponent",
        "XPSRError",
        "__version__",
        "build_pipeline",
        "default_registry",
        "hookimpl",
    ]
    assert sorted(xpsr_sdk.__all__) == xpsr_sdk.__all__ == dir(xpsr_sdk)


@pytest.mark.parametrize("name", xpsr_sdk.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(xpsr_sdk, name) is not None


def test_a_misspelt_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'build_pipelin'"):
        _ = xpsr_sdk.build_pipelin
