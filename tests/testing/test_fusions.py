"""Fusions that break a clause each are caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.registries import registry_with
from xpsr_sdk import AttentionSite, Options
from xpsr_sdk.testing import ContractViolation, check_fusion_attention, fusions
from xpsr_sdk.testing.clauses import CLAUSES, COMMON

Attend = Callable[[Tensor, Tensor], Tensor]


class Honest(nn.Module):
    """Adds the pooled low-level text, projected, through a gate that is shut at first."""

    class Config(Options):
        """No options."""

    def __init__(self, config: Config, site: AttentionSite) -> None:
        super().__init__()
        self.project = nn.Linear(site.text_width, site.channels)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, attend: Attend, x: Tensor, high: Tensor, low: Tensor | None) -> Any:
        content = attend(x, high)
        return content if low is None else content + self.gate * self.quality(x, low)

    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        quality: Tensor = self.project(low.mean(1))[:, :, None, None]
        return quality

    def init_from_attention(self, attention: nn.Module) -> None:
        pass


class NoModule:
    Config = Honest.Config

    def __init__(self, config: Honest.Config, site: AttentionSite) -> None:
        pass

    def __call__(self, attend: Attend, x: Tensor, high: Tensor, low: Tensor | None) -> Tensor:
        return attend(x, high)

    def init_from_attention(self, attention: nn.Module) -> None:
        pass


class Frozen(Honest):
    def __init__(self, config: Honest.Config, site: AttentionSite) -> None:
        super().__init__(config, site)
        self.project.requires_grad_(False)


class LooseWeight(Honest):
    def __init__(self, config: Honest.Config, site: AttentionSite) -> None:
        super().__init__(config, site)
        self.loose = torch.zeros(site.channels, requires_grad=True)


class ListsItsLayers(Honest):
    def __init__(self, config: Honest.Config, site: AttentionSite) -> None:
        super().__init__(config, site)
        self.layers = [nn.Linear(site.channels, site.channels)]


class KeepsTexts(Honest):
    """By their shapes and precisions, as if all texts were the same."""

    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        if torch.is_grad_enabled() or low.is_meta:
            return super().quality(x, low)
        self.kept = getattr(self, "kept", {})
        return self.kept.setdefault((low.shape, low.dtype), super().quality(x, low))


class GivesMoreInTraining(Honest):
    def forward(self, attend: Attend, x: Tensor, high: Tensor, low: Tensor | None) -> Any:
        fused = super().forward(attend, x, high, low)
        return (fused, {}) if self.training else fused


class ChangesTheAttention(Honest):
    def init_from_attention(self, attention: Any) -> None:
        nn.init.zeros_(attention.proj_out.weight)


class SharesTheAttention(Honest):
    def __init__(self, config: Honest.Config, site: AttentionSite) -> None:
        super().__init__(config, site)
        self.norm = nn.GroupNorm(site.norm_groups, site.channels)

    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        return super().quality(self.norm(x), low)

    def init_from_attention(self, attention: Any) -> None:
        self.norm.weight = attention.norm.weight


class Pools(Honest):
    def forward(self, attend: Attend, x: Tensor, high: Tensor, low: Tensor | None) -> Tensor:
        return super().forward(attend, x, high, low).mean((2, 3), keepdim=True)


class EvenSizesOnly(Honest):
    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        return super().quality(x.unflatten(-1, (-1, 2)), low)


class FixedLength(Honest):
    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        return super().quality(x, low.expand(len(low), 7, -1))


class Float64(Honest):
    def forward(self, attend: Attend, x: Tensor, high: Tensor, low: Tensor | None) -> Tensor:
        return super().forward(attend, x, high, low).double()


class PromotesInHalfPrecision(Honest):
    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        return super().quality(x, low) * torch.ones(1)


class Views(Honest):
    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        return super().quality(x, low) + x.view(len(x), -1).mean(1)[:, None, None, None]


class NeedsLow(Honest):
    def forward(self, attend: Attend, x: Tensor, high: Tensor, low: Tensor | None) -> Tensor:
        assert low is not None, "no low-level prompt"
        return attend(x, high) + self.gate * self.quality(x, low)


class WritesIntoFeatures(Honest):
    def forward(self, attend: Attend, x: Tensor, high: Tensor, low: Tensor | None) -> Tensor:
        content = super().forward(attend, x, high, low)
        if not x.requires_grad:
            x.add_(1)
        return content


class DropsOut(Honest):
    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        return torch.dropout(super().quality(x, low).expand_as(x), 0.5, train=True)


class Remembers(Honest):
    last: Tensor | float = 0.0

    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        quality, before = super().quality(x, low), self.last
        self.last = quality.detach().mean()
        return quality + (before if x.device.type != "meta" else 0.0)


class MixesImages(Honest):
    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        return super().quality(x, low) + x.mean()


class UsesTheFirstText(Honest):
    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        return super().quality(x, low[:1].expand_as(low))


class BranchesOnValues(Honest):
    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        quality = super().quality(x, low)
        return quality if low.abs().max() > 0 else 0 * quality


class ReadsAValue(Honest):
    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        return super().quality(x, low) * min(float(self.gate) + 2, 1.0)


class UnusedParameter(Honest):
    def __init__(self, config: Honest.Config, site: AttentionSite) -> None:
        super().__init__(config, site)
        self.unused = nn.Parameter(torch.ones(3))


class DetachesFeatures(Honest):
    def forward(self, attend: Attend, x: Tensor, high: Tensor, low: Tensor | None) -> Tensor:
        return super().forward(attend, x.detach(), high, low)


class DetachesOnTheWay(Honest):
    """Lets gradients through to the features, but other ones than its attention has."""

    def forward(self, attend: Attend, x: Tensor, high: Tensor, low: Tensor | None) -> Any:
        return super().forward(lambda x, text: attend(x.detach(), text) + x - x.detach(), x, high, low)


class NoGradForContent(Honest):
    def forward(self, attend: Attend, x: Tensor, high: Tensor, low: Tensor | None) -> Tensor:
        return super().forward(attend, x, high.detach(), low)


class DetachesLow(Honest):
    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        return super().quality(x, low.detach())


class DetachesFaintLow(Honest):
    """As one whose low-level text changes little."""

    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        return 0.01 * super().quality(x, low.detach())


class RoundsToFloat32(Honest):
    """In all that it computes, as fusions may for the sake of precision."""

    def forward(self, attend: Attend, x: Tensor, high: Tensor, low: Tensor | None) -> Tensor:
        fused = super().forward(attend, x, high, low)
        return fused.float().to(x.dtype)


class Kinked(Honest):
    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        return super().quality(x, low).relu()


class KeepsATensor(Honest):
    """Takes a start value that the state dict doesn't hold."""

    bias: Tensor | float = 0.0

    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        return super().quality(x, low) + self.bias

    def init_from_attention(self, attention: Any) -> None:
        self.bias = 1.0 + float(attention.proj_out.bias.detach().abs().mean())


