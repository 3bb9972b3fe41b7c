from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests.support.registries import registry_with
from xpsr_sdk import BrokenPlugin, ConfigError, NonFiniteResult, Options
from xpsr_sdk.plugin_system.answers import blamed_on, checked_tensor, working_on
from xpsr_sdk.plugin_system.degrading import degraded

GOOD = torch.zeros(1, 3, 4, 4)


class Part:
    class Config(Options):
        pass

    def __init__(self, config: Config) -> None: ...

    def sample(self, raises: BaseException) -> Any:
        raise raises


@dataclass(frozen=True, slots=True)
class WithSlots:
    config: Any

    Config = Part.Config

    def sample(self, raises: BaseException) -> Any:
        raise raises


def built(part: type) -> Any:
    return registry_with("sampler", part).create("sampler", "part")


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (Part, "sampler 'part' of xpsr-test 0"),
        (WithSlots, "sampler tests.plugin_system.test_answers.WithSlots, which was handed over,"),
    ],
)
def test_what_a_part_raises_names_the_part_the_place_and_the_photo(part: type, name: str) -> None:
    asked = built(part)
    with pytest.raises(BrokenPlugin) as caught, working_on("a.png"), blamed_on("sampler", asked):
        asked.sample(KeyError("x"))
    told = str(caught.value)
    assert told.startswith(f"The {name} raised KeyError: 'x' (")
    assert "test_answers.py, line " in told
    assert told.endswith(" for a.png.")
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("error", [ConfigError("no"), KeyboardInterrupt(), MemoryError(), torch.OutOfMemoryError()])
def test_what_is_not_the_parts_fault_passes(error: BaseException) -> None:
    asked = built(Part)
    with pytest.raises(type(error)), blamed_on("sampler", asked):
        asked.sample(error)


def test_a_part_that_is_ended_by_a_signal_is_not_to_blame() -> None:
    class Waits(Part):
        def sample(self, raises: BaseException) -> Any:
            signal.raise_signal(signal.SIGTERM)

    def end(number: int, frame: object) -> None:
        raise SystemExit(number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(SystemExit), blamed_on("sampler", Waits(Part.Config())):
            Waits(Part.Config()).sample(OSError())
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (None, BrokenPlugin, "gave None as a result, not a tensor"),
        ([1], BrokenPlugin, "gave a list as a result"),
        (GOOD[0], BrokenPlugin, r"of shape \(3, 4, 4\), not \(1, 3, any, 4\)"),
        (GOOD.half(), BrokenPlugin, "in torch.float16, not in torch.float32"),
        (GOOD.to("meta"), BrokenPlugin, "on meta, not on cpu"),
        (GOOD.log(), NonFiniteResult, "not finite"),
        (GOOD * torch.nan, NonFiniteResult, "not finite"),
        (GOOD - 0.1, BrokenPlugin, "from -0.1 to -0.1, not from 0 to 1"),
        (GOOD + 1.1, BrokenPlugin, "from 1.1 to 1.1, not from 0 to 1"),
    ],
)
def test_an_answer_that_is_wrong_is_an_error(value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"The degradation model .*Part, which was handed over, gave .*{words}|{words}"):
        checked_tensor(
            "degradation_model", Part(Part.Config()), value, "a result", (1, 3, None, 4),
            dtype=torch.float32, device=torch.device("cpu"), within=(0, 1),
        )  # fmt: skip


def test_a_right_answer_is_given_on_and_rounding_is_none() -> None:
    for right in (GOOD, GOOD + 1.001, GOOD - 0.001, GOOD[:0]):
        assert checked_tensor("upscaler", object(), right, "a result", right.shape, within=(0, 1)) is right


def test_a_degradation_with_weights_gives_images_that_workers_can_send() -> None:
    class Weighted:
        scale = 1
        weight = torch.nn.Parameter(torch.ones(()))

        def __call__(self, hr: Any, generators: Any) -> Any:
            return hr * self.weight

    assert not degraded(Weighted(), GOOD, [torch.Generator()]).requires_grad
