"""``xpsr evaluate``: what is told, and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support import tiny
from xpsr_sdk.cli.main import xpsr


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    tiny.photo(24, 20).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def evaluate(photo: Path, *options: object) -> Result:
    """Compare a photo with itself."""
    return CliRunner().invoke(xpsr, ["evaluate", *map(str, [photo, photo, *options])])


def test_the_figures_are_printed_and_written_to_a_new_folder(photo: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "figures.json"
    result = evaluate(photo, "--json", file)
    assert result.exit_code == 0, result.stderr
    assert "mean of 1" in result.stdout
    assert f"Written: {file}" in result.stdout
    assert json.loads(file.read_text())["means"] == {"psnr": "inf", "ssim": 1.0}


def test_how_it_was_measured_is_not_folded_to_a_narrow_table_and_a_name_is_one_line(tmp_path: Path) -> None:
    tiny.photo(24, 20).save(photo := tmp_path / "two\nlines.png")
    lines = evaluate(photo).stdout.splitlines()
    assert any(line.startswith("PSNR: on Y (BT.601, 16 to 235), peak 255") for line in lines)
    assert any(r"two\nlines" in line for line in lines)


def test_quiet_is_quiet(photo: Path, tmp_path: Path) -> None:
    result = evaluate(photo, "--quiet", "--json", tmp_path / "figures.json")
    assert (result.exit_code, result.output) == (0, "")
    assert json.loads((tmp_path / "figures.json").read_text())["means"]["ssim"] == 1


def test_a_place_that_cannot_be_written_to(photo: Path) -> None:
    result = evaluate(photo, "--json", photo / "figures.json")
    assert result.exit_code == 1
    assert "figures.json cannot be written" in result.stderr
    assert "Unexpected" not in result.stderr


def test_a_bad_photo_is_told_and_the_exit_code_says_so(photo: Path, tmp_path: Path) -> None:
    for folder in ("pred", "hr"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "good.png").write_bytes(photo.read_bytes())
        (tmp_path / folder / "bad.png").write_bytes(b"no picture" if folder == "pred" else photo.read_bytes())
    result = CliRunner().invoke(xpsr, ["evaluate", str(tmp_path / "pred"), str(tmp_path / "hr")])
    assert result.exit_code == 1
    assert "mean of 1" in result.stdout
    assert "Not measured: bad: " in result.stderr


def test_options_of_single_metrics(photo: Path, tmp_path: Path) -> None:
    options = ("--metrics", "psnr,ssim", "--metric-option", "psnr.channel=rgb", "--metric-option", "psnr.crop=3")
    result = evaluate(photo, *options, "--json", tmp_path / "figures.json")
    assert result.exit_code == 0, result.output
    settings = json.loads((tmp_path / "figures.json").read_text())["settings"]
    assert settings["psnr (channel=rgb, crop=3)"].startswith("on RGB")
    assert settings["ssim"].startswith("on Y")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("channel=rgb", "write METRIC.KEY=VALUE, for instance psnr.channel=rgb."),
        ("lpips.crop=3", "There are options for the metric 'lpips', which is not chosen: psnr, ssim are."),
        ("psnr.crop=-3", "The crop is -3: it must be 0 or more pixels."),
        ("psnr.chanel=y", "chanel"),
    ],
)
def test_wrong_options_of_metrics_are_told(photo: Path, option: str, words: str) -> None:
    result = evaluate(photo, "--metric-option", option)
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_device_that_is_not_there_is_wrong_use(photo: Path) -> None:
    result = evaluate(photo, "--device", "cudaa")
    assert result.exit_code == 2
    assert "There is no device 'cudaa'. Did you mean 'cuda'? Known: cpu, cuda, mps, xpu." in result.stderr
