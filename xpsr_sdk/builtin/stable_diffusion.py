"""Stable Diffusion 1.x and 2.x as a backbone, from a folder in the diffusers layout."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, SchedulerMixin
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from xpsr_sdk.config import LongPrompts
from xpsr_sdk.contracts import Conditioning, Options
from xpsr_sdk.errors import CheckpointError, XPSRError, one_line
from xpsr_sdk.models.checkpoints import read_json
from xpsr_sdk.models.config_files import check_network_config
from xpsr_sdk.models.pretrained import load_network
from xpsr_sdk.prompts.weights import parse_weights


class StableDiffusion:
    """Tokenizer, text encoder, autoencoder and noise schedule of SD 1.x or 2.x. See ``xpsr_sdk.Backbone``."""

    class Config(Options):
        """No options."""

    tokenizer: Any
    text_encoder: Any
    vae: Any
    scheduler: Any
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
        try:
            self.scheduler = scheduler_class.from_config(settings)
            self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
            if from_scratch:
                file = folder / "text_encoder" / "config.json"
                check_network_config(read_json(file), file)
                self.text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder"))
            else:
                self.text_encoder = load_network(CLIPTextModel, folder / "text_encoder", dtype)
            self.vae = self.load_autoencoder(folder / "vae", dtype)
        except (XPSRError, MemoryError):
            raise
        except Exception as error:  # the libraries check little, so that what is damaged fails anywhere
            raise CheckpointError(f"{folder} is not a complete Stable Diffusion folder: {one_line(error)}") from error
        self.text_encoder.eval()

    def load_autoencoder(self, folder: Path, dtype: torch.dtype) -> Any:
        """Load the autoencoder from ``folder``, the model's ``vae/``, in ``dtype``.

        Instead of float16 it uses float32, because this autoencoder overflows in float16. A backbone with another
        autoencoder overrides this method.

        Raises:
            Exception: ``folder`` is missing or damaged. ``load`` turns the error into a ``CheckpointError``.
        """
        if dtype == torch.float16:
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
        (AUTOMATIC1111's web UI keeps the mean instead, which may be zero.)
        """
        room = self.max_tokens - 2  # without the start and end tokens
        tokens = [self._tokens(text, weighted) for text in texts]
        count = max(1, *(-(-len(of_text) // room) for of_text in tokens)) if long_prompts == "chunks" else 1
        for text, of_text in zip(texts, tokens, strict=True):
            if len(of_text) > count * room:
                self._warn_of_cut(text, len(of_text), room)
        windows = [of_text[i * room :][:room] for of_text in tokens for i in range(count)]
        first, last, padding = (getattr(self.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad"))
        ids = [[first, *(token for token, _ in w), last, *[padding] * (room - len(w))] for w in windows]
        device = next(self.text_encoder.parameters()).device
        if device.type == "meta":  # offloaded: the hooks move the input to the right device
            device = torch.device("cpu")
        embeddings: Tensor = self.text_encoder(torch.tensor(ids, device=device))[0]
        embeddings = embeddings.reshape(len(texts), -1, embeddings.shape[-1])  # concatenates the windows of a text
        if any(weight != 1 for of_text in tokens for _, weight in of_text):
            weights = [[1.0, *(weight for _, weight in w), *[1.0] * (room + 1 - len(w))] for w in windows]
            embeddings = _weighted(embeddings, torch.tensor(weights).to(embeddings).reshape(len(texts), -1, 1))
        return Conditioning(embeddings=embeddings)

    def _tokens(self, text: str, weighted: bool) -> list[tuple[int, float]]:
        """The tokens of a text, each with its weight."""
        parts = parse_weights(text) if weighted else [(text, 1.0)]
        encoded = self.tokenizer([part for part, _ in parts], add_special_tokens=False, verbose=False).input_ids
        return [(token, weight) for ids, (_, weight) in zip(encoded, parts, strict=True) for token in ids]

    def _warn_of_cut(self, text: str, length: int, room: int) -> None:
        """Warn once, because captions are often too long, and a folder has many photos."""
        if not self._warned_of_cut:
            self._warned_of_cut = True
            warnings.warn(
                f"A prompt of {length} tokens was cut to {room}: {text[:60]!r}...; long_prompts = 'chunks' reads all of"
                " it. There is no warning for further prompts that are cut.",
                stacklevel=3,
            )

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


def _is_scheduler(found: object) -> bool:
    return inspect.isclass(found) and issubclass(found, SchedulerMixin)


def _weighted(embeddings: Tensor, weights: Tensor) -> Tensor:
    """Embeddings, B T D, times weights, B T 1, scaled back to the root mean square that each text had before."""
    weighted = embeddings * weights
    norm, of_weighted = (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) for x in (embeddings, weighted))
    return weighted * (norm / of_weighted)
