"""``xpsr upscale``: what fails costs nothing else, and wrong use is told before anything is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from tests.support import tiny
from tests.support.upscale_command import Run, files, refused
from xpsr_sdk.builtin.samplers import DiffusersSampler
from xpsr_sdk.cli.main import xpsr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_log_that_can_be_written_no_more_costs_no_photo(run: Run, photos: Path, tmp_path: Path) -> None:
    result = run(photos, "-o", tmp_path / "out", "--log", "/dev/full")
    assert result.exit_code == 1
    assert files(tmp_path / "out") == ["one.png", "trip/two.jpg"]
    assert result.stderr.count("The log /dev/full ends here: No space left on device.") == 1


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
    assert f"Failed: {photos}/one.png cannot be restored: memory ran out, " in result.stderr
    assert "(OutOfMemoryError: the GPU is full)" in result.stderr
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
    for line, photo in zip(told, (photos / "one.png", photos / "trip" / "two.jpg"), strict=True):
        assert line.startswith(
            f"Warning: No high-level and low-level prompt for {photo}: The prompt provider 'measured' of xpsr-sdk "
        )
        assert "raised RuntimeError: out of memory (" in line


def test_a_result_that_its_type_cannot_hold_is_not_begun(run: Run, tmp_path: Path) -> None:
    tiny.photo(5000, 16).save(tmp_path / "wide.webp")
    result = run(tmp_path / "wide.webp", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "20000x64 is more than .webp holds, 16383 pixels in each direction; use .png or .tif." in result.stderr


def test_a_log_that_cannot_be_written(run: Run, photos: Path, tmp_path: Path) -> None:
    refused(
        run(photos, "-o", tmp_path / "out", "--log", photos), f"The log {photos} cannot be written: Is a directory."
    )


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
        (["--device", "cudaa"], "There is no device 'cudaa'. Did you mean 'cuda'?"),
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


@pytest.mark.parametrize("sampler", ["'dpmp-2m'", '{ name = "dpmp-2m" }'])
def test_a_misspelt_part_is_told_before_anything_is_loaded(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    monkeypatch.delattr("xpsr_sdk.build.build_pipeline")
    (tmp_path / "settings.toml").write_text(f"sampler = {sampler}")
    result = run(photos, "-o", tmp_path / "out", "--config", tmp_path / "settings.toml")
    refused(result, "Did you mean 'dpmpp-2m'?")


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
