"""The perceptual term: any metric that compares a photo with its reference, chosen by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.registries import registry_with
from tests.support.training_runs import VALIDATION, config, log_of, validations_of
from xpsr_sdk import ConfigError, Options
from xpsr_sdk.training.loop import train


class Closeness:
    """Higher is better; 0 for equal photos."""

    class Config(Options):
        pass

    needs_reference = True
    lower_is_better = False
    min_side = 1
    details = "negative mean squared error"

    def __init__(self, config: Options) -> None:
        pass

    def measure(self, images: Tensor, references: Tensor) -> Tensor:
        return -(images - references).square().mean(dim=(1, 2, 3))


class NoGradients(Closeness):
    def measure(self, images: Tensor, references: Tensor) -> Tensor:
        return super().measure(images.detach(), references)


class Alone(Closeness):
    needs_reference = False


def test_a_metric_is_a_term_of_the_loss_and_a_column_of_validation(
    tmp_path: Path, pairs: Path, tiny_model: Path
) -> None:
    options = {
        "steps": 2,
        "loss": {"terms": {"diffusion": {}, "perceptual": {"metric": "part", "weight": 2.0}}},
        "validation": {"folders": [pairs], **VALIDATION, "metrics": ["part", "psnr"], "best": "part"},
    }
    train(config(tmp_path, pairs, tiny_model, **options), registry_with("metric", Closeness))
    for line in log_of(tmp_path):
        assert line["loss_perceptual"] > 0, "the sign is that of a distance"
    assert list(validations_of(tmp_path)[-1]) == ["step", "part", "psnr"]


@pytest.mark.parametrize(("part", "words"), [(Alone, "does not compare a photo"), (NoGradients, "gives no gradients")])
def test_a_metric_that_cannot_be_a_loss_is_refused(
    tmp_path: Path, pairs: Path, tiny_model: Path, part: type, words: str
) -> None:
    run = config(tmp_path, pairs, tiny_model, loss={"terms": {"perceptual": {"metric": "part"}}})
    with torch.enable_grad(), pytest.raises(ConfigError, match=f"The metric 'part' of .* cannot be a loss: it {words}"):
        train(run, registry_with("metric", part))
