"""Makes the tokenizer of nano's base: CLIP's kind, with a small vocabulary.

    python examples/train_nano/make_tokenizer.py examples/train_nano/base/tokenizer

Every word that the `measured` provider and XPSR's added prompts use becomes one token; all other text is read in
pieces.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from xpsr_sdk import ModelDefaults
from xpsr_sdk.toolkit import MEASURED_PHRASES

SIZE, TOKENS = 1000, 48
START, END = "<|startoftext|>", "<|endoftext|>"


def main(folder: Path) -> None:
    defaults = ModelDefaults()
    sentences = [*MEASURED_PHRASES, defaults.positive, defaults.negative, defaults.low_negative]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # As CLIP splits text: words, single digits, and runs of anything else.
            pre_tokenizers.Split(_clip_pattern(), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator([s.lower() for s in sentences * 4], trainer)
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(f"{c}</w>" for c in alphabet), *("".join(merge) for merge in merges), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TOKENS,
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    print(f"{len(vocabulary)} tokens in {folder}")


def _clip_pattern() -> object:
    from tokenizers import Regex

    return Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
