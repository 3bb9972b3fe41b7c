"""``xpsr upscale``: where the photos go, what is told, and that nothing wrong leaves a trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from tests.support import tiny
from xpsr_sdk import Pipeline, build_pipeline
from xpsr_sdk.builtin.samplers import DiffusersSampler
from xpsr_sdk.cli.main import SUMMARIES, xpsr
from xpsr_sdk.data.images import read_image

Run = Callable[..., Result]


@pytest.fixture
def run(tiny_model: Path) -> Run:
    """Runs ``xpsr upscale`` with the tiny model."""

    def run(*arguments: object, model: Path | None = tiny_model) -> Result:
        chosen = ["--model", model, "--device", "cpu"] if model else []
        return CliRunner().invoke(xpsr, ["upscale", *map(str, [*arguments, *chosen])])

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos, one of them in a subfolder."""
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    tiny.photo(20, 16).save(folder / "one.png")
    tiny.photo(17, 24, seed=1).save(folder / "trip" / "two.jpg")
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def refused(result: Result, message: str) -> None:
    """Exit code 2 and one clear sentence."""
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


# Where the photos go


def test_a_file_to_a_file(run: Run, photos: Path, tmp_path: Path) -> None:
    result = run(photos / "one.png", "-o", tmp_path / "new" / "big.webp")
    assert result.exit_code == 0, result.stderr
    assert read_image(tmp_path / "new" / "big.webp").image.size == (80, 64)
    assert files(tmp_path / "new") == ["big.webp"]
    assert result.stdout.startswith("1 of 1 restored in ")
    assert result.stdout.endswith(f"s per megapixel): {tmp_path / 'new' / 'big.webp'}\n")


def test_a_file_to_a_folder(run: Run, photos: Path, tmp_path: Path) -> None:
    assert run(photos / "trip" / "two.jpg", "-o", tmp_path / "out").exit_code == 0
    assert files(tmp_path / "out") == ["two.jpg"]


def test_a_folder_keeps_its_tree(run: Run, photos: Path, tmp_path: Path) -> None:
    result = run(photos, "-o", tmp_path / "out", "--scale", 2)
    assert result.exit_code == 0
    assert files(tmp_path / "out") == ["one.png", "trip/two.jpg"]
    assert read_image(tmp_path / "out" / "trip" / "two.jpg").image.size == (34, 48)
    assert "2 of 2 restored" in result.stdout


def test_files_and_folders_together(run: Run, photos: Path, tmp_path: Path) -> None:
    assert run(photos / "one.png", photos / "trip", "-o", tmp_path / "out").exit_code == 0
    assert files(tmp_path / "out") == ["one.png", "two.jpg"]


def test_results_in_the_folder_of_the_photos_are_not_restored_again(run: Run, photos: Path) -> None:
    for _ in range(2):
        result = run(photos, "-o", photos / "restored", "--scale", 2, "--overwrite")
        assert "2 of 2 restored" in result.stdout
    results = ["restored/one.png", "restored/trip/two.jpg"]
    assert files(photos) == ["one.png", *results, "trip/two.jpg"]


def test_a_type_that_can_only_be_read_becomes_png(run: Run, tmp_path: Path) -> None:
    tiny.photo(20, 16).save(tmp_path / "photo.gif")
    assert run(tmp_path / "photo.gif", "-o", tmp_path / "out").exit_code == 0
    assert files(tmp_path / "out") == ["photo.png"]


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


# Folders


def test_what_exists_is_skipped_unless_told_otherwise(run: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "trip").mkdir(parents=True)
    (out / "one.png").write_bytes(b"older")
    result = run(photos, "-o", out)
    assert result.exit_code == 0
    assert "1 of 2 restored" in result.stdout
    assert "1 skipped, since they exist (--overwrite restores them again)" in result.stdout
    assert (out / "one.png").read_bytes() == b"older"
    assert "0 of 2 restored, 2 skipped" in run(photos, "-o", out).stdout
    assert "2 of 2 restored" in run(photos, "-o", out, "--overwrite").stdout
    assert read_image(out / "one.png").image.size == (80, 64)


