"""XPSR: restore photos with diffusion models of which every part can be swapped.

>>> from xpsr_sdk import build_pipeline
>>> pipe = build_pipeline()                     # doctest: +SKIP
>>> pipe("photo.jpg").save("restored.png")      # doctest: +SKIP

Importing this package loads nothing but itself: each public name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xpsr_sdk.build import build_pipeline
    from xpsr_sdk.config import PipelineConfig
    from xpsr_sdk.contracts import (
        AttentionSite,
        Backbone,
        ComponentSpec,
        Conditioning,
        DegradationModel,
        Denoiser,
        FusionAttention,
        Item,
        Options,
        PromptProvider,
        Prompts,
        Sampler,
        Upscaler,
    )
    from xpsr_sdk.errors import (
        BrokenPlugin,
        CheckpointError,
        ConfigError,
        DuplicateComponent,
        ImageError,
        IncompatiblePlugin,
        PluginError,
        QueueClosed,
        QueueError,
        QueueFull,
        TrainingError,
        UnknownComponent,
        XPSRError,
    )
    from xpsr_sdk.pipeline import Pipeline
    from xpsr_sdk.plugin_system.hookspecs import hookimpl
    from xpsr_sdk.plugin_system.registry import Registry, default_registry
    from xpsr_sdk.result import Result
    from xpsr_sdk.serving.queue import RestorationQueue

__version__ = "0.1.0"

__all__ = [
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
    "Upscaler",
    "XPSRError",
    "__version__",
    "build_pipeline",
    "default_registry",
    "hookimpl",
]

_ERRORS = (
    "BrokenPlugin CheckpointError ConfigError DuplicateComponent ImageError "
    "IncompatiblePlugin PluginError QueueClosed QueueError QueueFull TrainingError UnknownComponent XPSRError"
)
_CONTRACTS = (
    "AttentionSite Backbone ComponentSpec Conditioning DegradationModel Denoiser FusionAttention Item "
    "Options PromptProvider Prompts Sampler Upscaler"
)
_HOMES = {
    "build": "build_pipeline",
    "config": "PipelineConfig",
    "contracts": _CONTRACTS,
    "serving.queue": "RestorationQueue",
    "errors": _ERRORS,
    "plugin_system.hookspecs": "hookimpl",
    "pipeline": "Pipeline",
    "plugin_system.registry": "Registry default_registry",
    "result": "Result",
}
_HOME_OF = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names.split()}

if not TYPE_CHECKING:  # type checkers read the imports above; this would make every misspelt name pass

    def __getattr__(name: str) -> object:
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOME_OF[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
