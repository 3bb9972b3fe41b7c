"""The provider: zero-shot tags for the content, contrastive pairs of words for the quality.

Tags are chosen as in Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
arXiv 2103.00020, section 3.1; qualities as in Wang et al., "Exploring CLIP for Assessing the Look and Feel of Images",
arXiv 2207.12396: the photo is compared with both words of a pair of opposites, and a softmax over the two decides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from xpsr_openclip.vocabulary import DEFAULT, Vocabulary, read_vocabulary
from xpsr_sdk import Item, Options, PromptLevel, Prompts
from xpsr_sdk.toolkit import find_device, one_line

PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""OpenCLIP's names of dtypes."""


class OpenCLIPPrompts:
    """Describes photos with an OpenCLIP model, which is loaded when the first photo comes.

    The content is judged on the whole photo, at the model's resolution; the quality on crops of the photo's own
    pixels, since a reduced photo hides blur and noise. Photos smaller than the model's input are enlarged.
    """

    class Config(Options):
        """Which model, which words, and how sure it must be."""

        model: str = Field(
            "ViT-B-32",
            min_length=1,
            description="Name of an OpenCLIP architecture, hf-hub:OWNER/NAME, or a folder with open_clip_config.json.",
        )
        pretrained: str = Field(
            "laion2b_s34b_b79k",
            min_length=1,
            description="OpenCLIP's tag of the weights, or a file; not needed for a folder and for hf-hub:.",
        )
        vocabulary: Path | None = Field(
            None, description="TOML file with the words to choose from. None: the package's own."
        )
        max_tags: int = Field(5, ge=1, le=50, description="How many tags are named at most.")
        tag_probability: float = Field(
            0.05, ge=0, le=1, description="How probable a tag must be to be named; the first one always is."
        )
        quality_probability: float = Field(
            0.6, ge=0.5, le=1, description="How probable one of two opposites must be to be named."
        )
        batch_size: int = Field(16, ge=1, le=4096, description="Pictures a forward pass.")
        device: str | None = Field(None, description="None: the first there is of cuda, xpu, mps, cpu.")
        dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Precision of the model.")

    def __init__(self, config: Config | None = None) -> None:
        """Raises ``ConfigError`` for a vocabulary that cannot be read and a device that is not there."""
        self.config = config or self.Config()
        self.vocabulary = read_vocabulary(self.config.vocabulary or DEFAULT)
        self._device = find_device(self.config.device)
        self._model: LoadedModel | None = None
        self._failure: str | None = None

    def describe(self, items: Sequence[Item], levels: Collection[PromptLevel]) -> list[Prompts]:
        """Describe each photo: content as "a photo of a dog, grass.", quality as "blurry, noisy.".

        What fails is reported in ``Prompts.errors``: a model that cannot be loaded for all photos, without trying again
        before ``unload``; a photo that cannot be read for itself.
        """
        try:
            model = self._loaded()
        except Exception as error:  # a captioner must not stop a restoration
            self._failure = (
                self._failure or f"The OpenCLIP model {self.config.model!r} cannot be loaded: {one_line(error)}"
            )
            return [_failed(levels, self._failure) for _ in items]
        described = []
        for start in range(0, len(items), self.config.batch_size):
            described += self._describe_batch(model, items[start : start + self.config.batch_size], levels)
        return described

    def unload(self) -> None:
        """Free the model and the text features; the next ``describe`` loads them again."""
        self._model = self._failure = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _loaded(self) -> LoadedModel:
        if self._failure:
            raise RuntimeError(self._failure)
        if self._model is None:
            self._model = load_model(self.config, self.vocabulary, self._device)
        return self._model

    def _describe_batch(
        self, model: LoadedModel, items: Sequence[Item], levels: Collection[PromptLevel]
    ) -> list[Prompts]:
        """Photos that do not even load are left out of the batch."""
        views: list[list[Tensor] | str] = []
        for item in items:
            try:
                views.append(self._views(model, item.image.convert("RGB"), levels))
            except Exception as error:
                views.append(f"The photo cannot be read: {one_line(error)}")
        try:
            features = self._features(model, [view for seen in views if isinstance(seen, list) for view in seen])
        except Exception as error:  # out of memory, for instance
            return [
                _failed(levels, f"The OpenCLIP model {self.config.model!r} failed: {one_line(error)}") for _ in items
            ]
        described = []
        for seen in views:
            if isinstance(seen, str):
                described.append(_failed(levels, seen))
            else:
                own, features = features[: len(seen)], features[len(seen) :]
                described.append(self._word(model, own, levels))
        return described

    def _views(self, model: LoadedModel, image: Image.Image, levels: Collection[PromptLevel]) -> list[Tensor]:
        """What the model looks at: the whole photo for its content, crops for its quality; 3 h w each."""
        views = [image] if "high" in levels else []
        if "low" in levels:
            views += native_crops(image, model.side)
        return [model.preprocess(view) for view in views]

    @torch.inference_mode()
    def _features(self, model: LoadedModel, views: Sequence[Tensor]) -> Tensor:
        """Image features, N D, of unit length."""
        dtype: torch.dtype = getattr(torch, self.config.dtype)
        size = self.config.batch_size
        batches = [torch.stack(list(views[i : i + size])) for i in range(0, len(views), size)]
        features = [model.network.encode_image(batch.to(self._device, dtype), normalize=True) for batch in batches]
        return torch.cat(features).float() if features else torch.empty(0, model.tags.shape[-1])

    def _word(self, model: LoadedModel, features: Tensor, levels: Collection[PromptLevel]) -> Prompts:
        """The prompts of one photo from the features of its views."""
        texts: dict[PromptLevel, str] = {}
        if "high" in levels:
            texts["high"] = self._word_content(model, features[0])
            features = features[1:]
        if "low" in levels:
            texts["low"] = self._word_quality(model, features)
        return Prompts(texts.get("high"), texts.get("low"), dict.fromkeys(texts, "openclip"))

    def _word_content(self, model: LoadedModel, features: Tensor) -> str:
        probabilities, order = (model.scale * model.tags @ features).softmax(0).sort(descending=True)
        count = int((probabilities[: self.config.max_tags] >= self.config.tag_probability).sum())
        tags = [self.vocabulary.tags[int(i)] for i in order[: max(count, 1)]]
        return self.vocabulary.content_template.format(", ".join(tags)) + "."

    def _word_quality(self, model: LoadedModel, features: Tensor) -> str:
        """The mean of the crops decides."""
        probabilities = (model.scale * torch.einsum("pcd,nd->npc", model.qualities, features)).softmax(-1).mean(0)
        words = [
            pair[int(probability.argmax())]
            for pair, probability in zip(self.vocabulary.qualities, probabilities, strict=True)
            if float(probability.max()) >= self.config.quality_probability
        ]
        return ", ".join(words or ["average quality"]) + "."


