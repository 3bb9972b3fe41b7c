"""Replaces the trained fusion of a model by an untrained one, so that fusions can be compared by more training.

python examples/train_nano/fresh_fusion.py gated -o models/gated
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import torch

from xpsr_sdk import build_pipeline, default_registry
from xpsr_sdk.toolkit import init_fusions


def with_fresh_fusion(network: Any, fusion: str) -> Any:
    """A copy of a U-Net or ControlNet with untrained fusions of another kind."""
    fresh = type(network).from_config({**network.config, "fusion": fusion})
    kept = {name: tensor for name, tensor in network.state_dict().items() if ".fusions." not in name}
    fresh.load_state_dict(kept, strict=False)
    init_fusions(fresh)
    return fresh


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("fusion", help="as xpsr plugins lists them")
    parser.add_argument("--model", default="nano", help="preset or folder")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    pipeline = build_pipeline(model=arguments.model, device="cpu")
    with default_registry().in_force():  # where the new fusions are looked up
        pipeline.unet = with_fresh_fusion(pipeline.unet, arguments.fusion)
        pipeline.controlnet = with_fresh_fusion(pipeline.controlnet, arguments.fusion)
    pipeline.save_pretrained(arguments.output)
    print(arguments.output)


if __name__ == "__main__":
    main()
