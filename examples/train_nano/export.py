"""Writes the shipped model: nano's first stage as the base, the second on top of it, in float16.

    python examples/train_nano/export.py runs/nano-1-base/checkpoint-N runs/nano-2-xpsr/checkpoint-N \
        -o xpsr_sdk/presets/nano
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from xpsr_sdk.cli.output import quiet_libraries


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("base", type=Path, help="checkpoint of the first stage")
    parser.add_argument("checkpoint", type=Path, help="checkpoint of the second stage")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    quiet_libraries()
    from xpsr_sdk import build_pipeline  # after the libraries are quiet, since it loads them

    pipeline = build_pipeline(model=str(arguments.base), checkpoint=arguments.checkpoint, dtype="float16", device="cpu")
    pipeline.save_pretrained(arguments.output)
    size = sum(file.stat().st_size for file in arguments.output.rglob("*") if file.is_file())
    print(f"{arguments.output}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
