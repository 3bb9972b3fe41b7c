"""SDXL: what diffusers computes bit for bit, and a model of it that is trained, run and saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from tests.support import tiny
from tests.support.full_size import SDXL_UNET, networks
from tests.support.training_runs import config, log_of
from xpsr_sdk import (
    BrokenPlugin,
    CheckpointError,
    ComponentSpec,
    Conditioning,
    Pipeline,
    Registry,
    build_pipeline,
    hookimpl,
)
from xpsr_sdk.builtin.stable_diffusion_xl import StableDiffusionXL
from xpsr_sdk.config import read_toml
from xpsr_sdk.engine.denoiser import GuidedDenoiser
from xpsr_sdk.engine.tiling import plan_tiles
from xpsr_sdk.models.checkpoints import write_checkpoint
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.unet import XPSRUNet
from xpsr_sdk.testing import ContractViolation, check_backbone
from xpsr_sdk.training.config import TrainConfig
from xpsr_sdk.training.dry_run import dry_run
from xpsr_sdk.training.loop import train

PHOTO = tiny.photo(17, 20)
TEXTS = ["a house, strong blur.", ""]
QUICK: dict[str, Any] = {"seed": 1, "num_inference_steps": 2, "scale": 2}


@pytest.fixture(autouse=True)
def in_force(registry: Registry) -> Iterator[None]:
    """Networks find their fusion."""
    with registry.in_force():
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "xl"
    tiny.write_stable_diffusion_xl(folder)
    return folder


@pytest.fixture(scope="module")
def diffusers_pipe(base: Path) -> Any:
    return StableDiffusionXLPipeline.from_pretrained(base, add_watermarker=False)


@pytest.fixture(scope="module")
def backbone(base: Path) -> StableDiffusionXL:
    found = StableDiffusionXL()
    found.load(base)
    return found


@pytest.fixture(scope="module")
def checkpoint(base: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run of three steps."""
    return train(config(tmp_path_factory.mktemp("runs") / "run", pairs, base))


@pytest.fixture(scope="module")
def pipe(base: Path, checkpoint: Path) -> Pipeline:
    return build_pipeline(model=str(base), checkpoint=checkpoint, device="cpu", tile=512)


@torch.no_grad()
def test_text_pooled_text_and_sizes_are_those_of_diffusers(diffusers_pipe: Any, backbone: StableDiffusionXL) -> None:
    negatives = ["noise", "lowres, unclear"]
    positive, negative, pooled, negative_pooled = diffusers_pipe.encode_prompt(
        TEXTS, negative_prompt=negatives, device="cpu"
    )
    sizes = diffusers_pipe._get_add_time_ids((1024, 1024), (0, 0), (1024, 1024), torch.float32, 12)
    for texts, embeddings, pool in ((TEXTS, positive, pooled), (negatives, negative, negative_pooled)):
        found = backbone.encode_text(texts)
        assert torch.equal(found.embeddings, embeddings)
        assert torch.equal(found.added["text_embeds"], pool)
        assert torch.equal(found.added["time_ids"], sizes.repeat(2, 1))
    assert backbone.text_width == 40
    other = StableDiffusionXL(StableDiffusionXL.Config(original_size=(768, 512), crop=(8, 16)))
    other.load(diffusers_pipe.config._name_or_path)
    assert other.encode_text(["a"]).added["time_ids"].tolist() == [[768, 512, 8, 16, 1024, 1024]]


@torch.no_grad()
def test_chunks_and_weights_reach_both_encoders(backbone: StableDiffusionXL) -> None:
    room = backbone.max_tokens - 2
    words = " ".join(["noise"] * room)
    long = backbone.encode_text([f"{words} blurry noise"], long_prompts="chunks")
    parts = backbone.encode_text([words, "blurry noise"])
    torch.testing.assert_close(long.embeddings[0], parts.embeddings.flatten(0, 1))
    torch.testing.assert_close(long.added["text_embeds"], parts.added["text_embeds"][:1])
    plain, weighted = (backbone.encode_text(["a (house:1.5)"], weighted=w).embeddings for w in (False, True))
    assert plain.shape == weighted.shape
    assert all(not torch.equal(plain[..., i], weighted[..., i]) for i in (0, 16))


