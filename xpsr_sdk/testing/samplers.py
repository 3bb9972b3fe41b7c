"""Does a sampler keep the contract of ``xpsr_sdk.Sampler``?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

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
"""Timesteps that sampling is begun at: fidelity asks for less noise than the last timestep has."""


def check_sampler(choice: Choice, registry: Registry | None = None) -> None:
    """Check a sampler against the whole contract of [Sampler][xpsr_sdk.contracts.Sampler].

    Args:
        choice: Its name, or ``{"name": ..., <options>}``.
        registry: Where it is looked up, for instance ``Registry([my_plugin])``. None: what is installed.

    Raises:
        ContractViolation: A clause is broken; the message says which one and how to mend it.
    """
    subject = Subject.of("sampler", choice, registry)
    check_construction(subject)
    for check in (_shape, _dtype, _inputs, _determinism, _batch, _steps, _start, _questions, _callback):
        check(subject)
    _prediction_types(subject)
    _convergence(subject)
    _device(subject)
    with subject.clause("restoration"), TemporaryDirectory() as folder:
        write_whole_model(Path(folder, "model"))
        check_restoration(Path(folder, "model"), subject.registry, sampler=subject.choice)


class _Witness(GaussianDenoiser):
    """A denoiser that writes down what it is asked, and objects to what a real one couldn't answer.

    Args:
        subject: Who asks.
        latents: What sampling begins with, to compare questions with.
        options: Those of ``GaussianDenoiser``.
    """

    def __init__(self, subject: Subject, latents: Tensor | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._subject, self._latents = subject, latents
        self.asked: list[float] = []
        """The noise level, as sigma, of each question."""

    def predict(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        """See ``xpsr_sdk.Denoiser``."""
        timestep, last = float(torch.as_tensor(t).float().max()), self.start_timestep
        with self._subject.clause("questions"):
            problem = f"it asked predict() at timestep {timestep:g}, though sampling began at {last}"
            require(0 <= timestep <= last, problem)
        self._witness(x_t, self._sigma(round(timestep)))
        return super().predict(x_t, t)

    def denoised(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """See ``xpsr_sdk.Denoiser``."""
        level, highest = float(torch.as_tensor(sigma).float().max()), self._sigma(self.start_timestep)
        with self._subject.clause("questions"):
            problem = f"it asked denoised() at the noise level {level:.4g}, though sampling began at {highest:.4g}"
            require(0 <= level <= highest * 1.01, problem)
        self._witness(x, level)
        return super().denoised(x, sigma)

    def _witness(self, x: Tensor, sigma: float) -> None:
        self.asked.append(sigma)
        if (latents := self._latents) is None:
            return
        with self._subject.clause("questions"):
            shape, wanted = tuple(x.shape), tuple(latents.shape)
            require(shape == wanted, f"it asked the denoiser with a tensor of shape {shape}, not {wanted}")
            finite = x.is_meta or bool(torch.isfinite(x).all())  # on the meta device there are no numbers to look at
            require(finite, "it asked the denoiser with numbers that are not finite")
        with self._subject.clause("dtype"):
            require(x.dtype == latents.dtype, f"it asked the denoiser in {x.dtype}, not in {latents.dtype}")
        with self._subject.clause("device"):
            require(x.device == latents.device, f"it asked the denoiser on {x.device}, not on {latents.device}")

    def _sigma(self, timestep: int) -> float:
        alpha = float(self.alphas_cumprod[timestep])
        return ((1 - alpha) / alpha) ** 0.5


def _run(
    sampler: Any,
    denoiser: GaussianDenoiser,
    latents: Tensor,
    steps: int = 4,
    seeds: tuple[int, ...] = (),
    callback: Callable[[int, int, Tensor], None] | None = None,
) -> Any:
    extra = {} if callback is None else {"callback": callback}
    # Other seeds than those of the latents: a sampler's noise must not repeat the noise that it begins with.
    own = generators(*(seeds or range(50_000, 50_000 + len(latents))))
    with torch.no_grad():
        return sampler.sample(denoiser, latents, num_inference_steps=steps, generators=own, **extra)


def _written_to(calls: list[tuple[int, int, Tensor]]) -> Callable[[int, int, Tensor], None]:
    """A callback that keeps what it is handed."""
    return lambda *step: calls.append(step)


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
            witness = _Witness(subject, latents)
            result = _run(subject.build(), witness, latents, callback=_written_to(shown))
            require(result.dtype == dtype, f"latents in {dtype} gave a result in {result.dtype}")
            others = ", ".join({str(x.dtype) for _, _, x in shown} - {str(dtype)})
            require(not others, f"of latents in {dtype} the callback was handed some in {others}")


def _device(subject: Subject) -> None:
    with subject.clause("device"):
        for device in devices():
            latents = GaussianDenoiser().start(2, 4, 5, 3).to(device)
            result = _run(subject.build(), _Witness(subject, latents), latents)
            require(result.device == latents.device, f"latents on {latents.device} gave a result on {result.device}")


def _inputs(subject: Subject) -> None:
    with subject.clause("inputs"), torch.no_grad():
        denoiser, own = GaussianDenoiser(), generators(0, 1)
        latents = denoiser.start(2, 4, 5, 3)
        of_denoiser, of_scheduler = copy.deepcopy(vars(denoiser)), copy.deepcopy(vars(denoiser.scheduler))
        shown: list[tuple[Tensor, Tensor]] = []
        with inputs_kept(latents=latents):
            result = subject.build().sample(
                denoiser,
                latents,
                num_inference_steps=4,
                generators=own,
                callback=lambda step, timestep, x: shown.append((x, x.clone())),
            )
        require(len(own) == 2, "it changed the list of generators")
        require(same(vars(denoiser.scheduler), of_scheduler), "it changed the denoiser's scheduler")
        now = {name: value for name, value in vars(denoiser).items() if name not in ("scheduler", "_schedule")}
        require(all(same(value, of_denoiser[name]) for name, value in now.items()), "it changed the denoiser")
        require(result.data_ptr() != latents.data_ptr(), "it returned the latents that it was handed")
        require(
            all(same(x, copied) for x, copied in shown),
            "it changed latents in place after handing them to the callback",
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
        require(same(*between), "a call with another denoiser gave another result than with a fresh sampler")
        _run(sampler, denoiser, 1 - latents, steps, (seed + 2,))
        again = _run(sampler, denoiser, latents, steps, (seed,))
        require(same(first, again), "the same call gave another result the second time, after others between")
        require(
            same(first, _run(subject.build(), denoiser, latents, steps, (seed,))), "a fresh one gave another result"
        )

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
            denoiser = _Witness(subject, start_timestep=start)
            result = _run(subject.build(), denoiser, denoiser.start(1, 4, 5, 3), steps)
            require_tensor(result, (1, 4, 5, 3), "the result")
            spent, least = len(denoiser.asked), (min(steps, start + 1) + 1) // 2
            problem = f"it spent {spent} evaluations of {steps} from timestep {start} on"
            require(least <= spent <= steps, f"{problem}, where {least} to {steps} were due")


def _start(subject: Subject) -> None:
    with subject.clause("start"):
        for start in STARTS:
            denoiser = _Witness(subject, start_timestep=start)
            _run(subject.build(), denoiser, denoiser.start(1, 4, 5, 3), steps=5)
            first, due = denoiser.asked[0], denoiser._sigma(start)
            require(
                abs(first - due) <= 0.02 * due,
                f"from timestep {start}, whose noise level is {due:.4g}, it first asked at the noise level {first:.4g}",
            )


def _questions(subject: Subject) -> None:
    with subject.clause("questions"):
        for start in STARTS:
            latents = GaussianDenoiser(start_timestep=start).start(2, 4, 5, 3)
            _run(subject.build(), _Witness(subject, latents, start_timestep=start), latents, steps=6)


def _callback(subject: Subject) -> None:
    def test(steps: int) -> None:
        calls: list[tuple[int, int, Tensor]] = []
        denoiser = _Witness(subject)
        latents = denoiser.start(1, 4, 5, 3)
        result = _run(subject.build(), denoiser, latents, steps, callback=_written_to(calls))
        require(bool(calls), "the callback was never called")
        numbers, timesteps = [call[0] for call in calls], [call[1] for call in calls]
        require(numbers == list(range(len(calls))), f"the steps were counted {numbers}")
        fewest, most = (steps + 1) // 2, len(denoiser.asked)
        problem = f"with {steps} steps and {most} evaluations the callback was called {len(calls)} times"
        require(fewest <= len(calls) <= max(most, fewest), problem)
        whole = all(isinstance(t, int) and 0 <= t <= 999 for t in timesteps)
        require(whole, f"the timesteps were {timesteps}, not whole numbers from 0 to 999")
        for _, _, shown in calls:
            require_tensor(shown, latents.shape, "what the callback was handed")
        require_close(calls[-1][2], result, 1e-3, "the last latents that the callback was handed are not the result")
        require(same(result, _run(subject.build(), denoiser, latents, steps)), "without callback the result differs")

    with subject.clause("callback"):
        test(1)
        test(5)


def _prediction_types(subject: Subject) -> None:
    with subject.clause("prediction types"):
        results = {}
        for prediction_type in ("epsilon", "v_prediction", "sample"):
            denoiser = GaussianDenoiser(prediction_type=prediction_type)
            results[prediction_type] = _run(subject.build(), denoiser, denoiser.start(1, 4, 5, 3), steps=6)
        for name, result in results.items():
            problem = f"the same model, asked for {name} instead of epsilon, gave another result"
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
                f"data of mean {mean} and standard deviation {std} came out with {found_mean:.3g} and {found_std:.3g} "
                f"after 40 steps from timestep {start}",
            )
