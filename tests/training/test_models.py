"""The models that a training run starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support import tiny
from xpsr_sdk import ConfigError, Registry
from xpsr_sdk.builtin.residual import ResidualBackbone
from xpsr_sdk.training.config import ModelSection
from xpsr_sdk.training.models import build_for_training


@pytest.mark.parametrize("from_scratch", [False, True])
def test_a_backbone_is_loaded_for_training_as_its_contract_says(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_scratch: bool, registry: Registry
) -> None:
    tiny.write_configs(tmp_path / "base")
    load = ResidualBackbone.load
    loaded: list[tuple[torch.dtype, bool]] = []

    def strict(self: ResidualBackbone, folder: Path, dtype: torch.dtype, from_scratch: bool = False) -> None:
        loaded.append((dtype, from_scratch))
        load(self, folder, dtype, from_scratch)

    monkeypatch.setattr(ResidualBackbone, "load", strict)
    base = tmp_path / "base" if from_scratch else tiny_model
    widths = {"conditioning_widths": tiny.CONDITIONING_WIDTHS} if from_scratch else {}
    build_for_training(ModelSection.model_validate({"base": base, "from_scratch": from_scratch, **widths}), registry)
    assert loaded == [(torch.float32, from_scratch)]


def test_from_scratch_and_from_a_checkpoint_do_not_go_together(tiny_model: Path, registry: Registry) -> None:
    section = ModelSection(base=tiny_model, backbone="residual", from_scratch=True, checkpoint=tiny_model)
    with pytest.raises(ConfigError, match=r"model\.from_scratch is true, but model\.checkpoint names .*: leave one"):
        build_for_training(section, registry)