def inputs(network: Any, batch: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Latents, text, and what is added to it."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([[1024.0, 768, 0, 8, 512, 512]]).repeat(batch, 1)
    added = {"text_embeds": torch.randn(batch, 12, generator=generator), "time_ids": sizes}
    text = torch.randn(batch, 7, network.config.cross_attention_dim, generator=generator)
    return torch.randn(batch, 4, 12, 8, generator=generator), text, added


@torch.no_grad()
def test_at_the_start_the_prediction_is_that_of_diffusers_bit_for_bit(base: Path) -> None:
    original = UNet2DConditionModel.from_pretrained(base / "unet")
    x, text, added = inputs(original, 2)
    expected = original(x, 500, text, added_cond_kwargs=added).sample
    options: dict[str, Any] = {"added_cond_kwargs": added}
    assert torch.equal(XPSRUNet.from_base(original)(x, 500, text, **options).sample, expected)
    controlnet = XPSRControlNet.from_unet(original, tiny.CONDITIONING_WIDTHS)
    out = controlnet(x, 500, text, torch.rand(2, 3, 48, 32), torch.randn(2, 7, 40), **options)
    residuals = out.down_block_res_samples, out.mid_block_res_sample
    unet = XPSRUNet.from_base(original, pixel_attention=False)
    assert torch.equal(unet(x, 500, text, None, *residuals, **options).sample, expected)
    tiny.shake(controlnet)  # no longer at the start
    out = controlnet(x, 500, text, torch.rand(2, 3, 48, 32), torch.randn(2, 7, 40), **options)
    moved = unet(x, 500, text, None, out.down_block_res_samples, out.mid_block_res_sample, **options).sample
    assert not torch.allclose(moved, expected)


def test_the_parts_have_the_depth_of_their_level(base: Path) -> None:
    original = UNet2DConditionModel.from_pretrained(base / "unet")
    unet = XPSRUNet.from_base(original)
    controlnet = XPSRControlNet.from_unet(original, tiny.CONDITIONING_WIDTHS)
    assert [len(block.pixel_attentions) for block in unet.up_blocks] == [2, 2, 2]
    assert not hasattr(controlnet.down_blocks[0], "fusions")  # a level without attention
    depths = [len(block.fusions[0].connect.transformer_blocks) for block in controlnet.down_blocks[1:]]
    assert depths == [2, 3]
    shallow = XPSRControlNet.from_unet(original, tiny.CONDITIONING_WIDTHS, {"name": "xpsr", "depth": 1})
    depths = [len(block.fusions[0].connect.transformer_blocks) for block in shallow.down_blocks[1:]]
    assert depths == [1, 1]
    first = shallow.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight
    assert torch.equal(shallow.mid_block.fusions[0].lowlevel.transformer_blocks[0].attn1.to_q.weight, first)


@torch.no_grad()
def test_what_is_added_follows_its_prompt_through_guidance_and_tiles(base: Path) -> None:
    original = UNet2DConditionModel.from_pretrained(base / "unet")
    networks = XPSRUNet.from_base(original), XPSRControlNet.from_unet(original, tiny.CONDITIONING_WIDTHS)
    scheduler = StableDiffusionXLPipeline.from_pretrained(base, unet=original, add_watermarker=False).scheduler
    x, text, added = inputs(original, 4)  # two images, negative and positive

    def predict(which: Any, images: list[int], **options: Any) -> Tensor:
        """The prediction for images with some of the prompts, G B."""
        chosen = {name: t.unflatten(0, (2, 2))[which][:, images] for name, t in {"text": text, **added}.items()}
        denoiser = GuidedDenoiser(
            *networks, high=chosen.pop("text"), low=None, added=chosen, condition=torch.zeros(len(images), 3, 48, 32),
            scheduler=scheduler, start_timestep=999, conditioning_scale=1.0,
            **{"guidance_scale": 1.0, "tile_batch": 1, "tiles": plan_tiles(12, 8, None, 0)} | options,
        )  # fmt: skip
        return denoiser.predict(x[images], 500)

    negative, positive = (predict(slice(i, i + 1), [0, 1]) for i in (0, 1))
    guided = predict(slice(0, 2), [0, 1], guidance_scale=3.0)
    torch.testing.assert_close(guided, negative + 3 * (positive - negative), atol=1e-4, rtol=1e-4)
    alone = predict(slice(0, 2), [1], guidance_scale=3.0)
    torch.testing.assert_close(guided[1:], alone, atol=1e-4, rtol=1e-4)
    tiles = plan_tiles(12, 8, 8, 4)
    one, several = (predict(slice(0, 2), [0, 1], tiles=tiles, tile_batch=count) for count in (1, 4))
    torch.testing.assert_close(several, one, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_sampling_before_training_is_that_of_diffusers(base: Path, diffusers_pipe: Any, tmp_path: Path) -> None:
    original = UNet2DConditionModel.from_pretrained(base / "unet")
    controlnet = XPSRControlNet.from_unet(original, tiny.CONDITIONING_WIDTHS)
    write_checkpoint(tmp_path / "fresh", XPSRUNet.from_base(original, pixel_attention=False), controlnet)
    sampler = {"name": "diffusers", "scheduler": "EulerDiscreteScheduler"}
    pipe = build_pipeline(model=str(base), checkpoint=tmp_path / "fresh", device="cpu", sampler=sampler)
    latents, seen = torch.randn(1, 4, 10, 8, generator=torch.Generator().manual_seed(0)), []
    pipe(
        tiny.photo(16, 20), scale=2, latents=latents, num_inference_steps=3, guidance_scale=4, prompt="a house",
        positive="", negative="noise", callback=lambda _step, _timestep, x: seen.append(x),
    )  # fmt: skip
    diffusers_pipe.set_progress_bar_config(disable=True)
    expected = diffusers_pipe(
        "a house", negative_prompt="noise", height=40, width=32, original_size=(1024, 1024), target_size=(1024, 1024),
        num_inference_steps=3, guidance_scale=4, latents=latents, output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(seen[-1], expected, atol=1e-4, rtol=1e-4)


def test_the_full_size_is_that_of_sdxl() -> None:
    with torch.device("meta"):
        unet, controlnet = networks(SDXL_UNET, {"name": "xpsr", "depth": 1})

    def count(network: torch.nn.Module, part: str = "") -> int:
        return sum(p.numel() for name, p in network.named_parameters() if part in name)

    pixel = count(unet, ".pixel_attentions.")
    assert count(unet) - pixel == 2_567_463_684  # as published
    assert (pixel, count(controlnet), count(controlnet, ".fusions.")) == (140_019_520, 1_513_309_377, 262_031_360)
    assert read_toml(TrainConfig, Path("examples/configs/xpsr-sdxl.toml")).model.fusion == {"name": "xpsr", "depth": 1}


def test_it_is_trained_and_restores(pipe: Pipeline, checkpoint: Path) -> None:
    assert pipe.backbone.text_encoder_2 is pipe.text_encoder_2
    assert log_of(checkpoint.parent)[-1]["loss"] > 0
    result = pipe(PHOTO, **QUICK, guidance_scale=3)
    assert result.image.size == (34, 40)
    assert not tiny.same(pipe(PHOTO, **QUICK, guidance_scale=3, prompt="a house").image, result.image)
    assert not tiny.same(pipe(PHOTO, **QUICK, guidance_scale=3, reuse_interval=2).image, result.image)
    assert "text_encoder_2" in str(pipe.explain(PHOTO))


@pytest.mark.parametrize("sampler", ["unipc", "dpmpp-2m", "ddim", "euler"])
def test_samplers_take_its_schedule(base: Path, checkpoint: Path, sampler: str) -> None:
    pipe = build_pipeline(model=str(base), checkpoint=checkpoint, device="cpu", sampler=sampler)
    for fidelity in (0.0, 0.6):
        assert pipe(PHOTO, **QUICK, fidelity=fidelity).image.size == (34, 40)


def test_tiles_and_regions(pipe: Pipeline) -> None:
    photo = tiny.photo(160, 130)
    result = pipe(photo, **QUICK, tile=64, tile_overlap=16, region=256, region_overlap=32)
    assert (result.image.size, result.plan.regions) == ((320, 260), 4)
    assert result.plan.tiles > 20
    estimated = pipe.explain(photo, scale=2, tile=64, tile_overlap=16)
    assert estimated.feature_bytes > 0


@pytest.mark.parametrize("offload", ["model", "group"])
def test_offloading_changes_no_bit(base: Path, checkpoint: Path, pipe: Pipeline, offload: str) -> None:
    moved = build_pipeline(model=str(base), checkpoint=checkpoint, device="cpu", execution={"offload": offload})
    assert tiny.same(moved(PHOTO, **QUICK).image, pipe(PHOTO, **QUICK).image)


def test_a_saved_model_is_whole(pipe: Pipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "saved")
    expected = pipe(PHOTO, **QUICK).image
    loaded = Pipeline.from_pretrained(tmp_path / "saved")
    assert tiny.alike(loaded(PHOTO, **QUICK).image, expected)
    assert tiny.same(build_pipeline(model=str(tmp_path / "saved"), device="cpu")(PHOTO, **QUICK).image, expected)


def test_a_lora_of_sdxl_loads(base: Path, checkpoint: Path, tmp_path: Path) -> None:
    original = UNet2DConditionModel.from_pretrained(base / "unet")
    original.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(original))
    StableDiffusionXLPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    pipe = build_pipeline(model=str(base), checkpoint=checkpoint, device="cpu")
    before = pipe(PHOTO, **QUICK).image
    pipe.load_lora_weights(tmp_path, adapter_name="style")
    assert not tiny.same(pipe(PHOTO, **QUICK).image, before)
    pipe.set_adapters("style", 0.0)
    assert tiny.alike(pipe(PHOTO, **QUICK).image, before)
    pipe.fuse_lora()
    pipe.unload_lora_weights()


def test_a_dry_run_counts_both_text_encoders(base: Path, pairs: Path, tmp_path: Path) -> None:
    run = dry_run(config(tmp_path / "run", pairs, base, model__lora_rank=2), Registry([]))
    assert run.frozen["text_encoder_2"] > 0
    assert run.trained["unet.lora"] > 0
    assert not (tmp_path / "run").exists()


def test_both_text_encoders_are_trained_if_their_names_match(base: Path, pairs: Path, tmp_path: Path) -> None:
    patterns = ("controlnet.*", "text_encoder.*", "text_encoder_2.*")
    options: dict[str, Any] = {"steps": 1, "model__train": patterns, "optimizer__ema_decay": 0.0}
    checkpoint = train(config(tmp_path / "run", pairs, base, **options))
    for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae", "scheduler"):
        assert (checkpoint / name).is_dir(), name
    own = build_pipeline(model=str(checkpoint), device="cpu")
    assert own(PHOTO, **QUICK).image.size == (34, 40)


@pytest.mark.parametrize("overflows", [True, False])
def test_in_half_precision_an_autoencoder_that_overflows_is_upcast(base: Path, tmp_path: Path, overflows: bool) -> None:
    shutil.copytree(base, tmp_path / "model")
    vae = AutoencoderKL.from_pretrained(base / "vae")
    vae.register_to_config(force_upcast=overflows)
    vae.save_pretrained(tmp_path / "model" / "vae")
    backbone = StableDiffusionXL()
    backbone.load(tmp_path / "model", torch.float16)
    assert backbone.vae.dtype == (torch.float32 if overflows else torch.float16)
    assert backbone.text_encoder_2.dtype == torch.float16


class PooledOfTheFirst(StableDiffusionXL):
    def encode_text(self, texts: Sequence[str], **options: Any) -> Conditioning:
        text = super().encode_text(texts, **options)
        return Conditioning(text.embeddings, {**text.added, "text_embeds": text.added["text_embeds"][:1]})


class Plugin:
    @hookimpl
    def xpsr_backbones(self) -> list[ComponentSpec]:
        return [ComponentSpec("broken", f"{__name__}:PooledOfTheFirst", "Pools the first text only.")]


def test_pooled_text_of_another_batch_is_noticed(base: Path, checkpoint: Path) -> None:
    with pytest.raises(ContractViolation, match=r"'text' of its contract: text_embeds of 4 texts"):
        check_backbone("broken", base, Registry([Plugin()]))
    pipe = build_pipeline(
        model=str(base), checkpoint=checkpoint, device="cpu", backbone="broken", registry=Registry([Plugin()])
    )
    with pytest.raises(BrokenPlugin, match=r"backbone 'broken' .* text_embeds of shape \(1, 12\), not \(2, 12\)"):
        pipe(PHOTO, **QUICK, guidance_scale=3)


@pytest.mark.parametrize("part", ["tokenizer_2", "text_encoder_2"])
def test_a_missing_part_is_named(base: Path, tmp_path: Path, part: str) -> None:
    shutil.copytree(base, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / part)
    with pytest.raises(CheckpointError, match=rf"{part}.* does not exist: a model folder needs it"):
        StableDiffusionXL().load(tmp_path / "model")


def test_its_folder_needs_no_entry(base: Path) -> None:
    assert "backbone" not in json.loads((base / "model_index.json").read_text())
