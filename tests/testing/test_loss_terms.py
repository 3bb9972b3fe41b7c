"""Loss terms that break a clause each are caught."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.registries import registry_with
from xpsr_sdk import LossTerm, Options, Registry, TrainedModel, TrainingStep
from xpsr_sdk.testing import ContractViolation, check_loss_term
from xpsr_sdk.testing.clauses import CLAUSES, COMMON

Generators = Sequence[torch.Generator]


class Honest(nn.Module):
    """The error of the estimates, noisy ones, on scales that are trained."""

    class Config(Options):
        pass

    def __init__(self, config: Config, model: TrainedModel) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.rand(48, 1, 1))
        self.offset = nn.Parameter(torch.full((48, 1, 1), 0.01), requires_grad=False)

    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        drawn = torch.stack([torch.randn(step.clean.shape[1:], generator=each) for each in generators])
        noisy = step.clean + 0.1 * drawn.to(step.clean)
        return (self.scales * (noisy - step.latents) + self.offset).square().mean()


class TwoParts(Honest):
    """One part trains the model, the other trains the scales."""

    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        error = (step.clean - step.latents).square()
        return {"model": error.mean(), "scales": (self.scales * error.detach() - 1).square().mean()}


class NoModule:
    Config = Honest.Config

    def __init__(self, config: Honest.Config, model: TrainedModel) -> None:
        pass

    def __call__(self, step: TrainingStep, generators: Generators) -> Tensor:
        return step.prediction.mean()


class KeepsTheModel(Honest):
    def __init__(self, config: Honest.Config, model: TrainedModel) -> None:
        super().__init__(config, model)
        self.teacher = model.unet


class FreezesTheModel(Honest):
    def __init__(self, config: Honest.Config, model: TrainedModel) -> None:
        super().__init__(config, model)
        self.teacher = deepcopy(model.unet.requires_grad_(False))


class ChangesTheModel(Honest):
    def __init__(self, config: Honest.Config, model: TrainedModel) -> None:
        super().__init__(config, model)
        model.unet.conv_out.bias.data.add_(1)


class ReadsHeads(Honest):
    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        return super().forward(step, generators) + step.rgbs[0].square().mean()


class GivesNothing(Honest):
    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        return {}


class HalfPrecision(Honest):
    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        return super().forward(step, generators).half()


class OneForEachImage(Honest):
    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        return super().forward(step, generators).expand(len(step.hr))


class GivesANumber(Honest):
    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        return float(super().forward(step, generators).detach())


class NeedsDetail(Honest):
    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        return super().forward(step, generators) + (step.images - step.references).square().mean()


class Sums(Honest):
    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        return super().forward(step, generators) * len(step.hr)


class SumsSmallErrors(Sums):
    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        return 1e-5 * super().forward(step, generators)


class OneGeneratorForAll(Honest):
    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        return super().forward(step, generators[:1] * len(generators))


class CallsBackward(Honest):
    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        loss = super().forward(step, generators)
        if loss.requires_grad:
            loss.backward(retain_graph=True)
        return loss


class GrowsLater(Honest):
    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        if not hasattr(self, "late"):
            self.late = nn.Parameter(torch.ones(()))
        return super().forward(step, generators) * self.late


class TrainsInHalfPrecision(Honest):
    def __init__(self, config: Honest.Config, model: TrainedModel) -> None:
        super().__init__(config, model)
        self.half()


class ChangesTimesteps(Honest):
    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        step.timesteps.clamp_(max=500)
        return super().forward(step, generators)


class UsesUpGenerators(Honest):
    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        generators.reverse()  # type: ignore[attr-defined]
        return super().forward(step, generators)


class Detaches(Honest):
    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        return (self.scales * (step.clean - step.latents).detach() + self.offset).square().mean()


class LeavesOneUnused(Honest):
    def __init__(self, config: Honest.Config, model: TrainedModel) -> None:
        super().__init__(config, model)
        self.unused = nn.Linear(2, 2)


class FrozenAtRandom(Honest):
    def __init__(self, config: Honest.Config, model: TrainedModel) -> None:
        super().__init__(config, model)
        self.offset = nn.Parameter(torch.rand(48, 1, 1), requires_grad=False)


class Counts(Honest):
    calls = 0

    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        self.calls += 1
        return super().forward(step, generators) * self.calls


class CountsInABuffer(Honest):
    def __init__(self, config: Honest.Config, model: TrainedModel) -> None:
        super().__init__(config, model)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        self.calls += 1
        return super().forward(step, generators) * self.calls.clone()


class LeavesATensorBehind(Honest):
    def __init__(self, config: Honest.Config, model: TrainedModel) -> None:
        super().__init__(config, model)
        self.target = torch.zeros(3)


class FailsInHalfPrecision(Honest):
    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("expected float32")
        return super().forward(step, generators)


class DrawsGlobally(Honest):
    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        return super().forward(step, generators) + 1e-9 * torch.rand(())


class WritesIntoTheStep(Honest):
    def forward(self, step: TrainingStep, generators: Generators) -> Any:
        with torch.no_grad():
            step.hr.mul_(0.99)
        return super().forward(step, generators)


BROKEN = [
    ("module", NoModule),
    ("module", KeepsTheModel),
    ("construction", FreezesTheModel),
    ("construction", ChangesTheModel),
    ("heads", ReadsHeads),
    ("answer", GivesNothing),
    ("answer", HalfPrecision),
    ("mean", SumsSmallErrors),
    ("mean", OneGeneratorForAll),
    ("gradients", CallsBackward),
    ("trained parameters", GrowsLater),
    ("trained parameters", TrainsInHalfPrecision),
    ("inputs", ChangesTimesteps),
    ("inputs", UsesUpGenerators),
    ("answer", OneForEachImage),
    ("answer", GivesANumber),
    ("no detail", NeedsDetail),
    ("mean", Sums),
    ("gradients", Detaches),
    ("trained parameters", LeavesOneUnused),
    ("frozen parameters", FrozenAtRandom),
    ("state", Counts),
    ("device", LeavesATensorBehind),
    ("exceptions", FailsInHalfPrecision),
    ("determinism", DrawsGlobally),
    ("inputs", WritesIntoTheStep),
]


@pytest.mark.parametrize("part", [TwoParts, CountsInABuffer])
def test_an_honest_one_passes(part: type) -> None:
    check_loss_term("part", registry_with("loss_term", part))


@pytest.mark.parametrize(("clause", "part"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_one_is_caught(clause: str, part: type) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_loss_term("part", registry_with("loss_term", part))
    assert caught.value.clause == clause, str(caught.value)


def test_a_module_that_is_called_with_a_step_is_a_term() -> None:
    model: Any = None
    assert isinstance(Honest(Honest.Config(), model), LossTerm)


def test_every_clause_has_a_broken_term() -> None:
    assert {clause for clause, _ in BROKEN} | set(COMMON) | {"precision", "training"} == set(CLAUSES["loss_term"])


@pytest.mark.parametrize(
    "choice",
    ["constraint", {"name": "perceptual", "metric": "ssim"}, "pixel", "score-distillation"],
    ids=str,
)
def test_the_built_in_ones_pass(choice: Any) -> None:
    check_loss_term(choice, Registry([]))
