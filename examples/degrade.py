"""Degrades a sharp photo as the training pairs are degraded.

python examples/degrade.py examples/photo-original.jpg degraded.jpg --seed 16
"""

from argparse import ArgumentParser
from pathlib import Path

import torch

from xpsr_sdk import default_registry
from xpsr_sdk.toolkit import read_image, to_image, to_tensor

parser = ArgumentParser(description=__doc__)
parser.add_argument("sharp", type=Path)
parser.add_argument("output", type=Path)
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()

degradation = default_registry().create("degradation_model", "realesrgan")
photo = read_image(arguments.sharp).image
width, height = (side // degradation.scale * degradation.scale for side in photo.size)
sharp = to_tensor(photo.crop((0, 0, width, height)))
degraded, drawn = degradation.degrade_with_record(sharp[0], torch.Generator().manual_seed(arguments.seed))
print(drawn)
# JPEG at this quality adds nothing that can be seen to what the degradation did.
to_image(degraded[None]).save(arguments.output, quality=98, subsampling=0)
