"""Metrics that break a clause each are caught."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from tests.support.registries import registry_with
from xpsr_sdk import FolderMetric, Metric, Options, Registry
from xpsr_sdk.testing import ContractViolation, check_metric, metrics
from xpsr_sdk.testing.clauses import CLAUSES, COMMON


class Honest:
    """The mean absolute error."""

    class Config(Options):
        pass

    needs_reference: Any = True
    lower_is_better: Any = True
    min_side: Any = 1
    details: Any = "mean absolute error"

    def __init__(self, config: Config) -> None:
        pass

    def measure(self, images: Tensor, references: Tensor) -> Tensor:
        return (images - references).abs().mean(dim=(1, 2, 3))


class HonestOfFolders(Honest):
    """The distance of mean colours and contrasts."""

    def measure(self, images: Tensor, references: Tensor) -> Tensor:
        assert references is None
        return torch.cat([images.mean(dim=(2, 3)), images.diff(dim=3).abs().mean(dim=(2, 3))], dim=1)

    def compare(self, features: Tensor, references: Tensor) -> Any:
        return float((features.mean(dim=0) - references.mean(dim=0)).norm())


class SaysYes(Honest):
    lower_is_better = "yes"


class NeedsHalfAPixel(Honest):
    min_side = 0.5


class HasNoDetails(Honest):
    details = " "


class TellsTheTime(Honest):
    calls = 0

    def __init__(self, config: Honest.Config) -> None:
        TellsTheTime.calls += 1
        self.details = f"built {self.calls} times"


class GivesOneFigure(Honest):
    def measure(self, images: Tensor, references: Tensor) -> Tensor:
        return super().measure(images, references).mean()


class GivesFigures(HonestOfFolders):
    def measure(self, images: Tensor, references: Tensor) -> Tensor:
        return super().measure(images, references).mean(dim=1)


class NeedsMoreThanItSays(Honest):
    def measure(self, images: Tensor, references: Tensor) -> Tensor:
        return super().measure(images.unfold(3, 3, 1).mean(dim=4), references.unfold(3, 3, 1).mean(dim=4))


class HalfPrecision(Honest):
    def measure(self, images: Tensor, references: Tensor) -> Tensor:
        return super().measure(images, references) if images.dtype == torch.float64 else torch.zeros(len(images))


class WritesIntoTheImages(Honest):
    def measure(self, images: Tensor, references: Tensor) -> Tensor:
        return super().measure(images.mul_(0.99), references)


class DrawsFromNumpy(Honest):
    def measure(self, images: Tensor, references: Tensor) -> Tensor:
        return super().measure(images, references) + 1e-9 * float(np.random.rand())


class Remembers(Honest):
    calls = 0

    def measure(self, images: Tensor, references: Tensor) -> Tensor:
        self.calls += 1
        return super().measure(images, references) + 0.01 * self.calls


class MeasuresTheBatch(Honest):
    def measure(self, images: Tensor, references: Tensor) -> Tensor:
        return super().measure(images, references).mean().expand(len(images))


class MeasuresSmallErrorsOfTheBatch(Honest):
    def measure(self, images: Tensor, references: Tensor) -> Tensor:
        return 1e-4 * (images - references).abs().mean().expand(len(images))


class DividesByTheError(Honest):
    def measure(self, images: Tensor, references: Tensor) -> Tensor:
        error = super().measure(images, references)
        return error**2 / error


class SinglePrecision(Honest):
    def measure(self, images: Tensor, references: Tensor) -> Tensor:
        return conv2d(images - references, torch.ones(1, 3, 1, 1)).abs().mean(dim=(1, 2, 3))


class ListsItsLicenses(Honest):
    license = ("MIT", "CC BY-NC 4.0")


class IsStorableNow(Honest):
    storable = "no"


class PrefersNoise(Honest):
    lower_is_better = False


class ComparesWithATensor(HonestOfFolders):
    def compare(self, features: Tensor, references: Tensor) -> Any:
        return (features.mean(dim=0) - references.mean(dim=0)).norm()


class ChangesTheFeatures(HonestOfFolders):
    def compare(self, features: Tensor, references: Tensor) -> Any:
        return super().compare(features.clamp_(max=0.5), references)


class SeedsTorch(HonestOfFolders):
    def compare(self, features: Tensor, references: Tensor) -> Any:
        torch.manual_seed(0)
        return super().compare(features, references)


class ComparesPairs(HonestOfFolders):
    def compare(self, features: Tensor, references: Tensor) -> Any:
        return float((features - references).norm()) if len(features) == len(references) else None


class ComparesTheFirst(HonestOfFolders):
    def compare(self, features: Tensor, references: Tensor) -> Any:
        return super().compare(features[:1], references[:1])


class FindsNoFigure(HonestOfFolders):
    def compare(self, features: Tensor, references: Tensor) -> Any:
        return float("nan")


class PrefersNoisyFolders(HonestOfFolders):
    lower_is_better = False


BROKEN = [
    ("attributes", SaysYes),
    ("construction", NeedsHalfAPixel),
    ("details", HasNoDetails),
    ("details", TellsTheTime),
    ("shape", GivesOneFigure),
    ("shape", GivesFigures),
    ("exceptions", NeedsMoreThanItSays),
    ("dtype", HalfPrecision),
    ("inputs", WritesIntoTheImages),
    ("determinism", DrawsFromNumpy),
    ("determinism", Remembers),
    ("batch", MeasuresTheBatch),
    ("batch", MeasuresSmallErrorsOfTheBatch),
    ("shape", DividesByTheError),
    ("exceptions", SinglePrecision),
    ("attributes", ListsItsLicenses),
    ("attributes", IsStorableNow),
    ("direction", PrefersNoise),
    ("compare", ChangesTheFeatures),
    ("compare", SeedsTorch),
    ("compare", ComparesPairs),
    ("compare", ComparesTheFirst),
    ("compare", FindsNoFigure),
    ("compare", ComparesWithATensor),
    ("compare", PrefersNoisyFolders),
]


@pytest.mark.parametrize("part", [Honest, HonestOfFolders])
def test_an_honest_one_passes(part: type) -> None:
    check_metric("part", registry_with("metric", part))


@pytest.mark.parametrize(("clause", "part"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_one_is_caught(clause: str, part: type) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_metric("part", registry_with("metric", part))
    assert caught.value.clause == clause, str(caught.value)


def test_what_compares_features_is_a_metric_of_folders() -> None:
    image, folder = (part(Honest.Config()) for part in (Honest, HonestOfFolders))
    assert isinstance(image, Metric)
    assert isinstance(folder, Metric)
    assert [isinstance(metric, FolderMetric) for metric in (image, folder)] == [False, True]


class KeepsItsWeightsOnTheCPU(Honest):
    def measure(self, images: Tensor, references: Tensor) -> Tensor:
        if images.is_meta:
            raise RuntimeError("Expected all tensors to be on the same device")
        return super().measure(images, references)


def test_weights_left_on_another_device_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "devices", lambda: [torch.device("cpu"), torch.device("meta")])
    with pytest.raises(ContractViolation) as caught:
        check_metric("part", registry_with("metric", KeepsItsWeightsOnTheCPU))
    assert caught.value.clause == "device", str(caught.value)


def test_every_clause_has_a_broken_metric() -> None:
    assert {clause for clause, _ in BROKEN} | set(COMMON) | {"device"} == set(CLAUSES["metric"])


@pytest.mark.parametrize("choice", ["psnr", "ssim", {"name": "psnr", "channel": "rgb"}, "niqe"], ids=str)
def test_the_built_in_ones_pass(choice: Any) -> None:
    check_metric(choice, Registry([]))