@dataclass(frozen=True)
class LoadedModel:
    """A model and the features of the vocabulary's words.

    Attributes:
        network: The OpenCLIP model.
        preprocess: Turns a PIL image into its input, 3 h w.
        side: Pixels of that input, in each direction.
        scale: The model's own factor on similarities.
        tags: Features of the tags, N D, of unit length.
        qualities: Features of the pairs of qualities, P 2 D, of unit length.
    """

    network: Any
    preprocess: Callable[[Image.Image], Tensor]
    side: int
    scale: float
    tags: Tensor
    qualities: Tensor


@torch.inference_mode()
def load_model(config: OpenCLIPPrompts.Config, vocabulary: Vocabulary, device: torch.device) -> LoadedModel:
    """The model that the config names; whatever OpenCLIP raises if it is not there or damaged."""
    is_folder = Path(config.model).is_dir()
    if is_folder and not any(Path(config.model).glob("*.safetensors")):
        raise ValueError(f"{config.model} holds no safetensors file: pickled weights are not read")
    name = f"local-dir:{config.model}" if is_folder else config.model
    pretrained = None if is_folder or config.model.startswith("hf-hub:") else config.pretrained
    network, preprocess = open_clip.create_model_from_pretrained(
        name, pretrained, precision=PRECISIONS[config.dtype], device=device
    )
    network.eval()
    tokenize = open_clip.get_tokenizer(name)

    def encode(texts: list[str]) -> Tensor:
        size = config.batch_size
        batches = [tokenize(texts[i : i + size]).to(device) for i in range(0, len(texts), size)]
        return torch.cat([network.encode_text(batch, normalize=True) for batch in batches]).float()

    tags = encode([vocabulary.content_template.format(tag) for tag in vocabulary.tags])
    opposites = [
        vocabulary.quality_template.format(word).capitalize() for pair in vocabulary.qualities for word in pair
    ]
    size = network.visual.image_size
    return LoadedModel(
        network=network,
        preprocess=preprocess,
        side=int(size if isinstance(size, int) else min(size)),
        scale=float(network.logit_scale.exp()),
        tags=tags,
        qualities=encode(opposites).unflatten(0, (-1, 2)),
    )


def native_crops(image: Image.Image, side: int) -> list[Image.Image]:
    """Square crops of the photo's own pixels: its centre and, where it is larger, its four corners."""
    side = min(side, *image.size)
    right, bottom = image.width - side, image.height - side
    corners = [(right // 2, bottom // 2), (0, 0), (right, 0), (0, bottom), (right, bottom)]
    return [image.crop((x, y, x + side, y + side)) for x, y in dict.fromkeys(corners)]


def _failed(levels: Collection[PromptLevel], reason: str) -> Prompts:
    return Prompts(errors=dict.fromkeys(levels, reason))
