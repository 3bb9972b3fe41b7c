"""``xpsr_sdk.cli.upscale``: settings do what they do in Python, and ``--explain`` tells the memory plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.support import tiny
from tests.support.upscale_command import Run, refused
from xpsr_sdk import Pipeline, build_pipeline
from xpsr_sdk.builtin.samplers import DiffusersSampler
from xpsr_sdk.data.images import read_image


def test_the_command_does_what_python_does(run: Run, photos: Path, tmp_path: Path, pipe: Pipeline) -> None:
    options = ("--seed", 3, "--fidelity", 0, "--steps", 2, "--guidance", 2, "--prompt", "a cat", "--low-prompt", "blur")
    more = ("--negative", "noise", "--low-negative", "sharp", "--color", "adain", "--tile", 64, "--tile-overlap", 16)
    assert run(photos / "one.png", "-o", tmp_path / "out.png", *options, *more).exit_code == 0
    expected = pipe(
        photos / "one.png",
        seed=3,
        fidelity=0,
        num_inference_steps=2,
        guidance_scale=2,
        prompt="a cat",
        low_prompt="blur",
        negative="noise",
        low_negative="sharp",
        color="adain",
        tile=64,
        tile_overlap=16,
    ).image
    with Image.open(tmp_path / "out.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(expected))


def test_long_prompts_and_weights_are_read_as_in_python(run: Run, photos: Path, tmp_path: Path, pipe: Pipeline) -> None:
    long = "an old house by the river, " * 20 + "(sharp:1.5) leaves"
    usual = (photos / "one.png", "-o", tmp_path / "out.png", "--seed", 3, "--prompt", long, "--overwrite")
    settings = tmp_path / "weights.toml"
    settings.write_text("prompt_weights = true")
    for options, expected in (
        (["--long-prompts", "chunks", "--prompt-weights"], {"long_prompts": "chunks", "prompt_weights": True}),
        (["--long-prompts", "chunks", "--config", settings, "--no-prompt-weights"], {"long_prompts": "chunks"}),
    ):
        result = run(*usual, *options)
        assert result.exit_code == 0, result.stderr
        assert "Warning: " not in result.stderr
        restored = read_image(tmp_path / "out.png").image
        assert np.array_equal(restored, pipe(photos / "one.png", seed=3, prompt=long, **expected).image)
    assert "Warning: A prompt of" in run(*usual, "--long-prompts", "cut").stderr


def test_settings_of_a_file_are_those_of_python_and_options_go_before_them(
    run: Run, photos: Path, tmp_path: Path, tiny_model: Path
) -> None:
    settings = tmp_path / "settings.toml"
    sampler = {"name": "dpmpp-2m", "scheduler": "EulerDiscreteScheduler"}
    settings.write_text(
        'scale = 2\nseed = 3\nfidelity = 1\n[sampler]\nname = "dpmpp-2m"\nscheduler = "EulerDiscreteScheduler"\n'
    )
    result = run(photos / "one.png", "-o", tmp_path / "out.png", "--config", settings, "--fidelity", 0)
    assert result.exit_code == 0, result.stderr
    python = build_pipeline(model=str(tiny_model), device="cpu", sampler=sampler)
    expected = python(photos / "one.png", scale=2, seed=3, fidelity=0).image
    with Image.open(tmp_path / "out.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(expected))


def test_a_base_with_a_checkpoint(run: Run, photos: Path, tmp_path: Path) -> None:
    options = ("--checkpoint", tiny.SD_TINY / "xpsr", "--steps", 1, "--sampler", "ddim")
    assert run(photos / "one.png", "-o", tmp_path, *options, model=tiny.SD_TINY / "base").exit_code == 0
    assert (tmp_path / "one.png").is_file()


def test_a_speed_is_a_set_of_approximations(run: Run, photos: Path, tmp_path: Path, pipe: Pipeline) -> None:
    assert run(photos / "one.png", "-o", tmp_path / "fast.png", "--speed", "fast", "--seed", 1).exit_code == 0
    by_hand = pipe(photos / "one.png", seed=1, num_inference_steps=2, guidance_interval=(0.4, 1.0), reuse_interval=2)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "fast.png")), np.asarray(by_hand.image))
    refused(run(photos / "one.png", "-o", tmp_path / "x.png", "--speed", "fastest"), "'fastest' is not one of")


def test_weights_may_wait_in_host_memory(run: Run, photos: Path, tmp_path: Path, pipe: Pipeline) -> None:
    config = tmp_path / "execution.toml"
    config.write_text("seed = 1\n[execution]\noffload = 'group'\n")
    options = ("--config", config, "--offload", "model")
    result = run(photos / "one.png", "-o", tmp_path / "out.png", *options)
    assert result.exit_code == 0, result.stderr
    expected = pipe(photos / "one.png", seed=1).image
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), np.asarray(expected))


def test_weights_are_quantised_if_that_gains_anything(run: Run, photos: Path, tmp_path: Path) -> None:
    done = run(photos / "one.png", "-o", tmp_path / "out.png", "--quantize", "int8")
    assert done.exit_code == 0, done.stderr
    refused(run(photos / "one.png", "-o", tmp_path / "x.png", "--quantize", "fp8"), "which gains nothing on cpu")


def test_out_of_memory_is_said_in_one_line(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = DiffusersSampler.sample

    def limited(self: Any, denoiser: Any, latents: Any, **options: Any) -> Any:
        if len(denoiser._batches[0].tiles) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return sample(self, denoiser, latents, **options)

    monkeypatch.setattr(DiffusersSampler, "sample", limited)
    result = run(photos / "one.png", "-o", tmp_path / "out.png", "--tile", 64)
    assert result.exit_code == 0, result.stderr
    told = [line for line in result.stderr.splitlines() if "emory" in line]
    assert told == ["Warning: Out of memory: trying again with tile_batch 1."]


def test_an_explanation_restores_nothing(run: Run, photos: Path, tmp_path: Path) -> None:
    result = run(photos, "-o", tmp_path / "out", "--explain", "--tile", 64, "--speed", "fast")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{photos / 'one.png'}\nResult:      80 x 64 pixels\nUpscaler:    bicubic")
    assert "\nDevice:      cpu, float32, " in result.stdout
    assert "Tiles:       2 of 16 x 16 latents, 2 a pass" in result.stdout
    assert not (tmp_path / "out").exists()


def test_an_explanation_of_some_photos_alone_is_a_failure(run: Run, photos: Path, tmp_path: Path) -> None:
    result = run(photos / "none.png", photos / "one.png", "-o", tmp_path / "out", "--explain")
    assert result.exit_code == 1
    assert "none.png does not exist." in result.stderr
    assert "Tiles:" in result.stdout


def test_photos_beside_a_bad_one_are_explained(run: Run, photos: Path, tmp_path: Path) -> None:
    tiny.photo(1, 1).save(photos / "dot.png")
    result = run(photos, "-o", tmp_path / "out", "--explain")
    assert result.exit_code == 1
    assert result.stdout.count("Autoencoder:") == 2
    assert "dot.png is 1x1" in result.stderr


def test_loras_are_named_once_each_and_replace_those_of_the_settings(run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('lora = ["of-the-file.safetensors"]\n')
    usual = (photos / "one.png", "-o", tmp_path / "out.png", "--config", tmp_path / "c.toml")
    refused(run(*usual), "lora: of-the-file.safetensors does not exist")
    for name in ("a.safetensors", "b.safetensors"):
        layer = "unet.no_such_layer.lora_{}.weight"
        save_file({layer.format(factor): torch.ones(1, 1) for factor in "AB"}, tmp_path / name)
    options = ("--lora", f"{tmp_path / 'a.safetensors'}:0.5", "--lora", tmp_path / "b.safetensors")
    refused(run(*usual, *options), "a.safetensors is a LoRA for another model: this one has none of its layers")
