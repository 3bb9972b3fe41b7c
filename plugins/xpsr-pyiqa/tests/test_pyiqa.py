"""The metrics of pyiqa with weights from a folder: random ones here, since nothing may be downloaded."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pyiqa
import pytest
import scipy.io
import torch
import torch.nn.functional as F
import xpsr_pyiqa
from click.testing import CliRunner
from PIL import Image
from pyiqa.archs.clip_model import CLIP
from pyiqa.default_model_configs import DEFAULT_CONFIGS
from safetensors.torch import load_file, save_file
from torch import Tensor
from xpsr_pyiqa.fetch import fetch
from xpsr_pyiqa.inception_distances import FrechetInceptionDistance, KernelInceptionDistance
from xpsr_pyiqa.metric import PyiqaMetric
from xpsr_pyiqa.names import BUILT_IN, LEFT_OUT, METRICS

from xpsr_sdk import CheckpointError, ConfigError, Registry, evaluate_folders
from xpsr_sdk.testing import check_distribution, check_metric, tiny
from xpsr_sdk.toolkit import to_tensor

# Channels out and in, kernel, stride, padding of AlexNet's convolutions, at their places in ``features``.
ALEXNET = {0: (64, 3, 11, 4, 2), 3: (192, 64, 5, 1, 2), 6: (384, 192, 3, 1, 1), 8: (256, 384, 3, 1, 1)}
ALEXNET[10] = (256, 256, 3, 1, 1)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry([xpsr_pyiqa])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LPIPS, in the forms that people have; CNNIQA as pyiqa saves it; NIQE as MATLAB does."""
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
    torch.manual_seed(0)
    network = pyiqa.create_metric("cnniqa", pretrained=None, device=torch.device("cpu")).net
    torch.save({"params": network.state_dict()}, folder / "CNNIQA_koniq10k.pth")
    return folder


def picture(seed: int, height: int = 48, width: int = 64) -> Tensor:
    return to_tensor(tiny.photo(width, height, seed))


