"""XPSR: restore photos with diffusion models. Every part of them can be replaced.

>>> from xpsr_sdk import build_pipeline
>>> pipe = build_pipeline()                     # doctest: +SKIP
>>> pipe("photo.jpg").save("restored.png")      # doctest: +SKIP

Importing this package loads nothing but itself: each public name is imported when it is first used.
"""

from typing import TYPE_CHECKING

from xpsr_sdk.lazy import homes_of, lazy_names

if TYPE_CHECKING:
    from xpsr_sdk.build import build_pipeline
    from xpsr_sdk.config import ExecutionConfig, ModelDefaults, PipelineConfig, RestoreConfig, RunnerConfig, read_toml
    from xpsr_sdk.contracts import (
        AttentionSite,
        Backbone,
        ComponentSpec,
        Conditioning,
        DegradationModel,
        Denoiser,
        FolderMetric,
        FusionAttention,
        Item,
        LossTerm,
        Metric,
        Options,
        PromptKey,
        PromptLevel,
        PromptProvider,
        Prompts,
        Sampler,
        StepCallback,
        TrainedModel,
        TrainingStep,
        Upscaler,
    )
    from xpsr_sdk.errors import (
        BrokenPlugin,
        CheckpointError,
        ConfigError,
        DuplicateComponent,
        ImageError,
        IncompatiblePlugin,
        NonFiniteResult,
        PluginError,
        QueueClosed,
        QueueError,
        QueueFull,
        TrainingError,
        UnknownComponent,
        WorkerLost,
        XPSRError,
    )
    from xpsr_sdk.evaluation.comparison import Comparison, compare_folders
    from xpsr_sdk.evaluation.report import Report, evaluate_folders
    from xpsr_sdk.models.controlnet import XPSRControlNet
    from xpsr_sdk.models.find_model import find_model
    from xpsr_sdk.models.unet import XPSRUNet
    from xpsr_sdk.pipeline import Pipeline
    from xpsr_sdk.plugin_system.hookspecs import hookimpl
    from xpsr_sdk.plugin_system.registry import Registry, default_registry
    from xpsr_sdk.preparation.prepare import prepare_pairs, prepare_shards
    from xpsr_sdk.prompts.caption_folder import caption_folder
    from xpsr_sdk.result import Plan, Result
    from xpsr_sdk.runners.choice import find_runner
    from xpsr_sdk.runners.work import Done, PartlyFailed, Runner, Work
    from xpsr_sdk.serving.queue import RestorationQueue
    from xpsr_sdk.training.config import TrainConfig
    from xpsr_sdk.training.loop import train

__version__ = "0.1.0"

__all__ = [
    "AttentionSite",
    "Backbone",
    "BrokenPlugin",
    "CheckpointError",
    "Comparison",
    "ComponentSpec",
    "Conditioning",
    "ConfigError",
    "DegradationModel",
    "Denoiser",
    "Done",
    "DuplicateComponent",
    "ExecutionConfig",
    "FolderMetric",
    "FusionAttention",
    "ImageError",
    "IncompatiblePlugin",
    "Item",
    "LossTerm",
    "Metric",
    "ModelDefaults",
    "NonFiniteResult",
    "Options",
    "PartlyFailed",
    "Pipeline",
    "PipelineConfig",
    "Plan",
    "PluginError",
    "PromptKey",
    "PromptLevel",
    "PromptProvider",
    "Prompts",
    "QueueClosed",
    "QueueError",
    "QueueFull",
    "Registry",
    "Report",
    "RestorationQueue",
    "RestoreConfig",
    "Result",
    "Runner",
    "RunnerConfig",
    "Sampler",
    "StepCallback",
    "TrainConfig",
    "TrainedModel",
    "TrainingError",
    "TrainingStep",
    "UnknownComponent",
    "Upscaler",
    "Work",
    "WorkerLost",
    "XPSRControlNet",
    "XPSRError",
    "XPSRUNet",
    "__version__",
    "build_pipeline",
    "caption_folder",
    "compare_folders",
    "default_registry",
    "evaluate_folders",
    "find_model",
    "find_runner",
    "hookimpl",
    "prepare_pairs",
    "prepare_shards",
    "read_toml",
    "train",
]

HOME_OF = homes_of(
    {
        "build": "build_pipeline",
        "models.find_model": "find_model",
        "config": "ExecutionConfig ModelDefaults PipelineConfig RestoreConfig RunnerConfig read_toml",
        "contracts": "AttentionSite Backbone ComponentSpec Conditioning DegradationModel Denoiser FolderMetric "
        "FusionAttention Item LossTerm Metric Options PromptKey PromptLevel PromptProvider Prompts Sampler "
        "StepCallback TrainedModel TrainingStep Upscaler",
        "errors": "BrokenPlugin CheckpointError ConfigError DuplicateComponent ImageError "
        "IncompatiblePlugin NonFiniteResult PluginError QueueClosed QueueError QueueFull TrainingError "
        "UnknownComponent WorkerLost XPSRError",
        "evaluation.comparison": "Comparison compare_folders",
        "evaluation.report": "Report evaluate_folders",
        "models.controlnet": "XPSRControlNet",
        "models.unet": "XPSRUNet",
        "pipeline": "Pipeline",
        "plugin_system.hookspecs": "hookimpl",
        "plugin_system.registry": "Registry default_registry",
        "preparation.prepare": "prepare_pairs prepare_shards",
        "prompts.caption_folder": "caption_folder",
        "result": "Plan Result",
        "runners.choice": "find_runner",
        "runners.work": "Done PartlyFailed Runner Work",
        "serving.queue": "RestorationQueue",
        "training.config": "TrainConfig",
        "training.loop": "train",
    }
)

if not TYPE_CHECKING:  # type checkers read the imports above; with this they would accept every misspelt name
    __getattr__ = lazy_names(__name__, HOME_OF)


def __dir__() -> list[str]:
    return __all__
