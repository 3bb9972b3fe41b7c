"""Writes a trained nano in float16, as it is shipped, from a whole model or from a model and a checkpoint.

python examples/train_nano/export.py runs/nano-2-xpsr/checkpoint-1250 -o xpsr_sdk/presets/nano
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from xpsr_sdk import build_pipeline


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("base", type=Path, help="checkpoint of a stage that trained the text encoder: a whole model")
    parser.add_argument("checkpoint", type=Path, nargs="?", help="checkpoint of a stage on top of it")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    pipeline = build_pipeline(model=str(arguments.base), checkpoint=arguments.checkpoint, dtype="float16", device="cpu")
    pipeline.save_pretrained(arguments.output)
    size = sum(file.stat().st_size for file in arguments.output.rglob("*") if file.is_file())
    print(f"{arguments.output}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