def lpips_written_out(a: Tensor, b: Tensor, features: dict[str, Tensor], heads: dict[str, Tensor]) -> float:
    """LPIPS v0.1 as its paper defines it."""
    shift, scale = (torch.tensor(x).view(3, 1, 1) for x in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    x = (torch.cat([a, b]) * 2 - 1 - shift) / scale
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


def test_every_metric_of_pyiqa_is_offered_or_has_a_reason() -> None:
    assert {*METRICS, *BUILT_IN, *LEFT_OUT} == set(DEFAULT_CONFIGS)


def test_the_distribution() -> None:
    check_distribution("xpsr-pyiqa")


@pytest.mark.parametrize("name", ["lpips", "cnniqa"])
def test_the_contract(name: str, weights: Path, registry: Registry) -> None:
    check_metric({"name": name, "weights": str(weights)}, registry)


def test_lpips_is_its_definition_with_the_given_weights(weights: Path, registry: Registry) -> None:
    features = load_file(weights / "alexnet-features.safetensors")
    heads = torch.load(weights / "pyiqa" / "LPIPS_v0.1_alex-00000000.pth", weights_only=True)
    lpips = registry.create("metric", {"name": "lpips", "weights": str(weights)})
    expected = lpips_written_out(picture(0), picture(1), features, heads)
    assert lpips.measure(picture(0), picture(1)).item() == pytest.approx(expected, rel=1e-4)
    assert lpips.measure(picture(0), picture(0)).item() == 0
    assert lpips.lower_is_better
    assert "net alex, version 0.1" in lpips.details
    assert "LPIPS_v0.1_alex-00000000.pth " in lpips.details


def test_gradients_reach_the_photo(weights: Path, registry: Registry) -> None:
    photo = picture(0).requires_grad_()
    lpips = registry.create("metric", {"name": "lpips", "weights": str(weights)})
    lpips.measure(photo, picture(1)).sum().backward()
    assert photo.grad is not None
    assert photo.grad.abs().sum() > 0


def test_pyiqa_s_own_niqe_is_the_built_in_one(tmp_path: Path, registry: Registry) -> None:
    own = registry.create("metric", {"name": "niqe", "luma": "yiq"})
    parameters = {
        "mu_prisparam": own._parameters["mean"].numpy()[None],
        "cov_prisparam": own._parameters["covariance"].numpy(),
    }
    scipy.io.savemat(tmp_path / "niqe_modelparameters.mat", parameters)
    theirs = registry.create("metric", {"name": "pyiqa", "metric": "niqe", "weights": str(tmp_path)})
    photo = picture(0, 200, 300)
    assert own.measure(photo.double()).item() == pytest.approx(theirs.measure(photo, None).item(), rel=0.01)


def test_what_is_in_pyiqa_s_place_is_left_as_it_was(weights: Path) -> None:
    before = torch.load, torch.hub.get_dir, torch.nn.Module.load_state_dict
    PyiqaMetric(PyiqaMetric.Config(weights=weights))
    assert (torch.load, torch.hub.get_dir, torch.nn.Module.load_state_dict) == before


def test_measuring_leaves_the_generators_as_they_were(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lpips = PyiqaMetric(PyiqaMetric.Config(weights=weights))
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    before = torch.get_rng_state()
    lpips.measure(picture(0), picture(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert not seeded


def test_a_metric_without_weights_is_skipped_and_the_others_are_measured(
    weights: Path, registry: Registry, tmp_path: Path
) -> None:
    for folder, seed in (("pred", 0), ("hr", 1)):
        (tmp_path / folder).mkdir()
        tiny.photo(64, 48, seed).save(tmp_path / folder / "a.png")
    folders = tmp_path / "pred", tmp_path / "hr"
    report = evaluate_folders(*folders, metrics=["lpips", "musiq"], weights=weights, registry=registry)
    assert list(report.means) == ["lpips"]
    assert "MUSIQ needs the file musiq_koniq_ckpt-" in report.skipped["musiq"]


def test_a_missing_file_is_named_with_its_folder(weights: Path) -> None:
    with pytest.raises(CheckpointError, match=r"DISTS needs the file vgg16-397923af\.pth, and \S*weights\S* does not"):
        PyiqaMetric(PyiqaMetric.Config(metric="dists", weights=weights))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        PyiqaMetric(PyiqaMetric.Config(weights=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no tensors", r"LPIPS cannot be built from its weights.*LPIPS_v0\.1_alex-0\.pth"),
        ({f"lin{i}.model.1.weight": torch.zeros(1, 7, 1, 1) for i in range(5)}, r"size mismatch"),
        ({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, r"no weights for lin\d\.model\.1\.weight"),
    ],
)
def test_a_wrong_file_is_named(weights: Path, tmp_path: Path, content: Any, words: str) -> None:
    (tmp_path / "alexnet-features.safetensors").symlink_to(weights / "alexnet-features.safetensors")
    heads = tmp_path / "LPIPS_v0.1_alex-0.pth"
    if isinstance(content, bytes):
        heads.write_bytes(content)
    else:
        torch.save(content, heads)
    with pytest.raises(CheckpointError, match=words):
        PyiqaMetric(PyiqaMetric.Config(weights=tmp_path))


def test_without_network_and_folder_the_folder_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"cannot be downloaded .*: name a folder .*--weights"):
        PyiqaMetric()


def test_the_weights_of_a_metric_are_gathered_in_a_folder(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    names = {"alexnet-owt-7be5be79.safetensors", "LPIPS_v0.1_alex-df73285e.pth"}
    (tmp_path / "hub").mkdir()
    shutil.copy(weights / "alexnet-features.safetensors", tmp_path / "hub" / "alexnet-owt-7be5be79.safetensors")
    shutil.copy(weights / "pyiqa" / "LPIPS_v0.1_alex-00000000.pth", tmp_path / "hub" / "LPIPS_v0.1_alex-df73285e.pth")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "LPIPS_v0.1_alex-df73285e.pth").write_bytes(b"half of an earlier copy")
    result = CliRunner().invoke(fetch, ["lpips", "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert {file.name for file in (tmp_path / "out").iterdir()} == names
    PyiqaMetric(PyiqaMetric.Config(weights=tmp_path / "out"))


def test_an_unknown_metric_to_gather_is_told_before_anything_is_done(tmp_path: Path) -> None:
    result = CliRunner().invoke(fetch, ["lpips", "lpipss", "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "Did you mean 'lpips'" in result.output
    assert not (tmp_path / "out").exists()


def test_without_a_folder_weights_of_another_version_are_not_used(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    shutil.copytree(weights, tmp_path / "hub")
    with pytest.raises(CheckpointError, match=r"cannot be downloaded"):
        PyiqaMetric()


@pytest.mark.parametrize("metric", ["clipiqa", "liqe"])
def test_metrics_of_clip_are_built_twice_and_leave_the_cache_as_it_was(
    metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "clip").mkdir(parents=True)
    vision = (1, 1, 1, 1) if metric == "clipiqa" else 1
    torch.manual_seed(0)
    stand_in = CLIP(8, 32, vision, 64 if vision == 1 else 2, 32, 77, 49408, 64, 1, 1)
    file = tmp_path / "hub" / "clip" / ("RN50.pt" if metric == "clipiqa" else "ViT-B-32.pt")
    torch.save(stand_in.state_dict(), file)
    if metric == "liqe":
        state = {f"clip_model.{name}": tensor for name, tensor in stand_in.state_dict().items()}
        torch.save({"params": state}, tmp_path / "hub" / "liqe_koniq.pt")
    before = sorted(tmp_path.rglob("*"))
    first, second = (PyiqaMetric(PyiqaMetric.Config(metric=metric)) for _ in range(2))
    assert first.details == second.details
    assert file.name in first.details
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("metric", "words"), [("lpipss", "Did you mean 'lpips'"), ("clipscore", "needs a caption")])
def test_a_metric_that_there_is_not(metric: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PyiqaMetric(PyiqaMetric.Config(metric=metric))


def test_fid_and_kid_are_their_definitions() -> None:
    random = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 5, generator=random, dtype=torch.float64) * scale for n, scale in ((40, 1.0), (30, 1.5)))
    covariances = x.T.cov(), y.T.cov()
    root = torch.linalg.eigvals(covariances[0] @ covariances[1]).sqrt().real.sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + covariances[0].trace() + covariances[1].trace() - 2 * root
    fid, kid = (object.__new__(cls) for cls in (FrechetInceptionDistance, KernelInceptionDistance))
    assert fid.compare(x, y) == pytest.approx(float(expected))
    assert fid.compare(x, x) == pytest.approx(0, abs=1e-9)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / 5 + 1) ** 3

    within = [(k.sum() - k.trace()) / (n * (n - 1)) for k, n in ((kernel(x, x), 40), (kernel(y, y), 30))]
    assert kid.compare(x, y) == pytest.approx(float(sum(within) - 2 * kernel(x, y).mean()))


def test_fid_reads_the_weights_of_its_folder(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(CheckpointError, match=r"FID needs the file pt_inception-2015-12-05-6726825d\.pth"):
        registry.create("metric", {"name": "fid", "weights": str(tmp_path)})


@pytest.mark.parametrize("border", [0, 4])
def test_the_built_in_psnr_and_ssim_are_those_of_the_published_scripts(
    tmp_path: Path, registry: Registry, border: int
) -> None:
    original = tiny.photo(64, 48, 1)
    restored = Image.blend(original, tiny.photo(64, 48, 2), 0.2)
    for name, image in (("original", original), ("restored", restored)):
        image.save(tmp_path / f"{name}.png")
    for name, own in (("psnr", "psnr"), ("ssim", "ssim-pyiqa")):
        options = {"test_y_channel": True, "color_space": "ycbcr", "crop_border": border}
        theirs = pyiqa.create_metric(name, device=torch.device("cpu"), **options)
        expected = theirs(to_tensor(restored).float(), to_tensor(original).float()).item()
        files = (tmp_path / "restored.png", tmp_path / "original.png")
        report = evaluate_folders(*files, metrics=[own], crop=border, registry=registry)
        assert report.means[own] == pytest.approx(expected, rel=1e-5)
