"""Degradations that break a clause each are caught."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from tests.support.registries import registry_with
from xpsr_sdk import Options
from xpsr_sdk.data.images import to_tensor
from xpsr_sdk.testing import ContractViolation, check_degradation_model, degradations, tiny
from xpsr_sdk.testing.clauses import CLAUSES, COMMON


class Honest:
    """The mean of s x s pixels, with noise of a drawn strength."""

    class Config(Options):
        scale: int = Field(4, ge=1, le=8, description="How many times smaller the result is.")

    def __init__(self, config: Config) -> None:
        self.scale: Any = config.scale

    def __call__(self, hr: Tensor, generators: Sequence[torch.Generator]) -> Any:
        small = self.smaller(hr)
        return (small + self.noise(small, generators).to(small)).clamp(0, 1)

    def smaller(self, hr: Tensor) -> Tensor:
        rows = hr.unflatten(-2, (-1, self.scale)).mean(-2)
        return rows.unflatten(-1, (-1, self.scale)).mean(-1)

    def noise(self, small: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return torch.stack([self.noise_of(small[0], generator) for generator in generators])

    def noise_of(self, image: Tensor, generator: torch.Generator) -> Tensor:
        strength = 0.1 * torch.rand((), generator=generator)
        return strength * torch.randn(image.shape, generator=generator)


class ScaleIsAFloat(Honest):
    def __init__(self, config: Honest.Config) -> None:
        self.scale = float(config.scale)


class IgnoresTheOption(Honest):
    def __init__(self, config: Honest.Config) -> None:
        self.scale = 4


class LosesAColumn(Honest):
    def smaller(self, hr: Tensor) -> Tensor:
        return super().smaller(hr)[..., 1:]


class FirstImageOnly(Honest):
    def __call__(self, hr: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return super().__call__(hr[:1], generators[:1])


class Float64(Honest):
    def __call__(self, hr: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return super().__call__(hr, generators).double()


class Float32(Honest):
    def __call__(self, hr: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return super().__call__(hr, generators).float()


class Unclamped(Honest):
    def __call__(self, hr: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        small = self.smaller(hr)
        return small + self.noise(small, generators)


class Levels(Honest):
    def __call__(self, hr: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return super().__call__(hr, generators) * 255


class DividesByTheContrast(Honest):
    def smaller(self, hr: Tensor) -> Tensor:
        small = super().smaller(hr)
        return (small - small.amin()) / (small.amax() - small.amin())


class WritesIntoHr(Honest):
    def smaller(self, hr: Tensor) -> Tensor:
        return super().smaller(hr.mul_(0.99))


class UsesUpGenerators(Honest):
    def __call__(self, hr: Tensor, generators: Sequence[torch.Generator]) -> Any:
        result = super().__call__(hr, list(generators))
        generators.pop()  # type: ignore[attr-defined]
        return result


class DrawsFromTorch(Honest):
    def noise_of(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return 0.1 * torch.randn(image.shape)


class DrawsFromNumpy(Honest):
    def noise_of(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return torch.from_numpy(np.random.default_rng().normal(0, 0.1, image.shape))


class Remembers(Honest):
    calls = 0

    def noise_of(self, image: Tensor, generator: torch.Generator) -> Tensor:
        self.calls += 1
        return super().noise_of(image, generator) + 0.01 * self.calls


class OneGeneratorForAll(Honest):
    def noise(self, small: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return torch.cat([self.noise_of(small[:1], generators[0]) for _ in generators])


class OneStrengthForAll(Honest):
    def noise(self, small: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        strengths = [float(torch.rand((), generator=generator)) for generator in generators]
        own = [torch.randn(small.shape[1:], generator=generator) for generator in generators]
        return 0.2 * max(strengths) * torch.stack(own)


class CentresTheBatch(Honest):
    def smaller(self, hr: Tensor) -> Tensor:
        small = super().smaller(hr)
        return small - 0.2 * (small.mean() - 0.5)


class Mirrors(Honest):
    def smaller(self, hr: Tensor) -> Tensor:
        return super().smaller(hr).flip(-1)


class Negative(Honest):
    def smaller(self, hr: Tensor) -> Tensor:
        return 1 - super().smaller(hr)


class MovesByAPixel(Honest):
    def smaller(self, hr: Tensor) -> Tensor:
        return super().smaller(hr).roll(1, -1)


class TakesEveryFourthPixel(Honest):
    def smaller(self, hr: Tensor) -> Tensor:
        return hr[..., :: self.scale, :: self.scale]


class AlignsCorners(Honest):
    def smaller(self, hr: Tensor) -> Tensor:
        size = [side // self.scale for side in hr.shape[-2:]]
        return interpolate(hr, size, mode="bilinear", align_corners=True)


class BelievesInMinusOneToOne(Honest):
    def smaller(self, hr: Tensor) -> Tensor:
        return (super().smaller(hr) + 1) / 2


class ViewsPixels(Honest):
    def smaller(self, hr: Tensor) -> Tensor:
        return super().smaller(hr - 0 * hr.view(len(hr), -1).mean())


class SeedsTorch(Honest):
    def noise_of(self, image: Tensor, generator: torch.Generator) -> Tensor:
        torch.manual_seed(generator.initial_seed())
        return 0.1 * torch.randn(image.shape)


class TellsTheTime(Honest):
    def noise_of(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return super().noise_of(image, torch.Generator().manual_seed(time.time_ns()))


class SwapsColors(Honest):
    def smaller(self, hr: Tensor) -> Tensor:
        return super().smaller(hr).flip(1)


class HoldsALambda(Honest):
    def __init__(self, config: Honest.Config) -> None:
        super().__init__(config)
        self.curve = lambda x: x


class DislikesAPhoto(Honest):
    """Fails with one of the photos that a model is trained on here."""

    def smaller(self, hr: Tensor) -> Tensor:
        if torch.equal(hr, to_tensor(tiny.photo(32, 32, seed=1))):
            raise MemoryError("no")
        return super().smaller(hr)


class FailsAlways(Honest):
    def __call__(self, hr: Tensor, generators: Sequence[torch.Generator]) -> Any:
        return {}["no key"]


BROKEN = [
    ("exceptions", FailsAlways),
    ("alignment", TakesEveryFourthPixel),
    ("alignment", AlignsCorners),
    ("range", BelievesInMinusOneToOne),
    ("exceptions", ViewsPixels),
    ("determinism", SeedsTorch),
    ("determinism", TellsTheTime),
    ("construction", ScaleIsAFloat),
    ("scale", IgnoresTheOption),
    ("shape", LosesAColumn),
    ("shape", FirstImageOnly),
    ("dtype", Float64),
    ("dtype", Float32),
    ("range", Unclamped),
    ("range", Levels),
    ("range", DividesByTheContrast),
    ("inputs", WritesIntoHr),
    ("inputs", UsesUpGenerators),
    ("determinism", DrawsFromTorch),
    ("determinism", DrawsFromNumpy),
    ("determinism", Remembers),
    ("batch", OneGeneratorForAll),
    ("batch", OneStrengthForAll),
    ("batch", CentresTheBatch),
    ("alignment", Mirrors),
    ("alignment", Negative),
    ("alignment", MovesByAPixel),
    ("alignment", SwapsColors),
    ("pickling", HoldsALambda),
    ("training", DislikesAPhoto),
]


@pytest.mark.parametrize("scale", [2, 3, 5, 6])
def test_the_honest_one_passes(scale: int) -> None:
    check_degradation_model({"name": "part", "scale": scale}, registry_with("degradation_model", Honest))


@pytest.mark.parametrize(("clause", "part"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_one_is_caught(clause: str, part: type) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_degradation_model("part", registry_with("degradation_model", part))
    assert caught.value.clause == clause, str(caught.value)


class GivesItOnTheCPU(Honest):
    def __call__(self, hr: Tensor, generators: Sequence[torch.Generator]) -> Any:
        result = super().__call__(hr, generators)
        return torch.zeros(result.shape) if hr.is_meta else result


@pytest.mark.parametrize("part", [Honest, GivesItOnTheCPU])
def test_a_result_on_another_device_is_caught(monkeypatch: pytest.MonkeyPatch, part: type) -> None:
    monkeypatch.setattr(degradations, "devices", lambda: [torch.device("cpu"), torch.device("meta")])
    registry = registry_with("degradation_model", part)
    if part is Honest:
        check_degradation_model("part", registry)
        return
    with pytest.raises(ContractViolation) as caught:
        check_degradation_model("part", registry)
    assert caught.value.clause == "device", str(caught.value)


def test_every_clause_has_a_broken_degradation() -> None:
    assert {clause for clause, _ in BROKEN} | set(COMMON) | {"device"} == set(CLAUSES["degradation_model"])
