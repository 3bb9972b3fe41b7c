"""Samplers that break a clause of the contract each, and the honest one that they are made of."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from xpsr_sdk import Denoiser, Options


class Honest:
    """DDIM with some fresh noise (arXiv 2010.02502), in pieces that broken ones replace."""

    class Config(Options):
        eta: float = Field(0.5, ge=0, le=1, description="Share of fresh noise.")

    def __init__(self, config: Config) -> None:
        self.config = config

    def sample(
        self,
        denoiser: Denoiser,
        latents: Tensor,
        *,
        num_inference_steps: int,
        generators: Sequence[torch.Generator],
        callback: Callable[[int, int, Tensor], None] | None = None,
    ) -> Tensor:
        x = latents
        for i, (t, following) in enumerate(pairwise([*self.timesteps(denoiser, num_inference_steps), -1])):
            x = self.step(denoiser, x, t, following, generators)
            if callback is not None:
                callback(i, t, x)
        return x

    def timesteps(self, denoiser: Denoiser, steps: int) -> list[int]:
        last = denoiser.start_timestep
        count = min(steps, last + 1)
        return [last - last * i // count for i in range(count)]

    def step(self, denoiser: Denoiser, x: Tensor, t: int, following: int, generators: Sequence[torch.Generator]) -> Any:
        now = float(denoiser.alphas_cumprod[t])
        then = float(denoiser.alphas_cumprod[following]) if following >= 0 else 1.0
        clean = self.estimate(denoiser, x, t)
        direction = (x - now**0.5 * clean) / (1 - now) ** 0.5
        fresh = self.config.eta * ((1 - then) / (1 - now) * (1 - now / then)) ** 0.5
        return then**0.5 * clean + (1 - then - fresh**2) ** 0.5 * direction + fresh * self.noise(x, generators)

    def estimate(self, denoiser: Denoiser, x: Tensor, t: int) -> Tensor:
        alpha = float(denoiser.alphas_cumprod[t])
        return denoiser.denoised(x / alpha**0.5, ((1 - alpha) / alpha) ** 0.5)

    def noise(self, x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return torch.stack([torch.randn(x.shape[1:], generator=generator) for generator in generators]).to(x)


class Wrapping(Honest):
    """Changes what goes in and comes out."""

    def sample(self, denoiser: Any, latents: Tensor, **options: Any) -> Any:
        return self.after(super().sample(denoiser, self.before(denoiser, latents, options), **options), latents)

    def before(self, denoiser: Any, latents: Tensor, options: dict[str, Any]) -> Tensor:
        return latents

    def after(self, result: Tensor, latents: Tensor) -> Any:
        return result


# Common clauses


class OpenConfig(Honest):
    class Config(Options, extra="allow"):
        eta: float = Field(0.5, description="Share of fresh noise.")


class MutableConfig(Honest):
    class Config(Options, frozen=False):
        eta: float = Field(0.5, description="Share of fresh noise.")


class UndescribedOption(Honest):
    class Config(Options):
        eta: float = 0.5


class NoneIsNotTheDefault(Honest):
    class Config(Options):
        eta: float = Field(0.5, description="Share of fresh noise.")
        limit: float | None = Field(1.0, description="Where to clip.")


class Opaque:
    pass


class UnwritableConfig(Honest):
    class Config(Options, arbitrary_types_allowed=True):
        eta: float = Field(0.5, description="Share of fresh noise.")
        thing: Opaque = Field(default_factory=Opaque, description="A thing.")


class CannotBeBuilt(Honest):
    def __init__(self, config: Honest.Config) -> None:
        raise ZeroDivisionError("no")


class LacksSample:
    Config = Honest.Config

    def __init__(self, config: Honest.Config) -> None:
        pass


# Clauses of samplers


class Cropped(Wrapping):
    def after(self, result: Tensor, latents: Tensor) -> Tensor:
        return result[..., :4, :4]


class EvenSizesOnly(Wrapping):
    def before(self, denoiser: Any, latents: Tensor, options: dict[str, Any]) -> Tensor:
        return latents.unflatten(-1, (-1, 2)).flatten(-2)


class ReturnsNothing(Wrapping):
    def after(self, result: Tensor, latents: Tensor) -> None:
        return None


class NotFinite(Wrapping):
    def after(self, result: Tensor, latents: Tensor) -> Tensor:
        return result / 0 * 0


class Float64(Wrapping):
    def after(self, result: Tensor, latents: Tensor) -> Tensor:
        return result.double()


class AsksInFloat32(Honest):
    def estimate(self, denoiser: Denoiser, x: Tensor, t: int) -> Tensor:
        return super().estimate(denoiser, x.float(), t).to(x)


class WritesIntoLatents(Wrapping):
    def before(self, denoiser: Any, latents: Tensor, options: dict[str, Any]) -> Tensor:
        return latents.mul_(1.0001)


class UsesTheModelsScheduler(Wrapping):
    def before(self, denoiser: Any, latents: Tensor, options: dict[str, Any]) -> Tensor:
        denoiser.scheduler.set_timesteps(options["num_inference_steps"])
        return latents


class ChangesTheDenoiser(Wrapping):
    def before(self, denoiser: Any, latents: Tensor, options: dict[str, Any]) -> Tensor:
        denoiser.alphas_cumprod = denoiser.alphas_cumprod.clamp(min=0.01)
        return latents


class UsesUpGenerators(Wrapping):
    def before(self, denoiser: Any, latents: Tensor, options: dict[str, Any]) -> Tensor:
        own = options["generators"]
        options["generators"] = list(own)
        own.pop()
        return latents


class ReusesItsBuffer(Honest):
    """Hands out a tensor that later steps write to."""

    def sample(self, denoiser: Any, latents: Tensor, **options: Any) -> Tensor:
        buffer = latents.clone()
        callback = options.pop("callback", None)

        def shown(step: int, t: int, x: Tensor) -> None:
            buffer.copy_(x)
            if callback:
                callback(step, t, buffer)

        super().sample(denoiser, latents, **options, callback=shown)
        return buffer


class DrawsFromTorch(Honest):
    def noise(self, x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return torch.randn_like(x)


class DrawsFromNumpy(Honest):
    def noise(self, x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return super().noise(x, generators) + float(np.random.rand())


class DrawsFromPython(Honest):
    def noise(self, x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return super().noise(x, generators) + random.random()


class DrawsFromAGeneratorOfItsOwn(Honest):
    def __init__(self, config: Honest.Config) -> None:
        super().__init__(config)
        self.own = torch.Generator().manual_seed(0)

    def noise(self, x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return torch.randn(x.shape, generator=self.own).to(x)


class Remembers(Honest):
    """Starts from the last estimate of the call before."""

    memory: Tensor | float = 0.0

    def estimate(self, denoiser: Denoiser, x: Tensor, t: int) -> Tensor:
        estimate = super().estimate(denoiser, x, t)
        blend = self.memory if isinstance(self.memory, Tensor) and self.memory.shape == x.shape else 0.0
        self.memory = estimate.mean().expand(x.shape)
        return estimate + 0.01 * blend


class KeepsItsFirstSchedule(Honest):
    """Works with the noise levels of the denoiser that it met first."""

    met: Denoiser | None = None

    def timesteps(self, denoiser: Denoiser, steps: int) -> list[int]:
        self.met = self.met or denoiser
        return super().timesteps(self.met, steps)


class OneNoiseForAll(Honest):
    def noise(self, x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return torch.randn(x.shape[1:], generator=generators[0]).to(x).expand(x.shape)


class OneGeneratorForAll(Honest):
    def noise(self, x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return torch.randn(x.shape, generator=generators[0]).to(x)


class ClipsByTheBatch(Honest):
    def estimate(self, denoiser: Denoiser, x: Tensor, t: int) -> Tensor:
        estimate = super().estimate(denoiser, x, t)
        return estimate * (1 - 1e-2 * x.abs().mean())


class AlwaysTwentySteps(Honest):
    def timesteps(self, denoiser: Denoiser, steps: int) -> list[int]:
        return super().timesteps(denoiser, 20)


class AlwaysOneStep(Honest):
    def timesteps(self, denoiser: Denoiser, steps: int) -> list[int]:
        return super().timesteps(denoiser, 1)


class OneStepTooMany(Honest):
    def timesteps(self, denoiser: Denoiser, steps: int) -> list[int]:
        return super().timesteps(denoiser, steps + 1)


class AsksTwice(Honest):
    def estimate(self, denoiser: Denoiser, x: Tensor, t: int) -> Tensor:
        return (super().estimate(denoiser, x, t) + super().estimate(denoiser, x, t)) / 2


class BeginsLate(Honest):
    def timesteps(self, denoiser: Denoiser, steps: int) -> list[int]:
        last = denoiser.start_timestep
        return (
            [last * (steps - i) // (steps + 1) for i in range(steps)]
            if last > steps
            else super().timesteps(denoiser, steps)
        )


class BeginsAtTheLastTimestep(Honest):
    def timesteps(self, denoiser: Denoiser, steps: int) -> list[int]:
        return [999 - 999 * i // steps for i in range(min(steps, denoiser.start_timestep + 1))]


class AsksForOneImageAtATime(Honest):
    def estimate(self, denoiser: Denoiser, x: Tensor, t: int) -> Tensor:
        return torch.cat([super(AsksForOneImageAtATime, self).estimate(denoiser, one[None], t) for one in x])


class CallsNobody(Wrapping):
    def before(self, denoiser: Any, latents: Tensor, options: dict[str, Any]) -> Tensor:
        options.pop("callback", None)
        return latents


class CallsBefore(Honest):
    """Calls back with what a step began with."""

    def sample(self, denoiser: Any, latents: Tensor, **options: Any) -> Tensor:
        seen = [latents]
        callback = options.pop("callback", None)

        def shown(step: int, t: int, x: Tensor) -> None:
            if callback:
                callback(step, t, seen[-1])
            seen.append(x)

        return super().sample(denoiser, latents, **options, callback=shown)


class CountsFromOne(Wrapping):
    def before(self, denoiser: Any, latents: Tensor, options: dict[str, Any]) -> Tensor:
        if callback := options.get("callback"):
            options["callback"] = lambda step, t, x: callback(step + 1, t, x)
        return latents


class TellsTensorTimesteps(Wrapping):
    def before(self, denoiser: Any, latents: Tensor, options: dict[str, Any]) -> Tensor:
        if callback := options.get("callback"):
            options["callback"] = lambda step, t, x: callback(step, torch.tensor(t), x)
        return latents


class ShowsFloat32(Wrapping):
    def before(self, denoiser: Any, latents: Tensor, options: dict[str, Any]) -> Tensor:
        if callback := options.get("callback"):
            options["callback"] = lambda step, t, x: callback(step, t, x.float())
        return latents


class NeedsACallback(Honest):
    def sample(self, denoiser: Any, latents: Tensor, *, callback: Any = None, **options: Any) -> Tensor:
        result = super().sample(denoiser, latents, **options, callback=callback)
        return result if callback else result * 1.01


class BelievesInNoise(Honest):
    """Takes every prediction for noise."""

    def estimate(self, denoiser: Denoiser, x: Tensor, t: int) -> Tensor:
        alpha = float(denoiser.alphas_cumprod[t])
        return (x - (1 - alpha) ** 0.5 * denoiser.predict(x, t)) / alpha**0.5


class ForgetsTheScale(Honest):
    def estimate(self, denoiser: Denoiser, x: Tensor, t: int) -> Tensor:
        alpha = float(denoiser.alphas_cumprod[t])
        return denoiser.denoised(x, ((1 - alpha) / alpha) ** 0.5)


class StopsEarly(Wrapping):
    """Leaves noise in the result."""

    def timesteps(self, denoiser: Denoiser, steps: int) -> list[int]:
        return super().timesteps(denoiser, steps)

    def step(self, denoiser: Denoiser, x: Tensor, t: int, following: int, generators: Any) -> Any:
        return super().step(denoiser, x, t, max(following, min(t, 300)), generators)


class FailsInAPipeline(Honest):
    """Reads what only the denoiser of tests has."""

    def estimate(self, denoiser: Any, x: Tensor, t: int) -> Tensor:
        return super().estimate(denoiser, x, t) + 0 * denoiser.mean


class FailsInBatches(Wrapping):
    def before(self, denoiser: Any, latents: Tensor, options: dict[str, Any]) -> Tensor:
        return latents if len(latents) == 1 else {}["batch"]


class GoesItsOwnWay(Honest):
    """Hands copies to the callback, and never looks at them again."""

    def sample(self, denoiser: Any, latents: Tensor, **options: Any) -> Tensor:
        callback = options.pop("callback", None)
        shown = callback and (lambda step, t, x: callback(step, t, x.clone()))
        return super().sample(denoiser, latents, **options, callback=shown)


class SecondOrder(Honest):
    """DPM-Solver++ 2M (arXiv 2211.01095) at uniform timesteps."""

    sign = 1

    def step(self, denoiser: Denoiser, x: Tensor, t: int, following: int, generators: Any) -> Any:
        clean = self.estimate(denoiser, x, t)
        now, then = (denoiser.alphas_cumprod[i].double() if i >= 0 else torch.tensor(1.0) for i in (t, following))
        if following < 0:
            self.before = None
            return clean
        if following == t:
            return x
        h = 0.5 * float((then / (1 - then)).log() - (now / (1 - now)).log())
        before, step_before = self.before or (clean, h)
        middle = clean + self.sign * (clean - before) * (h / step_before / 2)
        self.before = clean, h
        ratio = ((1 - then) / (1 - now)) ** 0.5
        return (ratio * x - then**0.5 * np.expm1(-h) * middle).to(x)

    before: Any = None


class WrongSign(SecondOrder):
    sign = -1


class OneStep(Honest):
    """The model's estimate, in a single step."""

    distilled = True

    def sample(self, denoiser: Any, latents: Tensor, **options: Any) -> Tensor:
        clean = self.estimate(denoiser, latents, denoiser.start_timestep)
        callback = options.get("callback")
        return callback(0, denoiser.start_timestep, clean) if callback else clean


