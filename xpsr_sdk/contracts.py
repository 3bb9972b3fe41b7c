"""What a plug-in implements: one contract for each kind of component.

A component is a class that is built as ``Class(config)`` from an instance of its own nested ``Config``
(an ``Options``) and then satisfies the contract of its kind. The contracts are typing protocols: no
base class is needed, and importing this module loads no torch.

Letters in shapes: B batch, C channels, H W pixels, h w latents, T tokens, D text width, s scale.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import torch
    from PIL import Image

PromptLevel = Literal["high", "low"]
"""``high``: what the photo shows. ``low``: how good or bad its quality is."""
PROMPT_LEVELS: tuple[PromptLevel, ...] = ("high", "low")


class Options(BaseModel):
    """Base of every component's ``Config``: frozen, and unknown options are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class ComponentSpec:
    """What a hook returns for each component that it offers. It is cheap to make and imports nothing.

    Attributes:
        name: What a user writes to choose the component, for instance ``"dpmpp-2m"``.
        target: ``"package.module:Class"``, imported only when the component is chosen.
        summary: One line for the list of components.
        defaults: Options that this name sets, so that several names can share a class.
    """

    name: str
    target: str
    summary: str
    defaults: Mapping[str, Any] = field(default_factory=dict)


class Sha256:
    """A field that holds a hex digest or None. A function may be given instead: it is called at the first read."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, instance: object, owner: type | None = None) -> str | None:
        if instance is None:
            return None  # the field's default
        value = vars(instance)[self._name]
        if callable(value):
            value = vars(instance)[self._name] = value()
        digest: str | None = value
        return digest

    def __set__(self, instance: object, value: str | Callable[[], str | None] | None) -> None:
        vars(instance)[self._name] = value


@dataclass(frozen=True)
class Item:
    """An input image.

    Attributes:
        image: The picture, in mode RGB and in sRGB.
        path: Where it came from, if from a file.
        sha256: Hex digest of the file's bytes, if from a file. May be given as a function, which is called when the
            digest is first read.
    """

    image: Image.Image
    path: Path | None = None
    sha256: Sha256 = Sha256()

    def __reduce__(self) -> tuple[Any, ...]:
        return Item, (self.image, self.path, self.sha256)  # computes the digest: a function may not pickle


@dataclass(frozen=True)
class Prompts:
    """The descriptions of one image.

    ``""`` is a description and is encoded as empty text; ``None`` means that the level is absent.

    Attributes:
        high: Content of the photo.
        low: Quality of the photo.
        source: For each level that is present, who gave it (a provider's name, or ``"user"``).
        errors: For each level that failed, the reason.
    """

    high: str | None = None
    low: str | None = None
    source: Mapping[PromptLevel, str] = field(default_factory=dict)
    errors: Mapping[PromptLevel, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptKey:
    """What a description depends on besides the image: who gave it, and to which question.

    Attributes:
        provider: The provider's name.
        model: The model that the provider asks, or anything else about the provider that changes its answers.
        question: The question that it asks.
    """

    provider: str
    model: str = ""
    question: str = ""


@runtime_checkable
class PromptProvider(Protocol):
    """Describes images. Gives the description only: the pipeline appends its own positive words.

    A provider may also have a method ``prompt_key(level) -> PromptKey``: prompts that are stored ahead of time are
    asked for again when this key changes. Without the method, they are asked for again when any option changes.
    """

    def describe(self, items: Sequence[Item], levels: Collection[PromptLevel]) -> list[Prompts]:
        """Describe each item at the asked levels.

        A level that the provider does not offer, or for which it has nothing to say about an image, is ``None``. That
        is not an error: the photo is restored without it, silently, and ``xpsr caption`` does not ask again. A failure
        is reported in ``Prompts.errors`` and never raised, since a captioner must not stop a restoration: a warning
        gives the reason, and ``xpsr caption`` asks again the next time. In both cases ``ensemble`` asks the next
        provider.
        """
        ...

    def unload(self) -> None:
        """Free whatever memory the provider holds; ``describe`` may be called again later.

        Called when memory is short.
        """
        ...


@dataclass(frozen=True)
class AttentionSite:
    """The place of a fusion module in its model, and what the module may need to know to build its layers.

    Attributes:
        place: The name of the site's own attention in its model, for instance ``"down_blocks.0.attentions.1"``.
        channels: C of the feature map.
        heads: Attention heads of the site's own attention.
        head_dim: Channels of each head.
        text_width: D of the text embeddings.
        depth: Transformer layers of the site's own attention.
        norm_groups: Groups of its group norm.
        linear_projection: Whether its projections are linear layers (SD 2.x) or 1x1 convolutions (SD 1.x).
        upcast_attention: Whether attention scores are computed in float32.
    """

    place: str
    channels: int
    heads: int
    head_dim: int
    text_width: int
    depth: int
    norm_groups: int
    linear_projection: bool
    upcast_attention: bool


class FusionAttention(Protocol):
    """Joins a site's own attention with the low-level prompt: a ``torch.nn.Module``, one for each site.

    Built as ``Class(config, site)``. Its weights are part of the model's state dict. The site's own attention
    belongs to the base model and stays in its place under its own name, so that LoRA files find it; each call hands
    it to the fusion as ``attend``.

    Models are read from files, and their memory is planned, on torch's meta device: ``__init__`` and the call must work
    where tensors have shapes, but no values.
    """

    def __call__(
        self,
        attend: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        x: torch.Tensor,
        high: torch.Tensor,
        low: torch.Tensor | None,
    ) -> torch.Tensor:
        """Attend to both prompts.

        Args:
            attend: The site's own attention: ``attend(x, text)`` gives B C h w.
            x: Features, B C h w.
            high: Content embeddings, B T D.
            low: Quality embeddings, B T D, or ``None`` when there is no low-level prompt.

        Returns:
            Features, B C h w, in the dtype of ``x``. No branch may depend on a tensor's value.
        """
        ...

    def init_from_attention(self, attention: torch.nn.Module) -> None:
        """Take initial weights from the site's own attention; called once, on a freshly built model."""
        ...


@runtime_checkable
class DegradationModel(Protocol):
    """Makes the low-resolution photo that a training pair needs.

    It must be picklable, since a data loader sends it to its worker processes.
    """

    scale: int
    """s: how many times smaller the result is."""

    def __call__(self, hr: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Degrade a batch.

        Args:
            hr: B 3 H W in [0, 1]; H and W are multiples of s.
            generators: One for each image, on the CPU. An image's result depends on its own generator alone.

        Returns:
            B 3 H/s W/s in [0, 1], in the dtype and on the device of ``hr``.
        """
        ...


@runtime_checkable
class Upscaler(Protocol):
    """Brings the photo to the size at which it is restored.

    The SDK cuts large photos into tiles, which overlap by ``halo``, and resizes the result bicubically (antialiased) to
    the requested size, so that an upscaler has only one scale. It computes on the device of the image.
    """

    scale: int
    """s: how many times larger the result is; 1 leaves all resizing to the SDK."""
    halo: int
    """Pixels of the input around a tile that the tile's result may depend on."""

    def upscale(self, image: torch.Tensor) -> torch.Tensor:
        """Enlarge a batch; each image by itself.

        Args:
            image: B 3 h w in [0, 1], float32, bfloat16 or float16; any h and w from 1 on.

        Returns:
            B 3 s*h s*w in [0, 1], in the dtype and on the device of ``image``.
        """
        ...

    def unload(self) -> None:
        """Free whatever memory the upscaler holds; ``upscale`` may be called again later.

        Called when memory is short.
        """
        ...


@runtime_checkable
class Metric(Protocol):
    """Measures photos: one figure for each, or one for a whole folder (see ``FolderMetric``).

    Weights are found when the metric is built: ``CheckpointError`` says what is missing. If its ``Config`` has an
    option ``weights``, that gets the folder which users name for all metrics (``xpsr evaluate --weights``), or None; an
    option ``channel`` gets ``--channel``. The metric computes on the device of the images. The border that users leave
    out (``crop``) is cut off before.
    """

    needs_reference: bool
    """Whether a photo is compared with its reference. Otherwise ``references`` is None."""
    lower_is_better: bool
    """Whether a lower figure means a better photo."""
    min_side: int
    """The smallest width and height that can be measured, in pixels."""
    details: str
    """Everything that changes the figures, in one line: the variant, the library with its version, and the SHA-256 of
    the weights. Reports print it, and stored figures are computed again when it changes. A metric that cannot tell its
    weights exactly has an attribute ``storable``, which is False: its figures are not stored. One whose code or weights
    may not be used for everything has an attribute ``license``, which says so in a line that reports print."""

    def measure(self, images: torch.Tensor, references: torch.Tensor | None) -> torch.Tensor:
        """Measure a batch; each photo by itself.

        Where the formula allows it, gradients pass through, so that the metric can be a term of the training loss.

        Args:
            images: B 3 H W, RGB in [0, 1], float32 or float64.
            references: The same shape, dtype and device as ``images``.

        Returns:
            One figure for each photo, B. It may be infinite, as the PSNR of equal images is.
        """
        ...


@runtime_checkable
class FolderMetric(Metric, Protocol):
    """Measures a whole folder at once, as FID and KID do.

    Its ``measure`` gives the features of each photo, B D, and is called for the references in the same way: its own
    ``references`` are always None.
    """

    def compare(self, features: torch.Tensor, references: torch.Tensor | None) -> float:
        """The figure of a folder.

        Args:
            features: What ``measure`` gave for all photos, N D, float64 on the CPU.
            references: The same for the references, M D; None if the metric needs none.
        """
        ...


class Denoiser(Protocol):
    """What a sampler is handed: the model after guidance and tiles, and the noise schedule it was trained with."""

    prediction_type: str
    """``"epsilon"``, ``"v_prediction"`` or ``"sample"``."""
    scheduler: Any
    """The base model's own diffusers scheduler; copy it before use, since schedulers hold state."""
    alphas_cumprod: torch.Tensor
    """Cumulative signal power of the noise schedule, one value for each training timestep."""
    start_timestep: int
    """Sampling begins at this training timestep; the initial latents have its noise level."""

    def predict(self, x_t: torch.Tensor, t: torch.Tensor | int) -> torch.Tensor:
        """The raw model prediction, after guidance. ``x_t``: B C h w with unit-variance scaling; ``t``: a timestep."""
        ...

    def denoised(self, x: torch.Tensor, sigma: torch.Tensor | float) -> torch.Tensor:
        """The estimate of the clean latents from ``x = x_0 + sigma * noise``: for k-diffusion style samplers."""
        ...


StepCallback = Callable[[int, int, "torch.Tensor"], "torch.Tensor"]
"""``callback(step, timestep, latents)``, after each step, gives the latents to go on with: the very tensor that it was
handed, or another one, if the user has replaced them."""


@runtime_checkable
class Sampler(Protocol):
    """Turns noisy latents into clean ones by asking the denoiser.

    A sampler for models that were distilled to one or a few steps (consistency models, one-step restoration) says so by
    an attribute ``distilled = True``: it may use fewer evaluations than it is given, and its result is the model's
    estimate instead of a sample of the data's distribution.

    A sampler may also have an attribute ``defaults``: settings that replace the model's defaults, unless a user gives
    others, for instance ``{"num_inference_steps": 4, "guidance_scale": 1.0}``.
    """

    def sample(
        self,
        denoiser: Denoiser,
        latents: torch.Tensor,
        *,
        num_inference_steps: int,
        generators: Sequence[torch.Generator],
        callback: StepCallback | None = None,
    ) -> torch.Tensor:
        """Sample.

        Args:
            denoiser: The model.
            latents: B C h w at the noise level of ``denoiser.start_timestep``.
            num_inference_steps: The most model evaluations. The sampler uses at least half of them (or half of the
                number of timesteps, if there are fewer).
            generators: One for each image, on the CPU, for samplers that add noise: the result for image i depends
                only on its latents and ``generators[i]``.
            callback: Called after each step, the last time with the result. The sampler goes on with the latents that
                it gives: they are others if the user has replaced them.

        Returns:
            Clean latents, B C h w, in the dtype and on the device of ``latents``.
        """
        ...


@dataclass(frozen=True)
class Conditioning:
    """Encoded text, and what else the networks are told.

    Attributes:
        embeddings: B T D.
        added: What the networks take besides the embeddings, by its name in diffusers' ``added_cond_kwargs``: for SDXL
            ``text_embeds``, B P (pooled text), and ``time_ids``, B 6 (sizes and crop). The networks get that of the
            high-level prompt.
    """

    embeddings: torch.Tensor
    added: Mapping[str, torch.Tensor] = field(default_factory=dict)


PARTS_OF_BACKBONE = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "vae", "scheduler")
"""The attributes of a backbone that a pipeline holds and saves."""


def parts_of(backbone: Backbone) -> dict[str, Any]:
    """The parts of a backbone that a pipeline holds and saves, by their names; only those that it has."""
    found = {name: getattr(backbone, name, None) for name in PARTS_OF_BACKBONE}
    return {name: part for name, part in found.items() if part is not None}


def text_encoders_of(backbone: Backbone) -> dict[str, Any]:
    """The text encoders of a backbone, by their names."""
    return {name: part for name, part in parts_of(backbone).items() if name.startswith("text_encoder")}


class Backbone(Protocol):
    """A version of Stable Diffusion: all of it that does not belong to XPSR.

    Built as ``Class(config)``, which must be cheap; ``load`` reads the weights and sets the attributes below. A model
    with two text encoders also has ``tokenizer_2`` and ``text_encoder_2``. ``Pipeline.from_pretrained`` sets these
    parts itself and never calls ``load``: everything else must be computed from them, for instance in properties.
    """

    tokenizer: Any
    text_encoder: Any
    """A ``torch.nn.Module``."""
    vae: Any
    """A ``diffusers.ModelMixin``."""
    scheduler: Any
    """The model's own diffusers scheduler: the noise schedule."""

    @property
    def latent_channels(self) -> int:
        """C of the latents."""
        ...

    @property
    def stride(self) -> int:
        """How many pixels wide and high one latent is."""
        ...

    @property
    def text_width(self) -> int:
        """D of the text embeddings."""
        ...

    def load(self, folder: Path, dtype: torch.dtype, from_scratch: bool = False) -> None:
        """Read everything but the U-Net from ``folder``; ``from_scratch``: with random weights in the text encoder.

        Raises:
            CheckpointError: A part is missing or damaged.
        """
        ...

    def encode_text(
        self, texts: Sequence[str], *, long_prompts: Literal["cut", "chunks"] = "cut", weighted: bool = False
    ) -> Conditioning:
        """Encode texts, all to the same T. The SDK only passes the options if they differ from their defaults.

        Args:
            texts: B texts.
            long_prompts: ``cut``: a text that is too long for the text encoder is cut, with a warning. ``chunks``: it
                is encoded in as many parts as needed, and their embeddings are joined along T.
            weighted: Whether brackets set weights, see ``xpsr_sdk.prompts.weights``.
        """
        ...

    def encode(
        self, image: torch.Tensor, upscaled: torch.Tensor, generators: Sequence[torch.Generator] | None = None
    ) -> torch.Tensor:
        """Latents of an image.

        Args:
            image: B 3 H W in [-1, 1].
            upscaled: The photo as the upscaler enlarged it, B 3 H W in [0, 1].
            generators: One for each image, to sample from the distribution of the latents. None: its mean is used.

        Returns:
            B C h w, scaled to about unit variance.
        """
        ...

    def decode(self, latents: torch.Tensor, upscaled: torch.Tensor) -> torch.Tensor:
        """Decode scaled latents to an image, B 3 H W in [-1, 1]; ``upscaled`` is the photo, in [0, 1] and float32."""
        ...


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
