"""Fusion sites, pixel attention and the models that hold them, for all kinds of configs."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from torch import Tensor, nn

from tests.support import tiny
from xpsr_sdk import (
    AttentionSite,
    CheckpointError,
    ComponentSpec,
    ConfigError,
    Options,
    Registry,
    UnknownComponent,
    hookimpl,
)
from xpsr_sdk.builtin.semantic_fusion import SemanticFusionAttention
from xpsr_sdk.models.checkpoints import read_checkpoint, write_checkpoint
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.fusion import (
    describe_site,
    from_published_name,
    to_published_name,
    transformer_like,
)
from xpsr_sdk.models.unet import XPSRUNet

SD2_STYLE: dict[str, Any] = {
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": (1, 2, 4),  # heads a level: diffusers' old misnomer
    "use_linear_projection": True,
    "layers_per_block": 2,
}
EVERYWHERE = {"up_use_lowlevel_prompt": True, "mid_use_lowlevel_prompt": True, "down_use_lowlevel_prompt": True}


class ScaledFusion(nn.Module):
    """Adds the pooled low-level text, projected."""

    class Config(Options):
        strength: float = Field(0.5, description="Factor.")

    def __init__(self, config: Config | None, site: AttentionSite) -> None:
        super().__init__()
        self.strength = (config or self.Config()).strength
        self.project = nn.Linear(site.text_width, site.channels)

    def forward(
        self, attend: Callable[[Tensor, Tensor], Tensor], x: Tensor, high: Tensor, low: Tensor | None
    ) -> Tensor:
        content = attend(x, high)
        if low is None:
            return content
        return content + self.strength * self.project(low.mean(1))[:, :, None, None]

    def init_from_attention(self, attention: nn.Module) -> None:
        nn.init.constant_(self.project.bias, 0.25)


class Plugin:
    @hookimpl
    def xpsr_fusion_attentions(self) -> list[ComponentSpec]:
        return [ComponentSpec("scaled", f"{__name__}:ScaledFusion", "Adds the pooled low-level text.")]


@pytest.fixture
def with_plugin() -> Registry:
    return Registry([Plugin()])


def base(**config: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**{**tiny.UNET, **config})


def models(base: UNet2DConditionModel, fusion: Any = None, **unet: Any) -> tuple[XPSRUNet, XPSRControlNet]:
    torch.manual_seed(1)
    return XPSRUNet.from_base(base, **unet), XPSRControlNet.from_unet(base, tiny.CONDITIONING_WIDTHS, fusion)


def predict(
    models: tuple[XPSRUNet, XPSRControlNet], low: Tensor | None, height: int = 6, width: int = 5
) -> tuple[Tensor, Any]:
    unet, controlnet = models
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, unet.config.in_channels, height, width, generator=generator)
    image = torch.rand(2, 3, height * 4, width * 4, generator=generator)
    high = torch.randn(2, 7, 16, generator=generator)
    out = controlnet(x, 300, high, image, low, heads=True)
    return unet(x, 300, high, low, out.down_block_res_samples, out.mid_block_res_sample).sample, out


def low_text(seed: int = 0) -> Tensor:
    return torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(seed))


def test_the_fusion_of_a_model_is_found_through_its_config(with_plugin: Registry, tmp_path: Path) -> None:
    with with_plugin.in_force():
        written = models(base(), {"name": "scaled", "strength": 2.0})
        write_checkpoint(tmp_path / "checkpoint", *written)
        read = read_checkpoint(tmp_path / "checkpoint")
    config = json.loads((tmp_path / "checkpoint" / "controlnet" / "config.json").read_text())
    assert config["fusion"] == {"name": "scaled", "strength": 2.0}
    fusion: Any = read[1].mid_block.fusions[0]
    assert (type(fusion).__name__, fusion.strength) == ("ScaledFusion", 2.0)
    assert torch.equal(predict(written, low_text())[0], predict(read, low_text())[0])


def test_another_fusion_trains(with_plugin: Registry) -> None:
    with with_plugin.in_force():
        unet, controlnet = models(base(), "scaled")
    tiny.shake(controlnet)
    prediction, _ = predict((unet, controlnet), low_text())
    prediction.square().mean().backward()
    weights = {name: p for name, p in controlnet.named_parameters() if ".fusions." in name}
    assert len(weights) == 4  # one of the two down blocks has one attention site, the middle another
    assert all(p.grad is not None and p.grad.any() for p in weights.values())


def test_a_fresh_fusion_starts_as_it_says(with_plugin: Registry) -> None:
    with with_plugin.in_force():
        _, controlnet = models(base(), "scaled")
    assert bool((controlnet.mid_block.fusions[0].project.bias == 0.25).all())


def test_another_fusion_does_not_fit_a_trained_checkpoint(with_plugin: Registry, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, *models(base()))
    file = tmp_path / "controlnet" / "config.json"
    tiny.write_json(file, json.loads(file.read_text()) | {"fusion": "scaled"})
    with with_plugin.in_force(), pytest.raises(CheckpointError, match=r"another architecture or fusion\?"):
        read_checkpoint(tmp_path)


def test_a_checkpoint_whose_fusion_is_not_installed_says_so(
    registry: Registry, with_plugin: Registry, tmp_path: Path
) -> None:
    with with_plugin.in_force():
        write_checkpoint(tmp_path, *models(base(), "scaled"))
    with registry.in_force(), pytest.raises(UnknownComponent, match="offers the fusion attention 'scaled'"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("config", [{}, SD2_STYLE], ids=["sd1", "sd2"])
@pytest.mark.parametrize("unet_options", [{}, EVERYWHERE, {"up_use_lowlevel_prompt": [True, False, False]}])
def test_models_of_both_styles_run_train_and_are_read_again(
    config: dict[str, Any], unet_options: dict[str, Any], tmp_path: Path
) -> None:
    if isinstance(ups := unet_options.get("up_use_lowlevel_prompt"), list):
        unet_options = {"up_use_lowlevel_prompt": ups[-len(base(**config).up_blocks) :]}
    written = models(base(**config), **unet_options)
    for model in written:
        tiny.shake(model)
    prediction, out = predict(written, low_text())
    assert prediction.shape == (2, 48, 6, 5)
    (prediction.square().mean() + sum(x.square().mean() for x in (*out.rgbs, *out.latents))).backward()
    unused = [name for model in written for name, p in model.named_parameters() if p.grad is None]
    assert not unused
    write_checkpoint(tmp_path / "checkpoint", *written)
    assert torch.equal(predict(read_checkpoint(tmp_path / "checkpoint"), low_text())[0], prediction)


def test_heads_are_counted_a_level() -> None:
    unet, controlnet = models(base(**SD2_STYLE))
    heads = [block.attentions[0].config.num_attention_heads for block in controlnet.down_blocks[:2]]
    assert heads == [f.lowlevel.config.num_attention_heads for b in controlnet.down_blocks[:2] for f in b.fusions[:1]]
    assert heads == [1, 2]
    assert [block.pixel_attentions[0].config.num_attention_heads for block in unet.up_blocks] == [4, 2, 1]
    assert all(layer.config.use_linear_projection for block in unet.up_blocks for layer in block.pixel_attentions)


@pytest.mark.parametrize("part", ["unet", "controlnet"])
def test_the_low_level_prompt_matters_where_there_are_fusions(part: str) -> None:
    trained = models(base(), **(EVERYWHERE if part == "unet" else {}))
    for model in trained:
        tiny.shake(model)
    if part == "unet":
        trained = trained[0], XPSRControlNet.from_unet(base(), tiny.CONDITIONING_WIDTHS)  # its residuals are zero
    first, second = (predict(trained, low_text(seed))[0] for seed in (0, 1))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("options", [{}, EVERYWHERE])
def test_without_residuals_and_low_level_prompt_the_unet_is_the_base(options: dict[str, Any]) -> None:
    plain = base()
    unet, _ = models(plain, **options)
    x, high = torch.randn(1, 48, 5, 7), torch.randn(1, 7, 16)
    assert torch.allclose(unet(x, 10, high).sample, plain(x, 10, high).sample, atol=1e-6)


@cache
def fresh_models() -> tuple[XPSRUNet, XPSRControlNet]:
    return models(base())


@given(height=st.integers(2, 9), width=st.integers(2, 9))
def test_any_latent_size_is_kept(height: int, width: int) -> None:
    with torch.no_grad():
        prediction, out = predict(fresh_models(), low_text(), height, width)
    assert prediction.shape == (2, 48, height, width)
    assert [tuple(x.shape) for x in out.rgbs] == [(2, 3, height * 2, width * 2), (2, 3, height, width)]


def test_the_own_attention_keeps_the_bases_names() -> None:
    plain = base()
    unet, _ = models(plain, **EVERYWHERE)
    assert plain.state_dict().keys() < unet.state_dict().keys()


def test_published_names_are_turned_both_ways() -> None:
    ours, published = "down_blocks.0.fusions.1.lowlevel.norm.weight", "down_blocks.0.attentions_lowlevel.1.norm.weight"
    assert (to_published_name(ours), from_published_name(published)) == (published, ours)
    assert to_published_name("mid_block.attentions.0.norm.weight") == "mid_block.attentions.0.norm.weight"


@pytest.mark.parametrize("config", [{}, SD2_STYLE], ids=["sd1", "sd2"])
def test_a_transformer_like_a_sites_own_can_take_its_weights(config: dict[str, Any]) -> None:
    attention = base(**config).down_blocks[1].attentions[0]
    site = describe_site(attention, "down_blocks.1.attentions.0")
    x, text = torch.randn(1, 16, 3, 2), torch.randn(1, 5, 16)
    like = transformer_like(site)
    like.load_state_dict(attention.state_dict())
    assert torch.equal(like(x, text, return_dict=False)[0], attention(x, text, return_dict=False)[0])
    assert transformer_like(site, text_width=6)(x, torch.randn(1, 5, 6), return_dict=False)[0].shape == x.shape


def test_semantic_fusion_without_low_level_text_is_the_own_attention() -> None:
    site = AttentionSite("mid_block.attentions.0", 8, 2, 4, 6, 1, 4, False, False)
    x = torch.randn(1, 8, 3, 3)
    fusion = SemanticFusionAttention(None, site)
    assert torch.equal(fusion(lambda x, text: x * 2, x, torch.randn(1, 5, 6), None), x * 2)


def test_the_other_conditioning_encoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="use_rrdb is true"):
        XPSRControlNet(use_rrdb=True)
