"""LPIPS and DISTS from a folder of weights: random ones here, since nothing may be downloaded."""

from __future__ import annotations

import socket
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from xpsr_sdk.errors import CheckpointError, ConfigError, ImageError
from xpsr_sdk.evaluation.perceptual import Perceptual
from xpsr_sdk.evaluation.report import evaluate_folders

# Channels out and in, kernel, stride, padding of AlexNet's convolutions, at their places in ``features``.
ALEXNET = {0: (64, 3, 11, 4, 2), 3: (192, 64, 5, 1, 2), 6: (384, 192, 3, 1, 1), 8: (256, 384, 3, 1, 1)}
ALEXNET[10] = (256, 256, 3, 1, 1)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    random = torch.Generator().manual_seed(0)
    features, heads = {}, {}
    for index, (place, (out, into, side, _, _)) in enumerate(ALEXNET.items()):
        weight = torch.randn(out, into, side, side, generator=random) / (into * side * side) ** 0.5
        features |= {f"features.{place}.weight": weight, f"features.{place}.bias": torch.zeros(out)}
        heads[f"lin{index}.model.1.weight"] = torch.rand(1, out, 1, 1, generator=random)
    save_file(features, folder / "alexnet-features.safetensors")
    (folder / "pyiqa").mkdir()
    torch.save(heads, folder / "pyiqa" / "LPIPS_v0.1_alex-00000000.pth")
    return folder


@pytest.fixture(scope="module")
def lpips(weights):
    pytest.importorskip("pyiqa")
    return Perceptual("lpips", weights=weights)


def picture(seed, height=48, width=64):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def lpips_written_out(a, b, features, heads):
    """LPIPS v0.1 as its paper defines it."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = torch.stack([torch.tensor(image) / 127.5 - 1 for image in (a, b)])
    x = ((x - shift) / scale).permute(0, 3, 1, 2)
    total = 0.0
    for index, (place, (_, _, _, stride, padding)) in enumerate(ALEXNET.items()):
        if place in (3, 6):
            x = F.max_pool2d(x, 3, 2)
        weight, bias = features[f"features.{place}.weight"], features[f"features.{place}.bias"]
        x = F.relu(F.conv2d(x, weight, bias, stride, padding))
        first, second = F.normalize(x, dim=1)
        difference = (first - second) ** 2 * heads[f"lin{index}.model.1.weight"][0]
        total += float(difference.sum(0).mean())
    return total


def test_lpips_is_its_definition_with_the_given_weights(weights, lpips):
    from safetensors.torch import load_file

    features = load_file(weights / "alexnet-features.safetensors")
    heads = torch.load(weights / "pyiqa" / "LPIPS_v0.1_alex-00000000.pth", weights_only=True)
    expected = lpips_written_out(picture(0), picture(1), features, heads)
    assert lpips(picture(0), picture(1)) == pytest.approx(expected, rel=1e-4)
    assert lpips(picture(0), picture(0)) == 0
    assert "pyiqa" in lpips.description


def test_lpips_in_a_report(weights, lpips, tmp_path):
    for folder, seed in (("pred", 0), ("hr", 1)):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture(seed)).save(tmp_path / folder / "a.png")
    report = evaluate_folders(tmp_path / "pred", tmp_path / "hr", metrics=["lpips"], weights=weights)
    assert report.means["lpips"] == lpips(picture(0), picture(1))


def test_torchvision_is_left_as_it_was(lpips):
    import torchvision

    assert torchvision.models.alexnet.__module__ == "torchvision.models.alexnet"


def test_images_too_small_are_refused(lpips):
    with pytest.raises(ImageError, match="at least 32 pixels a side, not 64 x 20"):
        lpips(picture(0, height=20), picture(1, height=20))


def test_a_missing_file_is_named_with_its_folder(weights):
    pytest.importorskip("pyiqa")
    with pytest.raises(
        CheckpointError, match=r"DISTS needs vgg16-\*\.safetensors .* \S*weights\S* holds none"
    ) as error:
        Perceptual("dists", weights=weights)
    assert str(error.value).endswith("python -m tests.measurements.metric_weights in a clone of the repository.")


def test_a_missing_folder_is_named(tmp_path):
    pytest.importorskip("pyiqa")
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        Perceptual("lpips", weights=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no tensors", "cannot be read"),
        ({"lin0.model.1.weight": torch.zeros(1)}, "does not hold the tensors that LPIPS needs: lin0"),
        ({f"lin{i}.model.1.weight": torch.zeros(1, 7, 1, 1) for i in range(5)}, "does not fit LPIPS"),
    ],
)
def test_a_wrong_file_is_named(weights, tmp_path, content, words):
    pytest.importorskip("pyiqa")
    (tmp_path / "alexnet-features.safetensors").symlink_to(weights / "alexnet-features.safetensors")
    heads = tmp_path / "LPIPS_v0.1_alex-0.pth"
    if isinstance(content, bytes):
        heads.write_bytes(content)
    else:
        torch.save(content, heads)
    with pytest.raises(CheckpointError, match=rf"LPIPS_v0.1_alex-0\.pth.* {words}"):
        Perceptual("lpips", weights=tmp_path)


def test_without_network_and_folder_the_folder_is_asked_for(tmp_path, monkeypatch):
    pytest.importorskip("pyiqa")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"cannot be downloaded .*: name a folder"):
        Perceptual("lpips")


def test_without_pyiqa_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(ConfigError, match=r"pip install 'xpsr-sdk\[metrics\]'"):
        Perceptual("lpips")
