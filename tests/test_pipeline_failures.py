"""What a part or a network does wrong is an error that names it and the photo, and never a black image."""

from __future__ import annotations

import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.support.registries import registry_with
from tests.support.tiny import PHOTO, SD_TINY, sd_config, write_whole_model
from xpsr_sdk import BrokenPlugin, ConfigError, NonFiniteResult, Options, PipelineConfig, build_pipeline
from xpsr_sdk.cli.main import xpsr

SETTINGS: dict[str, Any] = {"seed": 1, "scale": 2, "num_inference_steps": 2, "prompt": "a", "low_prompt": "b"}


def with_nan(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    """Puts NaN into the first tensor whose name has ``name`` in it."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        next(tensor for key, tensor in tensors.items() if name in key).view(-1)[0] = torch.nan

    return change


def changed_model(folder: Path, file: str, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    shutil.copytree(SD_TINY, folder)
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file, {"format": "pt"})
    return folder


def overflow(tensors: dict[str, torch.Tensor]) -> None:
    tensors["conv_in.weight"].fill_(3e38)


WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (f"xpsr/unet/{WEIGHTS}", with_nan("conv_out.bias"), "stage denoise .* unet.conv_out, whose weights hold"),
        (
            f"xpsr/controlnet/{WEIGHTS}",
            with_nan("attentions_connect"),
            r"controlnet\.\S+, a layer of the fusion attention 'xpsr' of xpsr-sdk \S+, whose weights",
        ),
        (f"xpsr/unet/{WEIGHTS}", overflow, r"unet.conv_in.* numbers are too large for float32"),
        (f"base/vae/{WEIGHTS}", with_nan("decoder.conv_out"), "backbone 'stable-diffusion' .* decoded images"),
        (f"base/vae/{WEIGHTS}", with_nan("encoder.conv_out"), "backbone 'stable-diffusion' .* encoded latents"),
        ("base/text_encoder/model.safetensors", with_nan("final_layer_norm"), "'stable-diffusion' .* text embeddings"),
    ],
)
def test_numbers_that_are_not_finite_are_an_error_that_names_stage_and_part(
    tmp_path: Path, file: str, change: Callable[[dict[str, torch.Tensor]], None], words: str
) -> None:
    model = changed_model(tmp_path / "m", file, change)
    pipeline = build_pipeline(model=str(model / "base"), checkpoint=model / "xpsr", device="cpu", dtype="float32")
    with pytest.raises(NonFiniteResult, match=words) as caught:
        pipeline(PHOTO, **SETTINGS)
    assert "for the image" in str(caught.value)


def test_no_file_is_written_of_numbers_that_are_not_finite(tmp_path: Path) -> None:
    model = changed_model(tmp_path / "m", f"xpsr/unet/{WEIGHTS}", with_nan("conv_out.bias"))
    photo, result = tmp_path / "p.png", tmp_path / "o.png"
    PHOTO.save(photo)
    options = ["--model", model / "base", "--checkpoint", model / "xpsr", "--dtype", "float32", "--steps", "2"]
    run = CliRunner().invoke(xpsr, ["upscale", str(photo), "-o", str(result), "--scale", "2", *map(str, options)])
    assert run.exit_code == 1, run.output
    assert f"Failed: The stage denoise gave numbers that are not finite for {photo}." in run.output
    assert "restored" not in run.output
    assert not result.exists()


class Answers:
    """A sampler that gives what a test says."""

    class Config(Options):
        pass

    answer: Any = None

    def __init__(self, config: Config) -> None: ...

    def sample(self, denoiser: Any, latents: torch.Tensor, **options: Any) -> Any:
        return self.answer(denoiser, latents)


class WithoutCallback(Answers):
    def sample(self, denoiser: Any, latents: torch.Tensor, *, num_inference_steps: int, generators: Any) -> Any: ...  # type: ignore[override]


def fails(denoiser: Any, latents: torch.Tensor) -> Any:
    return {}["no such key"]


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (lambda d, x: None, BrokenPlugin, "gave None as denoised latents, not a tensor"),
        (lambda d, x: x[..., 1:], BrokenPlugin, r"gave denoised latents of shape \(1, 4, .*\), not \(1, 4,"),
        (lambda d, x: x.double(), BrokenPlugin, "in torch.float64, not in torch.float32"),
        (lambda d, x: d.predict(x[:, 1:], 5), BrokenPlugin, r"asked the denoiser about latents of shape \(1, 3, "),
        (lambda d, x: x / 0, NonFiniteResult, "all that the model gave was finite"),
        (fails, BrokenPlugin, r"raised KeyError: 'no such key' \(.*test_pipeline_failures.py, line \d+\)"),
        (lambda d, x: sys.exit(3), BrokenPlugin, "raised SystemExit: 3"),
        (None, BrokenPlugin, "raised TypeError: .*callback"),
    ],
)
def test_a_samplers_answer_is_checked(answer: Any, error: type[Exception], words: str, monkeypatch: Any) -> None:
    part = WithoutCallback if answer is None else Answers
    monkeypatch.setattr(Answers, "answer", staticmethod(answer) if answer else None)
    pipeline = build_pipeline(sd_config(), sampler="part", registry=registry_with("sampler", part))
    with pytest.raises(error, match=f"The sampler 'part' of xpsr-test 0 {words}|{words}") as caught:
        pipeline(PHOTO, **SETTINGS)
    assert str(caught.value).startswith("The sampler 'part' of xpsr-test 0 ")
    assert "for the image" in str(caught.value)


def test_what_a_callback_raises_is_not_the_samplers_fault() -> None:
    def stop(*step: Any) -> None:
        raise StopIteration("enough")

    with pytest.raises(StopIteration, match="enough"):
        build_pipeline(sd_config())(PHOTO, callback=stop, **SETTINGS)


def test_what_a_fusion_raises_is_blamed_on_the_fusion_not_on_the_sampler(monkeypatch: Any) -> None:
    from xpsr_sdk.builtin.semantic_fusion import SemanticFusionAttention

    monkeypatch.setattr(SemanticFusionAttention, "forward", lambda self, *args: {}["oh"])
    with pytest.raises(BrokenPlugin, match=r"^The fusion attention 'xpsr' of xpsr-sdk \S+ raised KeyError: 'oh'"):
        build_pipeline(sd_config())(PHOTO, **SETTINGS)
    monkeypatch.setattr(SemanticFusionAttention, "forward", lambda self, attend, x, *args: x[:, 1:])
    with pytest.raises(BrokenPlugin, match=r"^The fusion attention 'xpsr' of \S+ \S+ gave features of shape"):
        build_pipeline(sd_config())(PHOTO, **SETTINGS)


class Upscales(Answers):
    scale, halo = 2, 0

    def upscale(self, image: torch.Tensor) -> Any:
        return self.answer(image.repeat_interleave(2, -1).repeat_interleave(2, -2))

    def unload(self) -> None: ...


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (lambda x: x * 2 - 1, BrokenPlugin, "gave images from -.*, not from 0 to 1"),
        (lambda x: x[..., 1:], BrokenPlugin, "gave images of shape"),
        (lambda x: x.double(), BrokenPlugin, "in torch.float64, not in torch.float32"),
        (lambda x: x.numpy(), BrokenPlugin, "not a tensor"),
        (lambda x: x * torch.nan, NonFiniteResult, "not finite"),
    ],
)
def test_an_upscalers_answer_is_checked(answer: Any, error: type[Exception], words: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(Upscales, "answer", staticmethod(answer))
    registry = registry_with("upscaler", Upscales)
    pipeline = build_pipeline(model="none", upscaler="part", registry=registry, device="cpu", dtype="float32")
    with pytest.raises(error, match=f"The upscaler 'part' of xpsr-test 0 .*{words}.* for the image"):
        pipeline(PHOTO, seed=1, scale=2)


def test_a_backbones_answer_is_checked(tmp_path: Path, monkeypatch: Any) -> None:
    write_whole_model(tmp_path / "m")
    pipeline = build_pipeline(PipelineConfig(model=str(tmp_path / "m"), device="cpu"))
    whole = pipeline.backbone.decode
    monkeypatch.setattr(pipeline.backbone, "decode", lambda latents, lr: whole(latents, lr)[..., 1:])
    with pytest.raises(BrokenPlugin, match=r"The backbone 'residual' of xpsr-sdk .* gave decoded images of shape"):
        pipeline(PHOTO, **SETTINGS)
    monkeypatch.setattr(pipeline.backbone, "encode_text", lambda texts, **options: types.SimpleNamespace())
    with pytest.raises(BrokenPlugin, match=r"The backbone 'residual' .* as encoded text, not Conditioning"):
        pipeline(PHOTO, **SETTINGS)


def test_alpha_is_looked_at_as_well(tmp_path: Path) -> None:
    model = changed_model(tmp_path / "m", f"xpsr/unet/{WEIGHTS}", with_nan("conv_out.bias"))
    clear = np.zeros((20, 17, 4), np.uint8)
    clear[:, 8:] = 255
    pipeline = build_pipeline(model=str(model / "base"), checkpoint=model / "xpsr", device="cpu", dtype="float32")
    with pytest.raises(NonFiniteResult):
        pipeline(Image.fromarray(clear), **SETTINGS)


@pytest.mark.parametrize("sampler", ["ddim", "unipc", "dpmpp-2m", "euler"])
def test_latents_that_a_callback_returns_take_the_place_of_the_samplers(sampler: str) -> None:
    pipeline = build_pipeline(sd_config(), sampler=sampler)
    settings = SETTINGS | {"num_inference_steps": 4, "fidelity": 0.0}
    way: list[torch.Tensor] = []
    there = pipeline(PHOTO, callback=lambda i, t, x: way.append(x), **settings)

    def join(step: int, timestep: int, latents: torch.Tensor) -> torch.Tensor | None:
        return way[1] if step == 1 else None

    joined = pipeline(PHOTO, callback=join, **settings | {"seed": 2})
    alone = pipeline(PHOTO, **settings | {"seed": 2})
    images = [np.asarray(result.image, float) for result in (there, joined, alone)]
    to_joined, to_alone = (np.abs(images[0] - image).mean() for image in images[1:])
    assert to_joined < 0.2 * to_alone


@pytest.mark.parametrize(
    ("returned", "words"),
    [(torch.zeros(1, 2), "shape"), ("no", "str"), (torch.full((1, 4, 5, 5), torch.nan), "shape|not finite")],
)
def test_latents_that_a_callback_returns_are_checked(returned: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"The callback after step 0 returned .*({words})"):
        build_pipeline(sd_config())(PHOTO, callback=lambda *_: returned, **SETTINGS)


@pytest.mark.parametrize(
    ("latents", "found"),
    [
        (
            torch.zeros(1, 4, 2, 2),
            r"latents must be .* of shape \(1, 4, 5, 5\) .*, not torch.float32 of shape",
        ),
        ("noise", "latents must be .*, not str"),
        (torch.full((1, 4, 5, 5), torch.nan), "latents hold NaN or infinity"),
    ],
)
def test_start_latents_that_do_not_fit_are_told(latents: Any, found: str) -> None:
    pipeline = build_pipeline(sd_config())
    with pytest.raises(ConfigError, match=found):
        pipeline(PHOTO, latents=latents, scale=2)


def test_networks_that_are_taken_away_or_are_none_are_told() -> None:
    pipeline = build_pipeline(sd_config())
    with pytest.raises(ConfigError, match=r"vae must be a torch\.nn\.Module, not a str"):
        pipeline.vae = "vae"
    own = pipeline.text_encoder
    pipeline.text_encoder = None
    with pytest.raises(ConfigError, match="text_encoder was set to None: set it again"):
        pipeline(PHOTO)
    pipeline.text_encoder = own
    pipeline(PHOTO, num_inference_steps=1)
