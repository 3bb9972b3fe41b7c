"""Every built-in part keeps its contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xpsr_sdk import Registry
from xpsr_sdk.testing import (
    check_backbone,
    check_degradation_model,
    check_fusion_attention,
    check_prompt_provider,
    check_sampler,
    tiny,
)

BUILT_IN = Registry([])


def names(kind: str) -> list[str]:
    return [component.spec.name for component in BUILT_IN.components(kind)]


# The others need a model, a server or files of prompts: tests/builtin/ makes those.
@pytest.mark.parametrize("choice", ["fixed", "measured", {"name": "ensemble", "high": ["fixed"], "low": ["measured"]}])
def test_prompt_providers(choice: Any) -> None:
    check_prompt_provider(choice, BUILT_IN)


@pytest.mark.parametrize("name", names("fusion_attention"))
def test_fusion_attentions(name: str) -> None:
    check_fusion_attention(name, BUILT_IN)


@pytest.mark.parametrize("name", names("degradation_model"))
def test_degradation_models(name: str) -> None:
    check_degradation_model(name, BUILT_IN)


@pytest.mark.parametrize("name", names("sampler"))
def test_samplers(name: str) -> None:
    check_sampler(name, BUILT_IN)


def test_there_is_a_test_of_each_backbone_below() -> None:
    assert names("backbone") == ["residual", "stable-diffusion", "stable-diffusion-xl"]


def test_the_stable_diffusion_backbone() -> None:
    check_backbone("stable-diffusion", registry=BUILT_IN)


def test_the_stable_diffusion_xl_backbone(tmp_path: Path) -> None:
    tiny.write_stable_diffusion_xl(tmp_path / "base")
    check_backbone("stable-diffusion-xl", tmp_path / "base", BUILT_IN)


def test_the_residual_backbone(tmp_path: Path) -> None:
    tiny.write_base_model(tmp_path / "base")
    check_backbone("residual", tmp_path / "base", BUILT_IN, lossless=True)
