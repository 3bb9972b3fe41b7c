"""The terms of the loss: chosen by name, weighted, and with networks of their own."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.registries import registry_with
from tests.support.training_runs import config, log_of, weights
from xpsr_sdk import BrokenPlugin, ConfigError, Options, TrainedModel, TrainingStep, UnknownComponent, read_toml
from xpsr_sdk.training.config import TrainConfig
from xpsr_sdk.training.dry_run import dry_run
from xpsr_sdk.training.loop import TrainingRun, train


class Learned(nn.Module):
    """A weight that is trained, a network that is not, a count of steps, and noise."""

    class Config(Options):
        start: float = 0.5

    def __init__(self, config: Config, model: TrainedModel) -> None:
        super().__init__()
        self.trained = nn.Parameter(torch.full((), config.start))
        self.frozen = nn.Conv2d(48, 4, 1).requires_grad_(False)
        nn.init.constant_(self.frozen.weight, 0.1)
        self.register_buffer("steps", torch.zeros(()))
        self.eval()

    def forward(self, step: TrainingStep, generators: Sequence[torch.Generator]) -> Any:
        assert not self.training, "the run leaves the mode to the term"
        self.steps += 1
        noise = torch.stack([torch.randn(step.clean.shape[1:], generator=each) for each in generators])
        error = (step.clean + 0.1 * noise - step.latents).square().mean() + 0 * self.frozen(step.clean).mean()
        return {"fit": self.trained * error / self.steps.clone(), "size": self.trained.square()}


class Fails(Learned):
    def forward(self, step: TrainingStep, generators: Sequence[torch.Generator]) -> Any:
        raise ValueError("no idea")


class HalfPrecision(Learned):
    def forward(self, step: TrainingStep, generators: Sequence[torch.Generator]) -> Any:
        return {name: value.half() for name, value in super().forward(step, generators).items()}


LEARNED = {"loss__terms": {"diffusion": {}, "mine": {"name": "part", "weight": 0.1, "start": 0.25}}}


def test_a_term_s_own_network_is_trained_and_resumed_to_the_same_bits(
    tmp_path: Path, pairs: Path, tiny_model: Path
) -> None:
    registry = registry_with("loss_term", Learned)
    options: dict[str, Any] = {"steps": 4, "checkpoint_every": 2, **LEARNED}
    whole = train(config(tmp_path / "whole", pairs, tiny_model, **options), registry)
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "halved" / "checkpoint-2")
    halved = train(config(tmp_path / "halved", pairs, tiny_model, **options), registry)
    lines = log_of(tmp_path / "whole")
    sizes = [[line["loss_mine_size"] for line in log_of(tmp_path / run)[-2:]] for run in ("whole", "halved")]
    assert sizes[0] == sizes[1]
    assert lines[0]["loss_mine_size"] == pytest.approx(0.1 * 0.25**2)
    assert lines[-1]["loss_mine_size"] != lines[0]["loss_mine_size"]
    assert lines[0]["grad_norm/loss.mine"] > 0
    expected, found = weights(whole), weights(halved)
    assert not [name for name in expected if not torch.equal(expected[name], found[name])]
    assert not [name for name in expected if "mine" in name], "a checkpoint holds the model alone"
    states = [torch.load(folder / "state.pt", weights_only=True) for folder in (whole, halved)]
    assert states[0]["loss_terms"] == states[1]["loss_terms"] == {"loss.mine.steps": torch.tensor(4.0)}
    assert torch.equal(*(state["weights"]["loss.mine.trained"] for state in states))
    assert not [name for name in states[0]["weights"] if "frozen" in name]


def test_a_dry_run_counts_the_networks_of_terms(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    found = dry_run(config(tmp_path, pairs, tiny_model, steps=1, **LEARNED), registry_with("loss_term", Learned))
    assert (found.trained["loss.mine"], found.frozen["loss.mine"]) == (1, 4 * 48 + 4)


def test_a_term_in_half_precision_is_added_to_the_others(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    run = config(tmp_path / "run", pairs, tiny_model, steps=1, precision="bfloat16", **LEARNED)
    train(run, registry_with("loss_term", HalfPrecision))
    assert log_of(tmp_path / "run")[0]["loss_mine_size"] == pytest.approx(0.1 * 0.25**2)


def test_a_term_that_fails_is_named(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    run = config(tmp_path, pairs, tiny_model, loss__terms={"mine": {"name": "part"}})
    with pytest.raises(BrokenPlugin, match="The loss term 'part' of xpsr-test 0 raised ValueError: no idea"):
        train(run, registry_with("loss_term", Fails))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"diffusion": {"eror": "mse"}}, "The loss term 'diffusion' .* eror: there is no such option"),
        ({"difusion": {}}, "No plug-in offers the loss term 'difusion'. Did you mean 'diffusion'"),
        ({"diffusion": {"weight": 0}}, "loss.terms names no term with a weight above 0"),
    ],
)
def test_a_wrong_term_is_explained(
    tmp_path: Path, pairs: Path, tiny_model: Path, terms: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, UnknownComponent), match=f"(?s){message}"):
        TrainingRun(config(tmp_path, pairs, tiny_model, loss__terms=terms))


def test_an_override_changes_one_term_of_the_default(tmp_path: Path) -> None:
    file = tmp_path / "train.toml"
    file.write_text('output = "run"\nsteps = 1\nbatch_size = 1\n[model]\nbase = "nano"\n[data]\nfolders = ["pairs"]\n')
    terms = read_toml(TrainConfig, file, ["loss.terms.constraint.weight=0.1", "loss.terms.perceptual.metric=ssim"])
    assert {label: term.weight for label, term in terms.loss.terms.items()} == {
        "diffusion": 1.0, "constraint": 0.1, "perceptual": 1.0,
    }  # fmt: skip
    assert terms.loss.terms["perceptual"].choice("perceptual") == {"name": "perceptual", "metric": "ssim"}