def test_a_log_has_a_line_for_each_photo(run: Run, photos: Path, tmp_path: Path) -> None:
    (photos / "text.png").write_text("no image")
    log = tmp_path / "logs" / "log.jsonl"
    for _ in range(2):
        assert run(photos, "-o", tmp_path / "out", "--log", log, "--seed", 3).exit_code == 1
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["status"] for line in lines[:3]] == ["restored", "failed", "restored"]
    assert sorted(line["status"] for line in lines[3:]) == ["failed", "skipped", "skipped"]
    assert lines[0].items() >= {"photo": str(photos / "one.png"), "width": 80, "height": 64, "seed": 3}.items()
    assert lines[1]["error"] == f"{photos}/text.png is not an image, or of a type that is not supported."


def test_a_log_that_cannot_be_written(run: Run, photos: Path, tmp_path: Path) -> None:
    refused(
        run(photos, "-o", tmp_path / "out", "--log", photos), f"The log {photos} cannot be written: Is a directory."
    )


def test_one_type_for_all_results(run: Run, photos: Path, tmp_path: Path) -> None:
    assert run(photos, "-o", tmp_path / "out", "--format", "webp").exit_code == 0
    assert files(tmp_path / "out") == ["one.webp", "trip/two.webp"]
    refused(run(photos / "one.png", "-o", tmp_path / "a.png", "--format", "webp"), "leave out --format")


def test_results_that_would_share_a_name_tell_their_types(run: Run, photos: Path, tmp_path: Path) -> None:
    tiny.photo(20, 16).save(photos / "one.gif")
    tiny.photo(20, 16).save(photos / "two.bmp")
    assert run(photos, "-o", tmp_path / "out").exit_code == 0
    assert files(tmp_path / "out") == ["one.gif.png", "one.png", "trip/two.jpg", "two.png"]


