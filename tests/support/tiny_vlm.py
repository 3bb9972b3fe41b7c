"""Vision-language models of real architectures, small and with random weights, with real processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMProcessor,
)

WORDS = (
    *("a", "the", "photo", "of", "house", "sky", "river", "street", "dark", "bright", "blurry", "sharp", "noisy"),
    *("clean", "with", "and", "is", "in", "on", "old", "red", "green", "blue", "USER", "ASSISTANT", ":", ".", ","),
    *("Please", "provide", "descriptive", "summary", "content", "this", "image", "Describe", "evaluate", "quality"),
)
TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.5,  # the answer depends on the picture and the question
}
TURN = "{% if message.role == 'user' %}USER : {% else %}ASSISTANT : {% endif %}"
PART = "{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }} {% endif %}"
TEMPLATE = (
    "{% for message in messages %}" + TURN + "{% for part in message.content %}" + PART + "{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT : {% endif %}"
)  # fmt: skip


def tokenizer(**special_tokens: str) -> PreTrainedTokenizerFast:
    """Splits at spaces; further special tokens become attributes, as those of these models' tokenizers are."""
    special = ["<unk>", "<pad>", "<s>", "</s>", *special_tokens.values()]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=special_tokens,
    )


def write_llava(folder: Path) -> None:
    """LLaVA-1.5's kind."""
    words = tokenizer(image_token="<image>")
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=64,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(vocab_size=len(words), **TEXT),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
    )
    images = _images("CLIPImageProcessor", size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        images,
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    _write(LlavaForConditionalGeneration, config, processor, folder)


def write_qwen(folder: Path) -> None:
    """Qwen2.5-VL's kind."""
    words = tokenizer(
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
        vision_bos_token="<|vision_start|>",
        vision_eos_token="<|vision_end|>",
    )
    ids = {name: words.convert_tokens_to_ids(getattr(words, name)) for name in ("image_token", "video_token")}
    marks = {name: words.convert_tokens_to_ids(f"<|vision_{name}|>") for name in ("start", "end")}
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": TEXT["hidden_size"],
            "fullatt_block_indexes": [1],
            "initializer_range": 0.5,
        },
        text_config={
            "vocab_size": len(words),
            "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [4, 4, 8]},
            **TEXT,
        },
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        vision_start_token_id=marks["start"],
        vision_end_token_id=marks["end"],
    )
    images = _images("Qwen2VLImageProcessor", min_pixels=28 * 28, max_pixels=56 * 56)
    template = TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    videos = _videos("Qwen2VLVideoProcessor")
    _write(
        Qwen2_5_VLForConditionalGeneration,
        config,
        Qwen2_5_VLProcessor(images, words, videos, chat_template=template),
        folder,
    )


def write_smolvlm(folder: Path) -> None:
    """SmolVLM's kind."""
    words = tokenizer(
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )
    config = SmolVLMConfig(
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "initializer_range": 0.5,
        },
        text_config={"model_type": "llama", "vocab_size": len(words), "pad_token_id": 1, **TEXT},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    images = _images(
        "SmolVLMImageProcessor",
        size={"longest_edge": 32},
        max_image_size={"longest_edge": 32},
        do_image_splitting=False,
    )
    processor = SmolVLMProcessor(
        images,
        words,
        _videos("SmolVLMVideoProcessor"),
        image_seq_len=4,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    _write(SmolVLMForConditionalGeneration, config, processor, folder)


def _images(name: str, **options: Any) -> Any:
    import transformers

    return getattr(transformers, name)(**options)


_videos = _images


def _write(model: Any, config: Any, processor: Any, folder: Path) -> None:
    torch.manual_seed(0)
    config.text_config.bos_token_id, config.text_config.eos_token_id, config.text_config.pad_token_id = 2, 3, 1
    built = model(config)
    built.generation_config.update(bos_token_id=2, eos_token_id=3, pad_token_id=1)
    built.save_pretrained(folder)
    processor.save_pretrained(folder)