class NonPersistentBuffer(Honest):
    def __init__(self, config: Honest.Config, site: AttentionSite) -> None:
        super().__init__(config, site)
        self.register_buffer("curve", torch.arange(1.0, site.channels + 1)[:, None, None], persistent=False)

    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        return super().quality(x, low) * self.curve


class TiedWeights(Honest):
    def __init__(self, config: Honest.Config, site: AttentionSite) -> None:
        super().__init__(config, site)
        self.again = nn.Linear(site.text_width, site.channels)
        self.again.weight = self.project.weight

    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        return super().quality(x, low) + self.again(low.mean(1))[:, :, None, None]


class OpenGate(Honest):
    def __init__(self, config: Honest.Config, site: AttentionSite) -> None:
        super().__init__(config, site)
        nn.init.constant_(self.gate, 0.01)


class NeedsPlainPlaces(Honest):
    """Knows the sites of the checks only."""

    def __init__(self, config: Honest.Config, site: AttentionSite) -> None:
        super().__init__(config, site)
        if site.channels == 16:
            raise ValueError("16 channels")


class TooDeepForTwoPrompts(Honest):
    """Fails with the texts of a restoration, which a model of one image at a time is fed with."""

    def quality(self, x: Tensor, low: Tensor) -> Tensor:
        if low.shape[:2] == (1, 48):
            raise ValueError("one image")
        return super().quality(x, low)


