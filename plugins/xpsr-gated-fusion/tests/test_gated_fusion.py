"""The three fusions: what they compute, how they start, and that models with them train."""

from __future__ import annotations

import pytest
import torch
import xpsr_gated_fusion
from diffusers import Transformer2DModel
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor, nn
from xpsr_gated_fusion.fusions import Attend, GatedFusion, HighOnlyFusion, SerialFusion

from xpsr_sdk import AttentionSite, Registry, XPSRControlNet
from xpsr_sdk.testing import check_distribution, check_fusion_attention

SITE = AttentionSite(
    place="mid_block.attentions.0",
    channels=8,
    heads=2,
    head_dim=4,
    text_width=6,
    depth=1,
    norm_groups=4,
    linear_projection=False,
    upcast_attention=False,
)
FUSIONS = [GatedFusion, SerialFusion, HighOnlyFusion]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry([xpsr_gated_fusion])


def own_attention(seed: int = 0) -> Transformer2DModel:
    torch.manual_seed(seed)
    return Transformer2DModel(2, 4, in_channels=8, cross_attention_dim=6, norm_num_groups=4)


def attend_with(attention: Transformer2DModel) -> Attend:
    return lambda x, text: attention(x, text, return_dict=False)[0]


def run(fusion: nn.Module, attention: Transformer2DModel, x: Tensor, high: Tensor, low: Tensor | None) -> Tensor:
    return fusion(attend_with(attention), x, high, low)


def inputs(batch: int = 2, height: int = 5, width: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = (batch, 8, height, width), (batch, 7, 6), (batch, 7, 6)
    x, high, low = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, high, low


def opened(fusion: nn.Module) -> nn.Module:
    if isinstance(fusion, GatedFusion):
        nn.init.constant_(fusion.gate, 0.5)
    return fusion


def test_the_registry_offers_all_three(registry: Registry) -> None:
    names = [c.spec.name for c in registry.components("fusion_attention") if c.distribution == "xpsr_gated_fusion"]
    assert names == ["gated", "high-only", "serial"]
    assert [
        type(registry.create("fusion_attention", name, SITE)) for name in ("gated", "serial", "high-only")
    ] == FUSIONS


@pytest.mark.parametrize("fusion", FUSIONS)
@given(batch=st.integers(1, 2), height=st.integers(1, 5), width=st.integers(1, 5))
def test_any_size_keeps_its_shape(fusion: type[nn.Module], batch: int, height: int, width: int) -> None:
    x, high, low = inputs(batch, height, width)
    with torch.no_grad():
        assert run(fusion(None, SITE), own_attention(), x, high, low).shape == x.shape


@pytest.mark.parametrize("fusion", FUSIONS)
def test_without_a_low_level_prompt_the_own_attention_acts_alone(fusion: type[nn.Module]) -> None:
    x, high, _ = inputs()
    attention = own_attention()
    assert torch.equal(run(opened(fusion(None, SITE)), attention, x, high, None), attend_with(attention)(x, high))


def test_gated_starts_as_the_own_attention() -> None:
    x, high, low = inputs()
    fusion, attention = GatedFusion(None, SITE), own_attention()
    fusion.init_from_attention(attention)
    assert torch.equal(run(fusion, attention, x, high, low), attend_with(attention)(x, high))


def test_gated_adds_what_the_low_level_attention_adds() -> None:
    x, high, low = inputs()
    fusion, attention = GatedFusion(None, SITE), own_attention()
    fusion.init_from_attention(attention)
    nn.init.constant_(fusion.gate, 20.0)  # tanh(20) is 1
    expected = attend_with(attention)(x, high) + attend_with(attention)(x, low) - x
    torch.testing.assert_close(run(fusion, attention, x, high, low), expected)


def test_serial_is_one_attention_after_the_other() -> None:
    x, high, low = inputs()
    fusion, attention = SerialFusion(None, SITE), own_attention()
    fusion.init_from_attention(attention)
    attend = attend_with(attention)
    torch.testing.assert_close(run(fusion, attention, x, high, low), attend(attend(x, high), low))


def test_high_only_ignores_the_low_level_prompt() -> None:
    x, high, low = inputs()
    fusion, attention = HighOnlyFusion(None, SITE), own_attention()
    assert torch.equal(run(fusion, attention, x, high, low), run(fusion, attention, x, high, -low))
    assert not fusion.state_dict()


@pytest.mark.parametrize("fusion", [GatedFusion, SerialFusion])
def test_the_low_level_prompt_matters_and_every_weight_learns(fusion: type[nn.Module]) -> None:
    x, high, low = inputs()
    module, attention = opened(fusion(None, SITE)), own_attention()
    out = run(module, attention, x, high, low)
    assert not torch.allclose(out, run(module, attention, x, high, -low))
    out.square().mean().backward()
    assert not [name for name, weight in module.named_parameters() if weight.grad is None or not weight.grad.any()]


def test_a_shut_gate_learns_to_open() -> None:
    x, high, low = inputs()
    fusion = GatedFusion(None, SITE)
    run(fusion, own_attention(), x, high, low).square().mean().backward()
    assert fusion.gate.grad is not None
    assert fusion.gate.grad.all()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_weights_survive_safetensors(fusion: type[nn.Module]) -> None:
    x, high, low = inputs()
    attention, saved, loaded = own_attention(), opened(fusion(None, SITE)), fusion(None, SITE)
    loaded.load_state_dict(load(save(saved.state_dict())))
    assert torch.equal(run(saved, attention, x, high, low), run(loaded, attention, x, high, low))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_half_precision_stays_half_precision(fusion: type[nn.Module]) -> None:
    x, high, low = (tensor.bfloat16() for tensor in inputs())
    out = run(opened(fusion(None, SITE)).bfloat16(), own_attention().bfloat16(), x, high, low)
    assert out.dtype == torch.bfloat16


def tiny_controlnet(registry: Registry, fusion: str) -> XPSRControlNet:
    torch.manual_seed(0)
    with registry.in_force():
        return XPSRControlNet(
            fusion=fusion,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=6,
            attention_head_dim=2,
            conditioning_embedding_out_channels=(4, 8),
        )


@pytest.mark.parametrize("fusion", ["gated", "serial", "high-only"])
def test_a_model_takes_a_training_step_and_is_saved_and_loaded(registry: Registry, fusion: str, tmp_path) -> None:
    controlnet = tiny_controlnet(registry, fusion)
    latents, texts = torch.randn(2, 4, 8, 8), torch.randn(2, 2, 7, 6)
    image = torch.rand(2, 3, 16, 16)
    out = controlnet(latents, 10, texts[0], image, texts[1], heads=True)
    out.mid_block_res_sample.square().mean().backward()
    torch.optim.SGD(controlnet.parameters(), lr=0.1).step()

    controlnet.save_pretrained(tmp_path)
    with registry.in_force():
        loaded = XPSRControlNet.from_pretrained(tmp_path)
    assert loaded.config.fusion == fusion
    again = [model(latents, 10, texts[0], image, texts[1]).mid_block_res_sample for model in (controlnet, loaded)]
    assert torch.equal(*again)


@pytest.mark.parametrize("name", ["gated", "serial", "high-only"])
def test_the_contract(registry: Registry, name: str) -> None:
    check_fusion_attention(name, registry, identity_at_start=name == "gated")


def test_the_distribution() -> None:
    check_distribution("xpsr-gated-fusion")
