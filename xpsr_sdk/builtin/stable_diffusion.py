"""Stable Diffusion 1.x and 2.x as a backbone, from a folder in the diffusers layout."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import torch
from diffusers import AutoencoderKL, SchedulerMixin
from pydantic import Field
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from xpsr_sdk.builtin.text_windows import Windows, in_windows
from xpsr_sdk.config import LongPrompts
from xpsr_sdk.contracts import Conditioning, Options
from xpsr_sdk.errors import CheckpointError, ConfigError, XPSRError, short, told_by_library
from xpsr_sdk.models.checkpoints import read_json
from xpsr_sdk.models.config_files import check_entries, check_json_files, check_network_config
from xpsr_sdk.models.other_vae import folder_of_vae
from xpsr_sdk.models.pretrained import load_network


class StableDiffusion:
    """Tokenizer, text encoder, autoencoder and noise schedule of SD 1.x or 2.x. See ``xpsr_sdk.Backbone``."""

    class Config(Options):
        """Which autoencoder."""

        vae: str = Field(
            "", description="A folder or a file with another autoencoder for the same latents. Empty: the model's own."
        )

    tokenizer: Any
    text_encoder: Any
    tokenizer_2: Any = None
    text_encoder_2: Any = None
    vae: Any
    scheduler: Any
    text_encoder_classes: ClassVar[dict[str, Any]] = {"text_encoder": CLIPTextModel}
    _warned_of_cut = False  # a class attribute, since a derived class may not call this constructor

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def load(self, folder: Path, dtype: torch.dtype = torch.float32, from_scratch: bool = False) -> None:
        """Read everything but the U-Net from ``folder``. ``from_scratch`` gives the text encoder random weights.

        Raises:
            CheckpointError: A part is missing or damaged.
        """
        settings = read_json(folder / "scheduler" / "scheduler_config.json")
        check_network_config(settings, folder / "scheduler" / "scheduler_config.json")
        scheduler_class: Any = getattr(diffusers, str(settings.get("_class_name", "")), None)
        if not _is_scheduler(scheduler_class):
            raise CheckpointError(
                f"{folder}/scheduler names no scheduler of diffusers: {settings.get('_class_name')!r}."
            )
        check_entries(scheduler_class, settings, folder / "scheduler" / "scheduler_config.json")
        try:
            self.scheduler = scheduler_class.from_config(settings)
            self.load_text_encoders(folder, dtype, from_scratch)
            self.vae = self.load_autoencoder(self._autoencoder_folder(folder / "vae"), dtype)
        except (XPSRError, MemoryError):
            raise
        except Exception as error:  # the libraries check little, so that what is damaged fails anywhere
            check_json_files(folder)
            raise CheckpointError(
                f"{folder} is damaged or not a complete Stable Diffusion folder{told_by_library(error)}."
            ) from error

    def load_text_encoders(self, folder: Path, dtype: torch.dtype, from_scratch: bool) -> None:
        """Load each tokenizer and text encoder in evaluation mode; ``from_scratch``: with random weights.

        A backbone with another text encoder overrides this method and ``encode_text``.

        Args:
            folder: The model's folder.
            dtype: The precision of the text encoders.
            from_scratch: Whether only their configs are read.

        Raises:
            Exception: A part is missing or damaged. ``load`` turns the error into a ``CheckpointError``.
        """
        for name, cls in self.text_encoder_classes.items():
            tokenizer = name.replace("text_encoder", "tokenizer")
            if not (folder / tokenizer).is_dir():  # transformers would take the path for a name on the hub
                raise CheckpointError(f"{folder / tokenizer} does not exist: a model folder needs it.")
            setattr(self, tokenizer, CLIPTokenizer.from_pretrained(folder / tokenizer, local_files_only=True))
            getattr(self, tokenizer)("a photo")  # its settings are looked at only now
            if from_scratch:
                file = folder / name / "config.json"
                check_network_config(read_json(file), file)
                encoder = cls(CLIPTextConfig.from_pretrained(folder / name)).eval()
            else:
                encoder = load_network(cls, folder / name, dtype)
            setattr(self, name, encoder)
            _check_marks(getattr(self, tokenizer), encoder, folder / tokenizer)

    def _autoencoder_folder(self, own: Path) -> Path:
        """The folder of the autoencoder that the options name, or the model's own."""
        named = getattr(getattr(self, "config", None), "vae", "")  # a derived class may have other options
        if not named:
            return own
        if type(self).load_autoencoder is not StableDiffusion.load_autoencoder:
            raise ConfigError(f"vae is {named!r}, but this backbone has its own autoencoder: leave one of them out.")
        return folder_of_vae(named, own)

    def load_autoencoder(self, folder: Path, dtype: torch.dtype) -> Any:
        """Load the autoencoder from ``folder``, the model's ``vae/``, in ``dtype``.

        Instead of float16 it uses float32 if the autoencoder's config says that it overflows in float16
        (``force_upcast``, the default of diffusers). A backbone with another autoencoder overrides this method.

        Raises:
            Exception: ``folder`` is missing or damaged. ``load`` turns the error into a ``CheckpointError``.
        """
        if dtype == torch.float16 and read_json(folder / "config.json").get("force_upcast", True):
            dtype = torch.float32
        return load_network(AutoencoderKL, folder, dtype)

    @property
    def latent_channels(self) -> int:
        """C of the latents."""
        return int(self.vae.config.latent_channels)

    @property
    def stride(self) -> int:
        """Pixels per latent, in each direction."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def text_width(self) -> int:
        """D of the text embeddings."""
        return int(self.text_encoder.config.hidden_size)

    @property
    def max_tokens(self) -> int:
        """How many tokens the text encoder reads, including the start and end tokens."""
        return int(self.text_encoder.config.max_position_embeddings)

    def encode_text(
        self, texts: Sequence[str], *, long_prompts: LongPrompts = "cut", weighted: bool = False
    ) -> Conditioning:
        """Encode each text, B T D.

        A text is padded to a window of ``max_tokens``. A longer text is cut to one window or, with ``"chunks"``,
        encoded in several windows. The first cut causes a warning that says how much was lost. A weight multiplies the
        embeddings of its tokens; the whole text is then scaled back to its original root mean square.
        """
        windows = self.windows(self.tokenizer, texts, long_prompts, weighted)
        return Conditioning(windows.joined(self.text_encoder(windows.ids_for(self.text_encoder))[0]))

    def windows(self, tokenizer: Any, texts: Sequence[str], long_prompts: LongPrompts, weighted: bool) -> Windows:
        """Texts in windows of ``max_tokens``, for a text encoder and its tokenizer.

        ``windows.ids_for(encoder)`` are the tokens, and ``windows.joined(embeddings)`` are the embeddings of the texts,
        with their weights. The first text that is cut causes a warning: captions are often too long.
        """
        windows = in_windows(tokenizer, self.max_tokens, texts, long_prompts, weighted)
        if windows.cut and not self._warned_of_cut:
            self._warned_of_cut = True
            text, length = windows.cut
            warnings.warn(
                f"A prompt of {length} tokens was cut to {windows.room}: {text[:60]!r}...; "
                "long_prompts = 'chunks' reads all of it. There is no warning for further prompts that are cut.",
                stacklevel=3,
            )
        return windows

    def encode(self, image: Tensor, upscaled: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Latents, B C h w, scaled to about unit variance, of ``image`` (B 3 H W in [-1, 1]).

        Args:
            image: The images to encode.
            upscaled: The photo as the upscaler enlarged it, B 3 H W in [0, 1]; not used here.
            generators: One for each image, to sample the distribution of its latents. None: the mean is used.
        """
        distribution = self.vae.encode(image.to(self.vae.dtype)).latent_dist
        latents = distribution.mode() if generators is None else distribution.sample(list(generators))
        scaled: Tensor = latents * self.vae.config.scaling_factor
        return scaled

    def decode(self, latents: Tensor, upscaled: Tensor) -> Tensor:
        """Decode scaled latents to images, B 3 H W in [-1, 1]. ``upscaled`` is not used here."""
        image: Tensor = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype)).sample
        return image


def _check_marks(tokenizer: Any, encoder: Any, folder: Path) -> None:
    """Raise ``CheckpointError`` unless the text encoder knows the tokens that are around each text."""
    known = int(encoder.config.vocab_size)
    for name in ("bos_token", "eos_token", "pad_token"):
        token = getattr(tokenizer, f"{name}_id", None)
        if token is None or token >= known:
            text = short(getattr(tokenizer, name, None))
            raise CheckpointError(
                f"{folder} is damaged: its {name} {text} is none of the text encoder's {known} tokens."
            )


def _is_scheduler(found: object) -> bool:
    return inspect.isclass(found) and issubclass(found, SchedulerMixin)
