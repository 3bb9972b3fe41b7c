"""Checks a sampler against the contract of ``xpsr_sdk.Sampler``."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from xpsr_sdk.contracts import StepCallback
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.testing.denoiser import GaussianDenoiser
from xpsr_sdk.testing.restoring import check_restoration
from xpsr_sdk.testing.subject import Choice, Subject, check_construction, for_all, require
from xpsr_sdk.testing.tensors import (
    devices,
    generators,
    global_random_state_kept,
    inputs_kept,
    require_close,
    require_tensor,
    same,
)
from xpsr_sdk.testing.tiny import write_whole_model

STARTS = (999, 600, 40)
"""Timesteps at which sampling begins: with a high fidelity it begins below the last timestep."""
FORGETFUL = 0.1
"""How far results lie apart, in means of differences, if a sampler forgets with which latents it began."""
WORSE = 1.4
"""Times the error of first-order steps: a second-order term of the wrong sign about doubles it."""


def check_sampler(choice: Choice, registry: Registry | None = None) -> None:
    """Check a sampler against the whole contract of [Sampler][xpsr_sdk.contracts.Sampler].

    Args:
        choice: Its name, or ``{"name": ..., <options>}``.
        registry: The registry that holds it, for instance ``Registry([my_plugin])``. None: the installed plug-ins.

    Raises:
        ContractViolation: A clause is broken; the message says which one, and how to fix it.
    """
    subject = Subject.of("sampler", choice, registry)
    check_construction(subject)
    with subject.clause("exceptions"):
        _run(subject.build(), GaussianDenoiser(), GaussianDenoiser().start(1, 4, 8, 8))
    for check in (_shape, _dtype, _inputs, _determinism, _batch, _steps, _start, _questions, _callback, _replaced):
        check(subject)
    _prediction_types(subject)
    (_estimate if _is_distilled(subject) else _convergence)(subject)
    _accuracy(subject)
    _device(subject)
    with subject.clause("restoration"), TemporaryDirectory() as folder:
        write_whole_model(Path(folder, "model"))
        check_restoration(Path(folder, "model"), subject.registry, sampler=subject.choice)


class _RecordingDenoiser(GaussianDenoiser):
    """A denoiser that records the calls of a sampler, and rejects those that a real denoiser could not answer.

    Args:
        subject: The sampler under test.
        latents: The latents that sampling begins with. Calls must agree with them in shape, dtype and device.
        options: Options of ``GaussianDenoiser``.
    """

    def __init__(self, subject: Subject, latents: Tensor | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._subject, self._latents = subject, latents
        self.asked: list[float] = []
        """The noise level, as sigma, of each call."""

    def predict(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        """See ``xpsr_sdk.Denoiser``."""
        timestep, last = float(torch.as_tensor(t).float().max()), self.start_timestep
        with self._subject.clause("questions"):
            problem = f"it called predict() at timestep {timestep:g}, but sampling began at timestep {last}"
            require(0 <= timestep <= last, problem)
        self._record(x_t, self._sigma(round(timestep)))
        return super().predict(x_t, t)

    def denoised(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """See ``xpsr_sdk.Denoiser``."""
        level, highest = float(torch.as_tensor(sigma).float().max()), self._sigma(self.start_timestep)
        with self._subject.clause("questions"):
            problem = f"it called denoised() at the noise level {level:.4g}, but sampling began at {highest:.4g}"
            require(0 <= level <= highest * 1.01, problem)
        self._record(x, level)
        return super().denoised(x, sigma)

    def _record(self, x: Tensor, sigma: float) -> None:
        self.asked.append(sigma)
        if (latents := self._latents) is None:
            return
        with self._subject.clause("questions"):
            shape, wanted = tuple(x.shape), tuple(latents.shape)
            require(shape == wanted, f"it called the denoiser with a tensor of shape {shape}, not {wanted}")
            finite = x.is_meta or bool(torch.isfinite(x).all())  # tensors on the meta device have no values
            require(finite, "it called the denoiser with numbers that are not finite")
        with self._subject.clause("dtype"):
            require(x.dtype == latents.dtype, f"it called the denoiser in {x.dtype}, not in {latents.dtype}")
        with self._subject.clause("device"):
            require(x.device == latents.device, f"it called the denoiser on {x.device}, not on {latents.device}")

    def _sigma(self, timestep: int) -> float:
        alpha = float(self.alphas_cumprod[timestep])
        return ((1 - alpha) / alpha) ** 0.5


def _run(
    sampler: Any,
    denoiser: GaussianDenoiser,
    latents: Tensor,
    steps: int = 4,
    seeds: tuple[int, ...] = (),
    callback: StepCallback | None = None,
) -> Any:
    extra = {} if callback is None else {"callback": callback}
    # The seeds differ from those of the latents, so that the sampler does not draw the noise that it begins with.
    own = generators(*(seeds or range(50_000, 50_000 + len(latents))))
    with torch.no_grad():
        return sampler.sample(denoiser, latents, num_inference_steps=steps, generators=own, **extra)


def _appending_to(calls: list[tuple[int, int, Tensor]]) -> StepCallback:
    """A callback that appends its arguments to ``calls``."""

    def callback(step: int, timestep: int, latents: Tensor) -> Tensor:
        calls.append((step, timestep, latents))
        return latents

    return callback


def _is_distilled(subject: Subject) -> bool:
    return bool(getattr(subject.build(), "distilled", False))


def _shape(subject: Subject) -> None:
    def test(batch: int, channels: int, height: int, width: int, steps: int, start: int) -> None:
        denoiser = GaussianDenoiser(start_timestep=start)
        latents = denoiser.start(batch, channels, height, width)
        result = _run(subject.build(), denoiser, latents, steps)
        require_tensor(result, latents.shape, "the result")

    with subject.clause("shape"):
        small = st.integers(1, 9)
        for_all(
            test,
            batch=st.integers(1, 3),
            channels=st.sampled_from([1, 4, 48]),
            height=small,
            width=small,
            steps=small,
            start=st.sampled_from(STARTS),
        )


def _dtype(subject: Subject) -> None:
    with subject.clause("dtype"):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            latents = GaussianDenoiser().start(1, 4, 5, 3).to(dtype)
            shown: list[tuple[int, int, Tensor]] = []
            denoiser = _RecordingDenoiser(subject, latents)
            result = _run(subject.build(), denoiser, latents, callback=_appending_to(shown))
            require(result.dtype == dtype, f"latents in {dtype} gave a result in {result.dtype}")
            others = ", ".join({str(x.dtype) for _, _, x in shown} - {str(dtype)})
            require(not others, f"for latents in {dtype}, the callback was given latents in {others}")


def _device(subject: Subject) -> None:
    with subject.clause("device"):
        for device in devices():
            latents = GaussianDenoiser().start(2, 4, 5, 3).to(device)
            result = _run(subject.build(), _RecordingDenoiser(subject, latents), latents)
            require(result.device == latents.device, f"latents on {latents.device} gave a result on {result.device}")


def _inputs(subject: Subject) -> None:
    with subject.clause("inputs"), torch.no_grad():
        denoiser, own = GaussianDenoiser(), generators(0, 1)
        latents = denoiser.start(2, 4, 5, 3)
        of_denoiser, of_scheduler = copy.deepcopy(vars(denoiser)), copy.deepcopy(vars(denoiser.scheduler))
        shown: list[tuple[Tensor, Tensor]] = []

        def callback(step: int, timestep: int, x: Tensor) -> Tensor:
            shown.append((x, x.clone()))
            return x

        with inputs_kept(latents=latents):
            result = subject.build().sample(
                denoiser,
                latents,
                num_inference_steps=4,
                generators=own,
                callback=callback,
            )
        require(len(own) == 2, "it changed the list of generators")
        require(same(vars(denoiser.scheduler), of_scheduler), "it changed the denoiser's scheduler")
        now = {name: value for name, value in vars(denoiser).items() if name not in ("scheduler", "_schedule")}
        require(all(same(value, of_denoiser[name]) for name, value in now.items()), "it changed the denoiser")
        require(result.data_ptr() != latents.data_ptr(), "it returned its input latents")
        require(
            all(same(x, copied) for x, copied in shown),
            "it changed latents in place after passing them to the callback",
        )


def _determinism(subject: Subject) -> None:
    def test(seed: int, steps: int) -> None:
        denoiser = GaussianDenoiser()
        latents = denoiser.start(1, 4, 5, 3, seed=seed)
        sampler = subject.build()
        with global_random_state_kept():
            first = _run(sampler, denoiser, latents, steps, (seed,))
        other = GaussianDenoiser(start_timestep=600, prediction_type="v_prediction")
        between = [_run(part, other, latents[..., :2], steps + 3, (seed + 1,)) for part in (sampler, subject.build())]
        require(same(*between), "with another denoiser, it and a fresh sampler gave different results")
        _run(sampler, denoiser, 1 - latents, steps, (seed + 2,))
        again = _run(sampler, denoiser, latents, steps, (seed,))
        require(same(first, again), "the same call gave a different result the second time, after other calls")
        fresh = _run(subject.build(), denoiser, latents, steps, (seed,))
        require(same(first, fresh), "a fresh instance gave a different result")

    with subject.clause("determinism"):
        for_all(test, examples=3, seed=st.integers(0, 2**31), steps=st.integers(1, 8))


def _batch(subject: Subject) -> None:
    def test(batch: int, steps: int, start: int) -> None:
        denoiser = GaussianDenoiser(start_timestep=start)
        latents = torch.cat([denoiser.start(1, 4, 5, 3, seed=i) * (1 + i) for i in range(batch)])
        seeds = tuple(range(100, 100 + batch))
        whole = _run(subject.build(), denoiser, latents, steps, seeds)
        for i, seed in enumerate(seeds):
            alone = _run(subject.build(), denoiser, latents[i : i + 1], steps, (seed,))
            problem = f"image {i} of a batch of {batch} differs from the same image alone"
            require_close(whole[i : i + 1], alone, 1e-4, problem)

    with subject.clause("batch"):
        for_all(test, examples=4, batch=st.integers(2, 3), steps=st.integers(1, 8), start=st.sampled_from(STARTS))


def _steps(subject: Subject) -> None:
    with subject.clause("steps"):
        for start, steps in ((999, 1), (999, 2), (999, 3), (999, 7), (999, 20), (600, 5), (40, 10), (5, 20), (0, 3)):
            denoiser = _RecordingDenoiser(subject, start_timestep=start)
            result = _run(subject.build(), denoiser, denoiser.start(1, 4, 5, 3), steps)
            require_tensor(result, (1, 4, 5, 3), "the result")
            spent, least = len(denoiser.asked), (min(steps, start + 1) + 1) // 2
            least = 1 if _is_distilled(subject) else least
            problem = f"with num_inference_steps {steps} and a start at timestep {start}, it evaluated the denoiser"
            require(least <= spent <= steps, f"{problem} {spent} times instead of {least} to {steps} times")


def _start(subject: Subject) -> None:
    with subject.clause("start"):
        for start in STARTS:
            denoiser = _RecordingDenoiser(subject, start_timestep=start)
            _run(subject.build(), denoiser, denoiser.start(1, 4, 5, 3), steps=5)
            first, expected = denoiser.asked[0], denoiser._sigma(start)
            require(
                abs(first - expected) <= 0.02 * expected,
                f"sampling begins at timestep {start}, with the noise level {expected:.4g}, but its first call had "
                f"the noise level {first:.4g}",
            )


def _questions(subject: Subject) -> None:
    with subject.clause("questions"):
        for start in STARTS:
            latents = GaussianDenoiser(start_timestep=start).start(2, 4, 5, 3)
            _run(subject.build(), _RecordingDenoiser(subject, latents, start_timestep=start), latents, steps=6)


def _callback(subject: Subject) -> None:
    def test(steps: int) -> None:
        calls: list[tuple[int, int, Tensor]] = []
        denoiser = _RecordingDenoiser(subject)
        latents = denoiser.start(1, 4, 5, 3)
        result = _run(subject.build(), denoiser, latents, steps, callback=_appending_to(calls))
        require(bool(calls), "the callback was never called")
        numbers, timesteps = [call[0] for call in calls], [call[1] for call in calls]
        require(numbers == list(range(len(calls))), f"the steps were counted {numbers}")
        fewest, most = 1 if _is_distilled(subject) else (steps + 1) // 2, len(denoiser.asked)
        problem = f"with {steps} steps and {most} evaluations, the callback was called {len(calls)} times"
        require(fewest <= len(calls) <= max(most, fewest), problem)
        whole = all(isinstance(t, int) and 0 <= t <= 999 for t in timesteps)
        require(whole, f"the timesteps were {timesteps}, not whole numbers from 0 to 999")
        for _, _, shown in calls:
            require_tensor(shown, latents.shape, "the tensor that the callback was given")
        require_close(calls[-1][2], result, 1e-3, "the last latents that the callback was given are not the result")
        require(same(result, _run(subject.build(), denoiser, latents, steps)), "without a callback the result differs")

    with subject.clause("callback"):
        test(1)
        test(5)


def _replaced(subject: Subject) -> None:
    """Latents that the callback gives in the middle of the way must lead where they come from."""
    with subject.clause("callback"):
        denoiser, steps = GaussianDenoiser(), 6
        latents, others = denoiser.start(1, 4, 8, 8), denoiser.start(1, 4, 8, 8, seed=1)
        way: list[Tensor] = []

        def follow(step: int, timestep: int, x: Tensor) -> Tensor:
            way.append(x.clone())
            return x

        there = _run(subject.build(), denoiser, latents, steps, callback=follow)
        alone = _run(subject.build(), denoiser, others, steps)
        for meeting in (len(way) // 2, len(way) - 1):

            def join(step: int, timestep: int, x: Tensor, meeting: int = meeting) -> Tensor:
                return x.copy_(way[meeting]).clone() if step == meeting else x  # as the SDK does it

            joined = _run(subject.build(), denoiser, others, steps, callback=join)
            off, apart = (float((result - there).abs().mean()) for result in (joined, alone))
            if apart < FORGETFUL and meeting < len(way) - 1:
                continue  # fresh noise makes up for where it came from
            problem = f"after step {meeting} it continues with its own latents instead of those that it was given"
            require(off <= max(0.7 * apart, 1e-3), problem)


def _estimate(subject: Subject) -> None:
    """A distilled sampler's result is the model's estimate: exact where there is nothing to guess.

    It may keep the noise of timestep 0, at which some samplers end.
    """
    with subject.clause("convergence"):
        for start in STARTS:
            denoiser = _RecordingDenoiser(subject, mean=0.3, std=0.0, start_timestep=start)
            allowed = 0.02 + 4 * denoiser._sigma(0)
            for steps in (1, 4):
                result = _run(subject.build(), denoiser, denoiser.start(1, 4, 5, 3), steps)
                problem = f"of data that are all 0.3 it made other numbers in {steps} steps from timestep {start}"
                require_close(result, torch.full_like(result, 0.3), allowed, problem)


def _accuracy(subject: Subject) -> None:
    """Without noise of its own, it must not be further from the exact solution than first-order steps are.

    The probability-flow ODE of independent normal numbers keeps each number's distance from the mean in standard
    deviations, so that its solution is known.
    """
    with subject.clause("accuracy"):
        for mean, std, steps in ((0.3, 0.5, 8), (-1.0, 1.5, 12)):
            denoiser = _RecordingDenoiser(subject, mean=mean, std=std)
            latents = denoiser.start(1, 4, 20, 20)
            result = _run(subject.build(), denoiser, latents, steps)
            other = _run(subject.build(), GaussianDenoiser(mean, std), latents, steps, seeds=(7,))
            if not same(result, other) or _is_distilled(subject):
                return  # it draws noise, or does not solve the equation
            exact, first_order = _solutions(denoiser, latents)
            error, expected = (float((x - exact).square().mean().sqrt()) for x in (result, first_order))
            problem = f"after {steps} steps it is {error:.3g} from the exact solution, first-order steps {expected:.3g}"
            require(error <= WORSE * expected + 0.01 * std, problem)


def _solutions(denoiser: _RecordingDenoiser, latents: Tensor) -> tuple[Tensor, Tensor]:
    """The exact solution, and that of first-order steps over the noise levels that were asked for."""
    highest = denoiser._sigma(denoiser.start_timestep)
    x = latents * (1 + highest**2) ** 0.5
    wide = (denoiser.std**2 + highest**2) ** 0.5
    exact = denoiser.mean + (x - denoiser.mean) * denoiser.std / wide
    levels = sorted({round(sigma, 6) for sigma in denoiser.asked}, reverse=True)
    for sigma, following in pairwise([*levels, 0.0]):
        clean = GaussianDenoiser.denoised(denoiser, x, sigma)
        x = clean + following / sigma * (x - clean)
    return exact, x


def _prediction_types(subject: Subject) -> None:
    with subject.clause("prediction types"):
        results = {}
        for prediction_type in ("epsilon", "v_prediction", "sample"):
            denoiser = GaussianDenoiser(prediction_type=prediction_type)
            results[prediction_type] = _run(subject.build(), denoiser, denoiser.start(1, 4, 5, 3), steps=6)
        for name, result in results.items():
            problem = f"the same model with the prediction type {name} instead of epsilon gave a different result"
            require_close(result, results["epsilon"], 0.02, problem)


def _convergence(subject: Subject) -> None:
    with subject.clause("convergence"):
        for start, mean, std in ((999, 0.3, 0.5), (600, -1.0, 1.5), (40, 0.3, 0.5)):
            denoiser = GaussianDenoiser(mean, std, start_timestep=start)
            result = _run(subject.build(), denoiser, denoiser.start(1, 4, 40, 40), steps=40)
            found_mean, found_std = float(result.mean()), float(result.std())
            fits = abs(found_mean - mean) <= 0.2 * std and abs(found_std - std) <= 0.2 * std
            require(
                fits,
                f"data of mean {mean} and standard deviation {std} had mean {found_mean:.3g} and standard deviation "
                f"{found_std:.3g} after 40 steps from timestep {start}",
            )
