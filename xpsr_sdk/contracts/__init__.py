"""What a plug-in implements: one contract for each kind of component.

A component is a class that is built as ``Class(config)`` from an instance of its own nested ``Config``
(an ``Options``) and then satisfies the contract of its kind. The contracts are typing protocols: no
base class is needed, and importing this module loads no torch.

Letters in shapes: B batch, C channels, H W pixels, h w latents, T tokens, D text width, s scale.
"""

from xpsr_sdk.contracts.backbone import PARTS_OF_BACKBONE, Backbone, Conditioning, parts_of, text_encoders_of
from xpsr_sdk.contracts.component import ComponentSpec, Options
from xpsr_sdk.contracts.degradation_model import DegradationModel
from xpsr_sdk.contracts.fusion_attention import AttentionSite, FusionAttention
from xpsr_sdk.contracts.loss_term import LossTerm, TrainedModel, TrainingStep
from xpsr_sdk.contracts.metric import FolderMetric, Metric
from xpsr_sdk.contracts.prompt_provider import (
    PROMPT_LEVELS,
    Item,
    PromptKey,
    PromptLevel,
    PromptProvider,
    Prompts,
    Sha256,
)
from xpsr_sdk.contracts.sampler import Denoiser, Sampler, StepCallback
from xpsr_sdk.contracts.upscaler import Upscaler

__all__ = [
    "CONTRACTS",
    "KINDS",
    "PARTS_OF_BACKBONE",
    "PROMPT_LEVELS",
    "AttentionSite",
    "Backbone",
    "ComponentSpec",
    "Conditioning",
    "DegradationModel",
    "Denoiser",
    "FolderMetric",
    "FusionAttention",
    "Item",
    "LossTerm",
    "Metric",
    "Options",
    "PromptKey",
    "PromptLevel",
    "PromptProvider",
    "Prompts",
    "Sampler",
    "Sha256",
    "StepCallback",
    "TrainedModel",
    "TrainingStep",
    "Upscaler",
    "kind_in_words",
    "parts_of",
    "text_encoders_of",
]

KINDS: dict[str, str] = {
    "prompt_provider": "xpsr_prompt_providers",
    "fusion_attention": "xpsr_fusion_attentions",
    "degradation_model": "xpsr_degradation_models",
    "sampler": "xpsr_samplers",
    "backbone": "xpsr_backbones",
    "upscaler": "xpsr_upscalers",
    "metric": "xpsr_metrics",
    "loss_term": "xpsr_loss_terms",
}
"""The kinds of component, each with the hook by which plug-ins offer it."""

CONTRACTS: dict[str, type] = {
    "prompt_provider": PromptProvider,
    "fusion_attention": FusionAttention,
    "degradation_model": DegradationModel,
    "sampler": Sampler,
    "backbone": Backbone,
    "upscaler": Upscaler,
    "metric": Metric,
    "loss_term": LossTerm,
}
"""The contract of each kind."""


def kind_in_words(kind: str) -> str:
    """A key of ``KINDS`` as messages say it, for instance ``prompt provider``."""
    return kind.replace("_", " ")
