"""Metrics that fail or answer wrongly: the part is named, with its kind and distribution."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.registries import registry_with
from xpsr_sdk import BrokenPlugin, ImageError, Options
from xpsr_sdk.evaluation.choosing import needed_metrics
from xpsr_sdk.evaluation.chosen import ChosenMetric

IMAGES = torch.zeros(2, 3, 8, 8)
ANSWER: list[Callable[[], Any]] = []


class Answering:
    """A metric that answers as the test says, for photos and for whole folders."""

    class Config(Options):
        """No options."""

    needs_reference, lower_is_better, min_side, details = False, False, 1, "of a test"

    def __init__(self, config: Config | None = None) -> None: ...

    def measure(self, images: Tensor, references: Tensor | None) -> Any:
        return ANSWER[0]()

    def compare(self, features: Tensor, references: Tensor | None) -> Any:
        return ANSWER[0]()


@pytest.fixture
def metric() -> ChosenMetric:
    (chosen,) = needed_metrics(["answering"], registry_with("metric", Answering, "answering"))
    return chosen


@pytest.mark.parametrize(
    ("answer", "ask", "error", "words"),
    [
        (lambda: sys.exit("over"), "figures", ImageError, "raised SystemExit: over"),
        (lambda: [][0], "figures", ImageError, "raised IndexError: list index out of range"),
        (lambda: None, "figures", BrokenPlugin, "gave a NoneType, not a tensor"),
        (lambda: torch.zeros(3), "figures", BrokenPlugin, r"gave figures of shape \(3,\), not \(2,\)"),
        (lambda: "good", "compare", BrokenPlugin, "gave 'good' as the figure of a folder, not a number"),
        (lambda: [][0], "compare", BrokenPlugin, "raised IndexError: list index out of range"),
    ],
)
def test_the_metric_is_named(
    metric: ChosenMetric, answer: Callable[[], Any], ask: str, error: type[Exception], words: str
) -> None:
    ANSWER[:] = [answer]
    with pytest.raises(error, match=rf"The metric 'answering' of .* {words}"):
        getattr(metric, ask)(IMAGES, None)
