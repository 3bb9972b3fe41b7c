"""The contract of loss terms, of which the training loss is the weighted sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from xpsr_sdk.contracts.backbone import Backbone

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TrainedModel:
    """The model of a training run, with the weights that it has before the first step. Loss terms are built with it.

    Attributes:
        unet: The U-Net, a ``torch.nn.Module``. A term that needs a network like it, for instance a frozen teacher,
            makes a copy with ``copy.deepcopy``.
        controlnet: The ControlNet, likewise.
        backbone: The backbone.
        schedule: The noise schedule, a ``xpsr_sdk.models.schedule.NoiseSchedule``.
        frozen_dtype: The precision in which frozen matrices may be stored, see ``model.frozen_in_half``.
    """

    unet: Any
    controlnet: Any
    backbone: Backbone
    schedule: Any
    frozen_dtype: torch.dtype


class TrainingStep(Protocol):
    """What a loss term reads: the images of a step, and what the model made of them.

    It holds the images of one process, and of one part of gradient accumulation. What several terms read is computed
    once, when the first of them reads it. Gradients pass through what the model made.
    """

    hr: torch.Tensor
    """The sharp images, B 3 H W in [-1, 1]."""
    resized: torch.Tensor
    """The LR images, resized bicubically to the size of the sharp ones, B 3 H W in [0, 1]."""
    upscaled: torch.Tensor
    """The LR images, enlarged by the model's upscaler, B 3 H W in [0, 1]."""
    latents: torch.Tensor
    """Latents of the sharp images, B C h w."""
    timesteps: torch.Tensor
    """The timesteps, B."""
    noisy: torch.Tensor
    """What the model was given at these timesteps, B C h w."""
    prediction: torch.Tensor
    """What the U-Net predicted, B C h w in float32: noise, velocity or clean latents, see ``TrainedModel.schedule``."""
    target: torch.Tensor
    """What it should have predicted, B C h w."""
    clean: torch.Tensor
    """The estimates of the clean latents that follow from the prediction, B C h w."""
    has_detail: torch.Tensor
    """Which of the estimates are to have detail, B booleans: not those at the schedule's last timestep, where the best
    estimate is the mean of all sharp images. If the model is trained to restore in one step: all of them."""
    images: torch.Tensor
    """The estimates that are to have detail, decoded, N 3 H W in about [0, 1]; N may be 0."""
    references: torch.Tensor
    """The sharp images of these, N 3 H W in [0, 1]."""
    rgbs: Sequence[torch.Tensor]
    """The images that the heads of the ControlNet predict, B 3 H/2^k W/2^k. Only terms with ``reads_heads`` may read
    this."""
    head_latents: Sequence[torch.Tensor]
    """The latents that the heads of the ControlNet predict, B C h/2^k w/2^k, likewise."""

    def control(self, controlnet: Any, noisy: torch.Tensor, timesteps: torch.Tensor) -> Any:
        """What another ControlNet gives for other noisy latents, with the photos and the prompts of this step."""
        ...

    def predict(self, unet: Any, noisy: torch.Tensor, timesteps: torch.Tensor, control: Any) -> torch.Tensor:
        """What another U-Net predicts, B C h w in float32, with the prompts of this step.

        Args:
            unet: The U-Net.
            noisy: Noisy latents, B C h w.
            timesteps: Their timesteps, B.
            control: What ``control`` gave for them.
        """
        ...


@runtime_checkable
class LossTerm(Protocol):
    """A term of the training loss: a ``torch.nn.Module``, built as ``Class(config, model)`` with a ``TrainedModel``.

    It may hold networks of its own. The parameters that require gradients when the term is built are trained together
    with those of the model: by the same optimiser, with EMA weights, over all processes; checkpoints hold them, and its
    buffers. All its other parameters must be frozen, and must be the same each time the term is built. The term decides
    itself which networks are in training mode.

    A term that reads the heads of the ControlNet says so by an attribute ``reads_heads = True``.
    """

    def __call__(
        self, step: TrainingStep, generators: Sequence[torch.Generator]
    ) -> torch.Tensor | Mapping[str, torch.Tensor]:
        """Compute the term, without its weight in the loss.

        Args:
            step: The images of the step, and what the model made of them.
            generators: One for each image, on the CPU, for terms that draw random numbers.

        Returns:
            The mean over the images, a tensor without dimensions. Or several such tensors by name, which are logged
            separately and added up: for instance one for the model, and one that trains the term's own network on
            detached estimates.
        """
        ...
