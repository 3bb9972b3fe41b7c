"""Samplers that break a clause each are caught, and told so."""

from __future__ import annotations

import pytest
import torch

from tests.support.broken_samplers import (
    BROKEN,
    Consistency,
    GivesItOnTheCPU,
    Honest,
    OneStep,
    SecondOrder,
    WorksOnTheCPU,
)
from tests.support.registries import registry_with
from xpsr_sdk.testing import ContractViolation, GaussianDenoiser, check_sampler, samplers
from xpsr_sdk.testing.clauses import CLAUSES


def test_the_honest_one_passes() -> None:
    check_sampler({"name": "part", "eta": 0.8}, registry_with("sampler", Honest))


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize(("clause", "part"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_one_is_caught(clause: str, part: type) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_sampler("part", registry_with("sampler", part))
    assert caught.value.clause == clause, str(caught.value)
    if clause == "exceptions":
        assert "it raised " in caught.value.problem
        assert "broken_samplers.py, line " in caught.value.problem
        return
    assert str(caught.value) == (
        f"The sampler 'part' of xpsr-test 0 breaks the clause {clause!r} of its contract: {caught.value.problem}.\n"
        f"To fix it: {CLAUSES['sampler'][clause]}."
    )


@pytest.mark.parametrize("part", [SecondOrder, OneStep, Consistency])
def test_samplers_of_other_kinds_pass(part: type) -> None:
    check_sampler("part", registry_with("sampler", part))


@pytest.mark.parametrize("part", [None, WorksOnTheCPU, GivesItOnTheCPU])
def test_work_on_another_device_is_caught(monkeypatch: pytest.MonkeyPatch, part: type | None) -> None:
    monkeypatch.setattr(samplers, "devices", lambda: [torch.device("cpu"), torch.device("meta")])
    if part is None:
        check_sampler("part", registry_with("sampler", Honest))
        return
    with pytest.raises(ContractViolation) as caught:
        check_sampler("part", registry_with("sampler", part))
    assert caught.value.clause == "device", str(caught.value)


@pytest.mark.parametrize(("name", "summary"), [("Part", "A part."), ("a_part", "A part."), ("part", " ")])
def test_a_listing_that_is_hard_to_use_is_caught(name: str, summary: str) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_sampler(name, registry_with("sampler", Honest, name, summary))
    assert caught.value.clause == "listing"


def test_every_clause_has_a_broken_sampler() -> None:
    assert {clause for clause, _ in BROKEN} | {"listing", "device"} == set(CLAUSES["sampler"])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_predictions_of_the_gaussian_denoiser_agree_with_its_estimates(prediction_type: str) -> None:
    denoiser = GaussianDenoiser(0.3, 0.5, prediction_type)
    x_t = denoiser.start(1, 4, 3, 5)
    t = 700
    alpha = denoiser.alphas_cumprod[t]
    clean = denoiser.denoised(x_t / alpha**0.5, ((1 - alpha) / alpha) ** 0.5)
    scheduler = denoiser.scheduler
    scheduler.set_timesteps(1000)
    torch.testing.assert_close(
        scheduler.step(denoiser.predict(x_t, t), t, x_t).pred_original_sample, clean, atol=1e-4, rtol=1e-4
    )
