"""Asks a vision-language model of the transformers library what a photo shows, and how good its quality is.

It works with every model that ``AutoModelForImageTextToText`` and ``AutoProcessor`` can load, and whose processor has a
chat template.
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig, PretrainedConfig, TorchAoConfig

from xpsr_sdk.contracts import PROMPT_LEVELS, Item, PromptKey, PromptLevel, Prompts
from xpsr_sdk.errors import CheckpointError, ConfigError, one_line
from xpsr_sdk.hardware.devices import find_device, free_memory
from xpsr_sdk.models.config_files import check_network_config
from xpsr_sdk.prompts.captioner import (
    Answer,
    CaptionerOptions,
    as_prompts,
    need_package,
    shrunk,
    without_thoughts,
)

Quantization = Literal["bitsandbytes-4bit", "bitsandbytes-8bit", "torchao-int8"]

UNREACHABLE = "it is not on this machine, and the hub cannot be reached: download it first, or name its folder"
"""Why a model cannot be loaded without a network."""


class TransformersCaptioner:
    """Loads its models at the first question, asks in batches, and frees the memory if the diffusion model needs it.

    It decodes greedily, so that the same photo always gets the same description.
    """

    class Config(CaptionerOptions):
        """The models, and how they are run."""

        model: str = Field("llava-hf/llava-1.5-7b-hf", min_length=1, description="Folder, or id on the hub.")
        low_model: str | None = Field(
            None, min_length=1, description="Model that is asked about the quality. None: the same one."
        )
        batch_size: int = Field(4, ge=1, description="Photos in each forward pass.")
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
            "auto", description="Precision of the weights. auto: as they are stored."
        )
        quantization: Quantization | None = Field(
            None, description="Weights in 4 or 8 bits; needs the extra bitsandbytes or torchao."
        )
        device_map: str | None = Field(
            None,
            description="A device (cuda:1), or auto: over all. None: the first one available of cuda, xpu, mps, cpu.",
        )
        keep_loaded: bool | None = Field(
            None, description="Whether models stay in memory. None: only if an equal amount of memory is still free."
        )
        trust_remote_code: bool = Field(False, description="Run code that comes with the model.")

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        if library := (self.config.quantization or "").partition("-")[0]:
            need_package(library, library, f"quantization = {self.config.quantization!r}")
        for level in PROMPT_LEVELS:
            _check_folder(self._model_of(level))
        self._loaded: dict[str, tuple[Any, Any]] = {}
        self._broken: dict[str, str] = {}  # reasons as text, since an exception would keep the model in memory

    def prompt_key(self, level: PromptLevel) -> PromptKey:
        """The model and the question."""
        return PromptKey("transformers", self._model_of(level), self.config.question(level))

    def describe(self, items: Sequence[Item], levels: Collection[PromptLevel]) -> list[Prompts]:
        """The answers to the questions of the given levels. Failures are reported in ``Prompts.errors``."""
        answers: dict[PromptLevel, list[Answer]] = {}
        for level in [level for level in PROMPT_LEVELS if level in levels]:
            name, question, size = self._model_of(level), self.config.question(level), self.config.batch_size
            batches = [items[first : first + size] for first in range(0, len(items), size)]
            answers[level] = [answer for batch in batches for answer in self._answers(name, batch, question)]
            self._unload_if_needed(name)
        return as_prompts(len(items), answers, {level: self._model_of(level) for level in answers})

    def unload(self) -> None:
        """Free the models' memory. A model that could not be loaded is tried again at the next question."""
        self._loaded.clear()
        self._broken.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _model_of(self, level: PromptLevel) -> str:
        return (self.config.low_model if level == "low" else None) or self.config.model

    def _answers(self, name: str, items: Sequence[Item], question: str) -> list[Answer]:
        """One answer for each photo. If a batch fails, because of memory or of one photo, each photo is asked alone.

        A model that could not be loaded is not tried again for every photo, since each try may take minutes.
        """
        if name not in self._broken:
            try:
                return [Answer(without_thoughts(text, question)) for text in self._ask(name, items, question)]
            except Exception as error:
                if len(items) == 1 and name not in self._broken:
                    return [Answer(error=f"{name}: {one_line(error)}")]
        if name in self._broken:
            return [Answer(error=f"{name}: {self._broken[name]}")] * len(items)
        return [answer for item in items for answer in self._answers(name, [item], question)]

    @torch.inference_mode()
    def _ask(self, name: str, items: Sequence[Item], question: str) -> list[str]:
        model, processor = self._load(name)
        pictures = [{"type": "image", "image": shrunk(item.image, self.config.max_side)} for item in items]
        text = {"type": "text", "text": question}
        inputs = processor.apply_chat_template(
            [[{"role": "user", "content": [picture, text]}] for picture in pictures],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(model.device, model.dtype)
        tokens = model.generate(**inputs, max_new_tokens=self.config.max_new_tokens, do_sample=False)
        answers = tokens[:, inputs["input_ids"].shape[1] :]
        texts: list[str] = processor.batch_decode(answers, skip_special_tokens=True)
        return texts

    def _load(self, name: str) -> tuple[Any, Any]:
        """The model and its processor."""
        if name not in self._loaded:
            try:
                self._loaded[name] = self._read(name)
            except Exception as error:
                is_offline = isinstance(error, OSError) and "couldn't connect" in str(error)
                self._broken[name] = UNREACHABLE if is_offline else one_line(error)
                raise
        return self._loaded[name]

    def _read(self, name: str) -> tuple[Any, Any]:
        trust = self.config.trust_remote_code
        raw, _ = PretrainedConfig.get_config_dict(name)
        check_network_config(raw, Path(name, "config.json"))
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=trust)
        processor.tokenizer.padding_side = "left"  # all answers in a batch then begin at the same token
        device_map = self.config.device_map or {"": find_device(None)}
        model, found = AutoModelForImageTextToText.from_pretrained(
            name,
            output_loading_info=True,
            use_safetensors=True,  # never pickled weights
            dtype=self.config.dtype,
            device_map=device_map,
            quantization_config=_quantization(self.config.quantization),
            trust_remote_code=trust,
        )
        wrong = sorted(found["missing_keys"]) + sorted(each[0] for each in found["mismatched_keys"])
        if wrong:  # they would be random numbers
            raise CheckpointError(f"{len(wrong)} of its weights are missing, for instance {wrong[0]}.")
        return model.eval(), processor

    def _unload_if_needed(self, name: str) -> None:
        """Unload if memory is short, since the diffusion model or the model of the other level comes next."""
        if name not in self._loaded or self.config.keep_loaded:
            return
        model, _ = self._loaded[name]
        if self.config.keep_loaded is False or free_memory(model.device) < model.get_memory_footprint():
            del model
            self.unload()


def _check_folder(name: str) -> None:
    """Report a wrong path now. Any other name that is not a folder is looked up on the hub when it is needed."""
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise ConfigError(f"The folder of the captioner, {name}, does not exist.")


def _quantization(choice: Quantization | None) -> Any:
    """The choice as a quantization config of transformers."""
    if choice is None:
        return None
    if choice.startswith("bitsandbytes"):
        return BitsAndBytesConfig(load_in_4bit=choice.endswith("4bit"), load_in_8bit=choice.endswith("8bit"))
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())
