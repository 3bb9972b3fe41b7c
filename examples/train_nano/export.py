"""Writes a trained nano in float16, as it is shipped, from a whole model or from a model and a checkpoint.

python examples/train_nano/export.py runs/nano-2-xpsr/checkpoint-1250 -o xpsr_sdk/presets/nano
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path

from xpsr_sdk import build_pipeline


def write_vocabulary(folder: Path) -> None:
    """Write the tokenizer's vocabulary in the files that transformers 4 reads, which transformers 5 leaves out."""
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("base", type=Path, help="checkpoint of a stage that trained the text encoder: a whole model")
    parser.add_argument("checkpoint", type=Path, nargs="?", help="checkpoint of a stage on top of it")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    pipeline = build_pipeline(model=str(arguments.base), checkpoint=arguments.checkpoint, dtype="float16", device="cpu")
    pipeline.save_pretrained(arguments.output)
    write_vocabulary(arguments.output / "tokenizer")
    size = sum(file.stat().st_size for file in arguments.output.rglob("*") if file.is_file())
    print(f"{arguments.output}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
