"""The tokenizer of CLIP, which all Stable Diffusions use, and which single files leave out.

``clip_merges.txt.gz`` holds the merges of OpenAI's ``bpe_simple_vocab_16e6.txt`` that CLIP uses (208 kB; MIT licence,
see ``clip_merges.LICENSE``). The vocabulary follows from them.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

MERGES = Path(__file__).with_name("clip_merges.txt.gz")
START, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY = 49408
"""The number of tokens."""


def write_clip_tokenizer(folder: Path, padding: str = END) -> None:
    """Write the tokenizer into a folder, in the form of transformers.

    Args:
        folder: The folder, which is made.
        padding: The token that fills up a text: the end token for SD 1.x, ``!`` for OpenCLIP's text encoders.
    """
    folder.mkdir(parents=True)
    merges = gzip.decompress(MERGES.read_bytes()).decode("utf-8").splitlines()
    symbols = _byte_symbols()
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *(merge.replace(" ", "") for merge in merges)]
    vocabulary = {token: i for i, token in enumerate([*tokens, START, END])}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "add_prefix_space": False,
        "do_lower_case": True,
        "model_max_length": 77,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": padding,
    }
    texts = {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        "tokenizer_config.json": json.dumps(config, indent=2),
        "special_tokens_map.json": json.dumps({name: config[name] for name in config if name.endswith("_token")}),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def _byte_symbols() -> list[str]:
    """A printable symbol for each byte: itself where it is printable, else one beyond the first 256."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = len([byte for byte in range(256) if byte not in printable])
    return [chr(code) for code in (*printable, *range(256, 256 + others))]