class Consistency(Honest):
    """Estimates, adds noise again, and estimates: multistep sampling of consistency models (arXiv 2303.01469)."""

    distilled = True

    def step(self, denoiser: Denoiser, x: Tensor, t: int, following: int, generators: Any) -> Any:
        clean = self.estimate(denoiser, x, t)
        then = float(denoiser.alphas_cumprod[following]) if following >= 0 else 1.0
        return then**0.5 * clean + (1 - then) ** 0.5 * self.noise(x, generators)


class WorksOnTheCPU(Wrapping):
    def before(self, denoiser: Any, latents: Tensor, options: dict[str, Any]) -> Tensor:
        return torch.zeros(latents.shape, dtype=latents.dtype) if latents.is_meta else latents


class GivesItOnTheCPU(Wrapping):
    def after(self, result: Tensor, latents: Tensor) -> Tensor:
        return torch.zeros(result.shape, dtype=result.dtype) if latents.is_meta else result


BROKEN: list[tuple[str, type]] = [
    ("exceptions", FailsInBatches),
    ("callback", GoesItsOwnWay),
    ("accuracy", WrongSign),
    ("options", OpenConfig),
    ("options", MutableConfig),
    ("options", UndescribedOption),
    ("options", NoneIsNotTheDefault),
    ("config round trip", UnwritableConfig),
    ("construction", CannotBeBuilt),
    ("construction", LacksSample),
    ("shape", Cropped),
    ("exceptions", EvenSizesOnly),
    ("shape", ReturnsNothing),
    ("shape", NotFinite),
    ("dtype", Float64),
    ("dtype", AsksInFloat32),
    ("dtype", ShowsFloat32),
    ("inputs", WritesIntoLatents),
    ("inputs", UsesTheModelsScheduler),
    ("inputs", ChangesTheDenoiser),
    ("inputs", UsesUpGenerators),
    ("inputs", ReusesItsBuffer),
    ("determinism", DrawsFromTorch),
    ("determinism", DrawsFromNumpy),
    ("determinism", DrawsFromPython),
    ("determinism", DrawsFromAGeneratorOfItsOwn),
    ("determinism", Remembers),
    ("determinism", KeepsItsFirstSchedule),
    ("batch", OneNoiseForAll),
    ("batch", OneGeneratorForAll),
    ("batch", ClipsByTheBatch),
    ("steps", AlwaysTwentySteps),
    ("steps", AlwaysOneStep),
    ("steps", OneStepTooMany),
    ("steps", AsksTwice),
    ("start", BeginsLate),
    ("questions", BeginsAtTheLastTimestep),
    ("questions", AsksForOneImageAtATime),
    ("callback", CallsNobody),
    ("callback", CallsBefore),
    ("callback", CountsFromOne),
    ("callback", TellsTensorTimesteps),
    ("callback", NeedsACallback),
    ("prediction types", BelievesInNoise),
    ("convergence", ForgetsTheScale),
    ("convergence", StopsEarly),
    ("restoration", FailsInAPipeline),
]
"""Each broken sampler, with the clause that it breaks."""