def test_a_result_that_its_type_cannot_hold_is_not_begun(run: Run, tmp_path: Path) -> None:
    tiny.photo(5000, 16).save(tmp_path / "wide.webp")
    result = run(tmp_path / "wide.webp", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "20000x64 is more than .webp holds, 16383 pixels in each direction; use .png or .tif." in result.stderr


def test_the_limit_of_megapixels_can_be_raised(run: Run, photos: Path, tmp_path: Path) -> None:
    result = run(photos / "one.png", "-o", tmp_path / "out", "--max-megapixels", 0.0001)
    assert "is refused as too large: 20x16 is 0.0 megapixels, and the limit is 0.0001" in result.stderr


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_after_the_photo_and_twice_at_once(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    sample = DiffusersSampler.sample

    def interrupted(self: DiffusersSampler, denoiser: Any, latents: torch.Tensor, **options: Any) -> torch.Tensor:
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        return sample(self, denoiser, latents, **options)

    monkeypatch.setattr(DiffusersSampler, "sample", interrupted)
    before = signal.getsignal(signal.SIGINT)
    result = run(photos, "-o", tmp_path / "out")
    assert signal.getsignal(signal.SIGINT) is before
    assert result.exit_code == 130
    assert "Stopping after this photo; Ctrl-C again stops at once." in result.stderr
    if times == 1:
        assert files(tmp_path / "out") == ["one.png"]
        assert "1 of 2 restored" in result.stdout
        assert "1 left" in result.stdout
    else:
        assert "Interrupted." in result.stderr
        assert not (tmp_path / "out").exists()


def test_sigterm_ends_at_once_and_in_order(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiffusersSampler, "sample", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    result = run(photos, "-o", tmp_path / "out")
    assert signal.getsignal(signal.SIGTERM) is before
    assert result.exit_code == 143  # an exit, at which temporary files go
    assert not (tmp_path / "out").exists()


# What fails


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_log_that_can_be_written_no_more_costs_no_photo(run: Run, photos: Path, tmp_path: Path) -> None:
    result = run(photos, "-o", tmp_path / "out", "--log", "/dev/full")
    assert result.exit_code == 1
    assert files(tmp_path / "out") == ["one.png", "trip/two.jpg"]
    assert result.stderr.count("The log /dev/full ends here: No space left on device.") == 1


def test_photos_beside_a_bad_one_are_explained(run: Run, photos: Path, tmp_path: Path) -> None:
    tiny.photo(1, 1).save(photos / "dot.png")
    result = run(photos, "-o", tmp_path / "out", "--explain")
    assert result.exit_code == 1
    assert result.stdout.count("Autoencoder:") == 2
    assert "dot.png is 1x1" in result.stderr


def test_names_may_be_as_long_as_can_be(run: Run, photos: Path, tmp_path: Path) -> None:
    name = "x" * 251 + ".png"
    (photos / "one.png").rename(photos / name)
    assert run(photos / name, "-o", tmp_path / "out").exit_code == 0
    assert files(tmp_path / "out") == [name]


def test_bad_files_are_named_and_the_others_done(run: Run, photos: Path, tmp_path: Path) -> None:
    (photos / "text.png").write_text("no image")
    tiny.photo(1, 1).save(photos / "dot.png")
    (photos / "cut.jpg").write_bytes((photos / "trip" / "two.jpg").read_bytes()[:300])
    result = run(photos, photos / "none.png", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert files(tmp_path / "out") == ["one.png", "trip/two.jpg"]
    assert "2 of 6 restored" in result.stdout
    reasons = sorted(line for line in result.stderr.splitlines() if line.startswith("Failed: "))
    assert [line.removeprefix(f"Failed: {photos}/")[:8] for line in reasons] == [
        "cut.jpg ",
        "dot.png ",
        "none.png",
        "text.png",
    ]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("traceback", ["0", "1"])
def test_an_unexpected_error_costs_its_photo_only(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traceback: str
) -> None:
    sample = DiffusersSampler.sample

    def fail_once(self: DiffusersSampler, denoiser: Any, latents: torch.Tensor, **options: Any) -> torch.Tensor:
        if latents.shape[-1] == 20:  # one.png
            raise torch.OutOfMemoryError("the GPU is full")
        return sample(self, denoiser, latents, **options)

    monkeypatch.setattr(DiffusersSampler, "sample", fail_once)
    monkeypatch.setenv("XPSR_TRACEBACK", traceback)
    result = run(photos, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert f"Failed: {photos}/one.png: OutOfMemoryError: the GPU is full\n" in result.stderr
    assert ("Traceback" in result.stderr) == (traceback == "1")
    assert "1 of 2 restored" in result.stdout
    assert files(tmp_path / "out") == ["trip/two.jpg"]


def test_when_all_files_are_bad(run: Run, tmp_path: Path) -> None:
    result = run(tmp_path / "none.png", "-o", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith(f"Failed: {tmp_path}/none.png does not exist.\n")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_to(run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run(photos / "one.png", "-o", tmp_path / "file" / "out.png")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr


def test_a_provider_that_fails_is_a_warning(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("xpsr_sdk.builtin.measured.MeasuredPrompts.describe", fail)
    result = run(photos, "-o", tmp_path / "out")
    assert result.exit_code == 0
    told = [line for line in result.stderr.splitlines() if line.startswith("Warning: ")]
    reason = "RuntimeError: out of memory"
    assert told == [
        f"Warning: No high-level and low-level prompt for {photo}: {reason}"
        for photo in (photos / "one.png", photos / "trip" / "two.jpg")
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_names_that_are_no_utf8(run: Run, photos: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"h\xe4us.png")
    (photos / "one.png").rename(photos / name)
    result = run(photos / name, "-o", tmp_path / "out", "--log", tmp_path / "log.jsonl")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "out" / name).is_file()
    assert json.loads((tmp_path / "log.jsonl").read_text())["photo"] == str(photos / name)


# Wrong use


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sampler", "eular"], "the sampler 'eular'. Did you mean 'euler'?"),
        (["--prompt-provider", "measure"], "Did you mean 'measured'?"),
        (["--scale", "9"], "9.0 is not in the range 1<=x<=8"),
        (["--fidelity", "2"], "2.0 is not in the range 0<=x<=1"),
        (["--steps", "many"], "'many' is not a valid integer"),
        (["--color", "sepia"], "'sepia' is not one of 'none', 'adain', 'wavelet', 'lab'"),
        (["--long-prompts", "all"], "'all' is not one of 'cut', 'chunks'"),
        (["--tile", "64", "--tile-overlap", "64"], "tile_overlap is 64: it must be less than tile, 64."),
        (["--device", "cudaa"], "The device 'cudaa' cannot be used"),
        (["--checkpoint", str(tiny.SD_TINY / "xpsr")], "does not fit the base model"),
        (["--checkpoint", "nowhere"], "nowhere/unet/config.json does not exist"),
        (["--model", "nanoo"], "There is no model 'nanoo'"),
        (["--model", ""], "There is no model ''"),
        (["--config", "none.toml"], "none.toml does not exist."),
        (
            ["--model", str(tiny.SD_TINY / "base")],
            "it has no controlnet/. Name an XPSR checkpoint for it (--checkpoint).",
        ),
        (["--fidelty", "1"], "No such option"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_written(
    tiny_model: Path, photos: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    usual = ["upscale", str(photos), "-o", str(tmp_path / "out"), "--model", str(tiny_model), "--device", "cpu"]
    refused(CliRunner().invoke(xpsr, usual + arguments), message)
    assert not (tmp_path / "out").exists()


def test_a_wrong_setting_of_a_file_is_told(run: Run, photos: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("fidelty = 1")
    result = run(photos, "-o", tmp_path / "out", "--config", settings)
    refused(result, "settings.toml has wrong options:\n  fidelty: there is no such option. Did you mean 'fidelity'?")
    assert not (tmp_path / "out").exists()


def test_wrong_places_are_told(run: Run, photos: Path, tmp_path: Path) -> None:
    one, two = photos / "one.png", photos / "trip" / "two.jpg"
    before = one.read_bytes()
    refused(
        run(one, two, "-o", tmp_path / "out.png"),
        "is the name of a file, but there may be several photos: name a folder.",
    )
    refused(run(photos, "-o", tmp_path / "out.png"), "is the name of a file, but there may be several photos")
    refused(run(one, "-o", one), "would be overwritten by its own result")
    refused(run(photos, "-o", photos), "would be overwritten by its own result")
    refused(run(one, one, "-o", tmp_path / "out"), "would both be written to")
    (tmp_path / "empty").mkdir()
    refused(run(tmp_path / "empty", "-o", tmp_path / "out"), "There are no images in")
    refused(run(one, "-o", tmp_path / "out.gif"), "out.gif: .gif cannot be written; use one of .avif, ")
    (tmp_path / "notes.txt").touch()
    refused(run(one, "-o", tmp_path / "notes.txt"), "notes.txt is a file: name a folder, or an image file")
    refused(run("-o", tmp_path / "out"), "Missing argument 'INPUTS...'")
    refused(run(one), "Missing option '-o'")
    assert one.read_bytes() == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [[], *([name] for name in SUMMARIES), ["data", "prepare"], ["plugins", "show"]])
def test_every_command_has_help(command: list[str]) -> None:
    result = CliRunner().invoke(xpsr, [*command, "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    assert "--help" in result.stdout


def test_the_real_command(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "text.png").write_text("no image")
    code = "from xpsr_sdk.cli.main import xpsr; xpsr()"
    arguments = ["upscale", str(photos), "-o", str(tmp_path / "out"), "--model", str(tiny_model), "--device", "cpu"]
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stdout.startswith("2 of 3 restored in ")
    assert f"Failed: {photos}/text.png is not an image, or of a type that is not supported.\n" in run.stderr
    assert not any(word in run.stderr for word in ("Traceback", "Warning", "it/s]"))
    assert files(tmp_path / "out") == ["one.png", "trip/two.jpg"]


# Speed and memory


def test_an_explanation_restores_nothing(run: Run, photos: Path, tmp_path: Path) -> None:
    result = run(photos, "-o", tmp_path / "out", "--explain", "--tile", 64, "--speed", "fast")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{photos / 'one.png'}\nDevice:      cpu, float32, ")
    assert "Tiles:       2 of 16 x 16 latents, 2 a pass" in result.stdout
    assert not (tmp_path / "out").exists()


def test_an_explanation_of_some_photos_alone_is_a_failure(run: Run, photos: Path, tmp_path: Path) -> None:
    result = run(photos / "none.png", photos / "one.png", "-o", tmp_path / "out", "--explain")
    assert result.exit_code == 1
    assert "none.png does not exist." in result.stderr
    assert "Tiles:" in result.stdout


@pytest.mark.parametrize("sampler", ["'dpmp-2m'", '{ name = "dpmp-2m" }'])
def test_a_misspelt_part_is_told_before_anything_is_loaded(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    monkeypatch.delattr("xpsr_sdk.build.build_pipeline")
    (tmp_path / "settings.toml").write_text(f"sampler = {sampler}")
    result = run(photos, "-o", tmp_path / "out", "--config", tmp_path / "settings.toml")
    refused(result, "Did you mean 'dpmpp-2m'?")


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
