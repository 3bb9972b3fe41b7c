"""How many crops a second one core draws out of photos, degrades and describes, as a worker of training does.

python -m tests.measurements.online_degradation photos
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from pathlib import Path

import torch

from xpsr_sdk import Registry
from xpsr_sdk.training.config import DataSection
from xpsr_sdk.training.data import TrainingData

SAMPLES = 20


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--crop", type=int, default=512)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = TrainingData(DataSection(folders=(arguments.photos,), crop=arguments.crop, hr_as_input=0), 0, Registry([]))
    data.sample(0)
    began = time.process_time()
    for position in range(1, 1 + SAMPLES):
        data.sample(position)
    print(f"{SAMPLES / (time.process_time() - began):.1f} crops of {arguments.crop} pixels a second of one core")


if __name__ == "__main__":
    main()