class NeedsValuesToBeBuilt(Honest):
    def __init__(self, config: Any, site: Any) -> None:
        super().__init__(config, site)
        if float(torch.ones(1)) != 1:
            raise ValueError


class FailsAlways(Honest):
    def forward(self, *args: Any) -> Any:
        return {}["no key"]


BROKEN = [
    ("exceptions", FailsAlways),
    ("meta device", NeedsValuesToBeBuilt),
    ("module", NoModule),
    ("module", Frozen),
    ("module", LooseWeight),
    ("module", ListsItsLayers),
    ("determinism", KeepsTexts),
    ("gradients", GivesMoreInTraining),
    ("initialisation", ChangesTheAttention),
    ("initialisation", SharesTheAttention),
    ("shape", Pools),
    ("exceptions", EvenSizesOnly),
    ("exceptions", FixedLength),
    ("dtype", Float64),
    ("dtype", PromotesInHalfPrecision),
    ("memory layout", Views),
    ("no low-level prompt", NeedsLow),
    ("inputs", WritesIntoFeatures),
    ("determinism", DropsOut),
    ("determinism", Remembers),
    ("batch", MixesImages),
    ("batch", UsesTheFirstText),
    ("data-independent control flow", BranchesOnValues),
    ("data-independent control flow", ReadsAValue),
    ("gradients", UnusedParameter),
    ("gradients", DetachesFeatures),
    ("gradients", DetachesOnTheWay),
    ("gradients", NoGradForContent),
    ("gradients", DetachesLow),
    ("gradients", DetachesFaintLow),
    ("state dict", KeepsATensor),
    ("state dict", NonPersistentBuffer),
    ("state dict", TiedWeights),
    ("identity at start", OpenGate),
    ("training", NeedsPlainPlaces),
    ("restoration", TooDeepForTwoPrompts),
]


def test_the_honest_one_passes() -> None:
    check_fusion_attention("part", registry_with("fusion_attention", Honest), identity_at_start=True)


@pytest.mark.parametrize("part", [RoundsToFloat32, Kinked])
def test_gradients_are_as_exact_as_the_arithmetic(part: type) -> None:
    check_fusion_attention("part", registry_with("fusion_attention", part), identity_at_start=True)


def test_identity_at_start_is_asked_for_where_it_is_promised_only() -> None:
    check_fusion_attention("part", registry_with("fusion_attention", OpenGate))


@pytest.mark.parametrize(("clause", "part"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_one_is_caught(clause: str, part: type) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_fusion_attention("part", registry_with("fusion_attention", part), identity_at_start=True)
    assert caught.value.clause == clause, str(caught.value)


class AddsATensorOfTheCPU(Honest):
    def forward(self, attend: Attend, x: Tensor, high: Tensor, low: Tensor | None) -> Any:
        return super().forward(attend, x, high, low) + torch.zeros(x.shape[1:], dtype=x.dtype)


class GivesItOnTheCPU(Honest):
    def forward(self, attend: Attend, x: Tensor, high: Tensor, low: Tensor | None) -> Any:
        fused = super().forward(attend, x, high, low)
        return torch.zeros(x.shape, dtype=x.dtype) if x.is_meta else fused


@pytest.mark.parametrize("part", [AddsATensorOfTheCPU, GivesItOnTheCPU])
def test_tensors_on_another_device_are_caught(monkeypatch: pytest.MonkeyPatch, part: type) -> None:
    monkeypatch.setattr(fusions, "devices", lambda: [torch.device("cpu"), torch.device("meta")])
    with pytest.raises(ContractViolation) as caught:
        check_fusion_attention("part", registry_with("fusion_attention", part))
    assert caught.value.clause == "device", str(caught.value)


def test_a_tensor_of_the_cpu_is_caught_without_another_device() -> None:
    with pytest.raises(ContractViolation, match="create tensors on the device of x"):
        check_fusion_attention("part", registry_with("fusion_attention", AddsATensorOfTheCPU))


def test_every_clause_has_a_broken_fusion() -> None:
    assert {clause for clause, _ in BROKEN} | set(COMMON) | {"device"} == set(CLAUSES["fusion_attention"])
