"""Makes training pairs with mild degradations, like photos of good cameras: little blur, noise and JPEG.

python examples/train_nano/make_mild_pairs.py data/crops -o data/nano-mild
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from xpsr_sdk import prepare_pairs

MILD = {
    "name": "realesrgan",
    "first": {
        "sigma": (0.2, 2.4),
        "sinc_probability": 0.05,
        "resize_range": (0.4, 1.2),
        "gaussian_sigma": (0.2, 5.0),
        "poisson_scale": (0.02, 0.4),
        "jpeg_quality": (80, 100),
    },
    "second": {
        "blur_probability": 0.4,
        "sigma": (0.2, 0.7),
        "resize_range": (0.7, 1.1),
        "gaussian_sigma": (0.2, 3.0),
        "poisson_scale": (0.02, 0.3),
        "jpeg_quality": (80, 100),
    },
    "final_sinc_probability": 0.4,
}


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("crops", type=Path, help="folder of sharp crops")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    report = prepare_pairs(
        arguments.crops,
        arguments.output,
        degradation=MILD,
        upscaler="realesrgan-x4plus",
        crop=256,
        crops_a_photo=1,
        seed=32,
    )
    print(f"{report.samples} pairs are in {arguments.output}")


if __name__ == "__main__":
    main()
