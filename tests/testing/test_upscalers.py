"""Upscalers that break a clause each are caught."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from tests.support.registries import registry_with
from xpsr_sdk import Options, Registry
from xpsr_sdk.testing import ContractViolation, check_upscaler, upscalers
from xpsr_sdk.testing.clauses import CLAUSES, COMMON


class Honest:
    """Bicubic, sharpened by what a blur of three pixels takes away."""

    class Config(Options):
        pass

    scale: Any = 2
    halo: Any = 3

    def __init__(self, config: Config) -> None:
        self.weights: Tensor | None = None

    def upscale(self, image: Tensor) -> Tensor:
        return self.enlarged(self.sharpened(image.float())).clamp(0, 1).to(image)

    def enlarged(self, image: Tensor) -> Tensor:
        return interpolate(image, scale_factor=2, mode="bicubic")

    def sharpened(self, image: Tensor) -> Tensor:
        return image + 0.5 * (image - avg_pool2d(pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1))

    def unload(self) -> None:
        pass


class ScaleIsAFloat(Honest):
    scale = 2.0


class ScaleIsZero(Honest):
    scale = 0


class HaloIsNegative(Honest):
    halo = -1


class HaloIsTooSmall(Honest):
    halo = 1


class LooksAtTheWholePhoto(Honest):
    def sharpened(self, image: Tensor) -> Tensor:
        return image - 0.4 * image.mean(dim=(2, 3), keepdim=True)


class LosesAColumn(Honest):
    def upscale(self, image: Tensor) -> Tensor:
        return super().upscale(image)[..., 1:]


class FailsAtOnePixel(Honest):
    def sharpened(self, image: Tensor) -> Tensor:
        return image + 0 * pad(image, (1, 1, 1, 1), mode="reflect")[..., 1:-1, 1:-1]


class Float32(Honest):
    def upscale(self, image: Tensor) -> Tensor:
        return super().upscale(image).float()


class FailsInBfloat16(Honest):
    def upscale(self, image: Tensor) -> Tensor:
        return super().upscale(torch.from_numpy(image.numpy()))


class Unclamped(Honest):
    def upscale(self, image: Tensor) -> Tensor:
        return self.enlarged(self.sharpened(image))


class DividesByTheContrast(Honest):
    def sharpened(self, image: Tensor) -> Tensor:
        return (image - image.amin()) / (image.amax() - image.amin())


class WritesIntoTheImage(Honest):
    def upscale(self, image: Tensor) -> Tensor:
        return super().upscale(image.mul_(0.99))


class HandsItBack(Honest):
    scale = 1

    def upscale(self, image: Tensor) -> Tensor:
        return image


class DrawsFromTorch(Honest):
    def sharpened(self, image: Tensor) -> Tensor:
        return image + 0.01 * torch.randn_like(image)


class DrawsFromNumpy(Honest):
    def sharpened(self, image: Tensor) -> Tensor:
        return image + 0.01 * float(np.random.default_rng().normal())


class Remembers(Honest):
    calls = 0

    def sharpened(self, image: Tensor) -> Tensor:
        self.calls += 1
        return image + 0.01 * self.calls


class StaysInHalfPrecision(Honest):
    weights: Tensor

    def __init__(self, config: Honest.Config) -> None:
        self.weights = torch.tensor(0.123456789)

    def sharpened(self, image: Tensor) -> Tensor:
        return image * self.weights.float()

    def upscale(self, image: Tensor) -> Tensor:
        self.weights = self.weights.to(image.dtype)
        return super().upscale(image)


class CentresTheBatch(Honest):
    def sharpened(self, image: Tensor) -> Tensor:
        return image - 0.2 * (image.mean() - 0.5)


class FirstImageForAll(Honest):
    def sharpened(self, image: Tensor) -> Tensor:
        return image[:1].expand_as(image)


class Mirrors(Honest):
    def sharpened(self, image: Tensor) -> Tensor:
        return image.flip(-1)


class SwapsColors(Honest):
    def sharpened(self, image: Tensor) -> Tensor:
        return image.flip(1)


class Negative(Honest):
    def sharpened(self, image: Tensor) -> Tensor:
        return 1 - image


class MovesByHalfAPixel(Honest):
    def enlarged(self, image: Tensor) -> Tensor:
        return super().enlarged(image).roll(1, -1)


class UnloadsForGood(Honest):
    def __init__(self, config: Honest.Config) -> None:
        self.weights = torch.ones(1)

    def sharpened(self, image: Tensor) -> Tensor:
        assert self.weights is not None, "no weights"
        return super().sharpened(image)

    def unload(self) -> None:
        self.weights = None


class UnloadsOnce(Honest):
    def upscale(self, image: Tensor) -> Tensor:
        self.weights = torch.ones(1)
        return super().upscale(image)

    def unload(self) -> None:
        del self.weights


class FailsAlways(Honest):
    def upscale(self, image: Tensor) -> Tensor:
        return {}["no key"]


BROKEN = [
    ("exceptions", FailsAlways),
    ("construction", ScaleIsAFloat),
    ("construction", ScaleIsZero),
    ("construction", HaloIsNegative),
    ("halo", HaloIsTooSmall),
    ("halo", LooksAtTheWholePhoto),
    ("shape", LosesAColumn),
    ("exceptions", FailsAtOnePixel),
    ("dtype", Float32),
    ("exceptions", FailsInBfloat16),
    ("range", Unclamped),
    ("range", DividesByTheContrast),
    ("inputs", WritesIntoTheImage),
    ("inputs", HandsItBack),
    ("determinism", DrawsFromTorch),
    ("determinism", DrawsFromNumpy),
    ("determinism", Remembers),
    ("determinism", StaysInHalfPrecision),
    ("batch", CentresTheBatch),
    ("batch", FirstImageForAll),
    ("alignment", Mirrors),
    ("alignment", SwapsColors),
    ("alignment", Negative),
    ("alignment", MovesByHalfAPixel),
    ("unload", UnloadsForGood),
    ("unload", UnloadsOnce),
]


def test_the_honest_one_passes() -> None:
    check_upscaler("part", registry_with("upscaler", Honest))


@pytest.mark.parametrize(("clause", "part"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_one_is_caught(clause: str, part: type) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_upscaler("part", registry_with("upscaler", part))
    assert caught.value.clause == clause, str(caught.value)


class HasNoFloat16(Honest):
    def upscale(self, image: Tensor) -> Tensor:
        if image.dtype == torch.float16:
            raise RuntimeError("\"sharpen_cpu\" not implemented for 'Half'")
        return super().upscale(image)


def test_float16_may_be_missing_on_the_cpu() -> None:
    check_upscaler("part", registry_with("upscaler", HasNoFloat16))


class GivesItOnTheCPU(Honest):
    def upscale(self, image: Tensor) -> Tensor:
        result = super().upscale(image)
        return torch.zeros(result.shape, dtype=result.dtype) if image.is_meta else result


@pytest.mark.parametrize("part", [Honest, GivesItOnTheCPU])
def test_a_result_on_another_device_is_caught(monkeypatch: pytest.MonkeyPatch, part: type) -> None:
    monkeypatch.setattr(upscalers, "devices", lambda: [torch.device("cpu"), torch.device("meta")])
    registry = registry_with("upscaler", part)
    if part is Honest:
        check_upscaler("part", registry)
        return
    with pytest.raises(ContractViolation) as caught:
        check_upscaler("part", registry)
    assert caught.value.clause == "device", str(caught.value)


def test_every_clause_has_a_broken_upscaler() -> None:
    assert {clause for clause, _ in BROKEN} | set(COMMON) | {"device", "restoration"} == set(CLAUSES["upscaler"])


def test_the_built_in_one_without_weights_passes() -> None:
    check_upscaler("bicubic", Registry([]))


@torch.no_grad()
def test_a_network_in_a_file_passes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    # Of these architectures this one adds to an enlarged photo, so that random weights give a picture, too.
    network = Compact(num_feat=8, num_conv=2, upscale=2)
    network.body[-1].weight.mul_(0.2)
    save_file(network.state_dict(), tmp_path / "tiny.safetensors")
    check_upscaler({"name": "spandrel", "path": str(tmp_path / "tiny.safetensors")}, Registry([]))
